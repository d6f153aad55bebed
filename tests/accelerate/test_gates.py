"""Squeeze-excites of timm and torchvision, accelerated."""

from __future__ import annotations

import copy
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthwise import accelerate_, restore_
from depthwise.backends.cpu import machine
from tests.layers.test_turns import image, nodes
from tests.support.networks import timm_model

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")
NAMES = ("timm", "torchvision")


def made(name: str) -> Any:
    timm_model("mobilenetv2_100")
    torch.manual_seed(0)
    if name == "timm":
        from timm.models._efficientnet_blocks import SqueezeExcite

        return SqueezeExcite(16, rd_channels=4, act_layer=nn.SiLU)
    return import_module("torchvision.ops.misc").SqueezeExcitation(16, 4, nn.SiLU)


@pytest.mark.parametrize("name", NAMES)
def test_they_train_as_before(name: str) -> None:
    model = made(name)
    theirs, kind = copy.deepcopy(model), type(model)
    assert accelerate_(model).summary == "1 squeeze-excite, 2 pointwise; 0 left as they were"
    x = image(3, 16, 7, 6)
    given = [x.clone().requires_grad_() for _ in range(2)]
    outs = [each(one) for each, one in zip((model, theirs), given, strict=True)]
    assert "_Excited" in nodes(outs[0])
    torch.testing.assert_close(*outs)
    dy = image(3, 16, 7, 6)
    for out in outs:
        out.backward(dy)
    torch.testing.assert_close(given[0].grad, given[1].grad)
    for mine, other in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4)
    assert restore_(model) == 3
    assert type(model) is kind


@pytest.mark.parametrize("name", NAMES)
def test_hooks_on_the_parts_still_run(name: str) -> None:
    model, seen = made(name), []
    accelerate_(model)
    parts = [part for _, part in model.named_children()]
    for part in parts:
        part.register_forward_hook(lambda module, *_: seen.append(module))
    out = model(image(2, 16, 7, 6).requires_grad_())
    assert set(map(id, seen)) == set(map(id, parts))
    # A pool that a hook sees is called.
    assert ("_Excited" in nodes(out)) is (name == "timm")


@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_step(name: str) -> None:
    model = made(name)
    accelerate_(model)
    x, graphs = image(2, 16, 7, 6), []

    def kept(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled: Any = torch.compile(model, backend=kept)
    torch.testing.assert_close(compiled(x), model(x))
    assert len(graphs) == 1


def test_a_pool_of_another_size_is_torchs() -> None:
    model = made("torchvision")
    accelerate_(model)
    model.avgpool = nn.AdaptiveAvgPool2d((1, None))
    x: Tensor = image(2, 16, 7, 6).requires_grad_()
    assert "_Excited" not in nodes(model(x))


def test_a_forward_of_its_own_stays() -> None:
    model = made("timm")
    model.forward = model.forward
    assert [row.reason for row in accelerate_(model).left] == ["has a forward of its own"]
