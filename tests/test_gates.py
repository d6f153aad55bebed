"""Which squeeze-excites are ours, and which are torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from depthwise import backend
from depthwise.backends.cpu import machine
from depthwise.blocks import SqueezeExcite
from depthwise.gates import squeeze_excite
from tests.layers.test_turns import image, nodes

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")


def never(means: Tensor) -> Tensor:
    raise AssertionError(f"asked for factors of {means.shape}")


@pytest.mark.parametrize(
    "x",
    [
        "no tensor",
        torch.ones(2, 8, 5),
        torch.ones(2, 8, 5, 5),
        image(2, 8, 5, 5).double(),
        image(1, 8, 1, 1),
        image(0, 8, 5, 5),
        torch.ones(2, 8, 5, 5, device="meta").contiguous(memory_format=torch.channels_last),
    ],
    ids=["object", "sequence", "contiguous", "float64", "pixel", "none", "meta"],
)
def test_what_is_torchs(x: Any) -> None:
    assert squeeze_excite(x, never) is None


def test_where_something_listens_it_is_torchs() -> None:
    x = image(2, 8, 5, 5)
    with backend("eager"):
        assert squeeze_excite(x, never) is None
    with torch.autocast("cpu"):
        assert squeeze_excite(x, never) is None
    seen = []
    torch.func.vmap(lambda one: seen.append(squeeze_excite(one, never)) or one)(x[None])  # type: ignore[func-returns-value]
    assert seen == [None]


def test_the_block() -> None:
    torch.manual_seed(0)
    block, x = SqueezeExcite(8, 4), image(2, 8, 5, 5).requires_grad_()
    out = block(x)
    assert "_Excited" in nodes(out)
    with backend("eager"):
        expected = block(x)
    assert "_Excited" not in nodes(expected)
    torch.testing.assert_close(out, expected)
    leaves = [x, *block.parameters()]
    gradients = [torch.autograd.grad(each.square().sum(), leaves, retain_graph=True) for each in (out, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    again = checkpoint(block, x, use_reentrant=False)
    assert torch.equal(again, out)
    for mine, same in zip(gradients[0], torch.autograd.grad(again.square().sum(), leaves), strict=True):
        assert torch.equal(mine, same)
