"""Networks of timm, optimized, give what they gave; `make test-slow` asks it of all 77."""

from __future__ import annotations

import pytest
import torch
import torch.utils._pytree as pytree

from depthwise import optimize
from tests.support.networks import timm_model
from tests.support.whole import SIZES, difference, randomised, real_model

# How many convolutions run on our kernels, and how many are left of them all.
QUICK = {
    "lcnet_050": (32, 32),
    "repvgg_a0": (22, 22),
}


@pytest.mark.parametrize("name", QUICK)
def test_a_network_matches(name: str) -> None:
    model = real_model(name)
    found = optimize(model, torch.zeros(1, 3, 64, 64))
    assert difference(found, model, torch.randn(3, 3, SIZES.get(name, 64), 96)) <= 1
    assert found.report.convolutions == QUICK[name]


def test_lists_of_feature_maps() -> None:
    timm_model("resnet18")
    import timm

    torch.manual_seed(0)
    model = randomised(timm.create_model("mobilenetv3_small_050", features_only=True))
    found = optimize(model, torch.zeros(1, 3, 64, 64))
    x = torch.randn(2, 3, 64, 96)
    assert difference(found, model, x) <= 1
    maps = found(x)
    assert isinstance(maps, list)
    with torch.no_grad():
        expected = model(x)
    assert [m.stride() for m in pytree.tree_leaves(maps)] == [m.stride() for m in expected]
