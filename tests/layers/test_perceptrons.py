"""Linear layers of images whose channels come last, on our kernels where autograd records them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthwise import backend
from depthwise.backends.cpu import machine
from depthwise.blocks import ConvNeXtBlock
from depthwise.layers.perceptrons import activated, linear
from tests.layers.test_turns import nodes

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")


def gradients(block: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    given = x.clone(memory_format=torch.preserve_format).requires_grad_()
    out = block(given)
    return out, list(torch.autograd.grad(out, [given, *block.parameters()], torch.ones_like(out)))


@pytest.mark.parametrize("form", [torch.channels_last, torch.contiguous_format], ids=str)
def test_a_convnext_block_trains_on_our_kernels_alone(form: Any) -> None:
    torch.manual_seed(0)
    block, x = ConvNeXtBlock(8, layer_scale=0.5), torch.randn(2, 8, 9, 10).contiguous(memory_format=form)
    out, found = gradients(block, x)
    with backend("eager"):
        wanted, best = gradients(block, x)
    for name, is_ours in (
        ("_Recorded", True),
        ("_Activation", True),
        ("AddmmBackward0", False),
        ("GeluBackward0", False),
    ):
        assert (name in nodes(out)) is is_ours, name
        assert (name in nodes(wanted)) is not is_ours, name
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-4)
    for mine, other in zip(found, best, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


def test_hooks_see_what_they_saw() -> None:
    block, seen = ConvNeXtBlock(8), []
    block.expand.register_forward_hook(lambda *_: seen.append("expand"))
    block.activation.register_forward_hook(lambda *_: seen.append("activation"))
    block(torch.randn(1, 8, 5, 5))
    assert seen == ["expand", "activation"]


def test_what_is_no_image_or_not_recorded_is_torchs() -> None:
    layer, gelu = nn.Linear(4, 6), nn.GELU()
    assert "AddmmBackward0" in nodes(linear(layer, torch.randn(3, 4)))
    assert "_Recorded" in nodes(linear(layer, torch.randn(2, 3, 3, 4)))
    with torch.no_grad():
        x = torch.randn(2, 3, 3, 4)
        assert torch.equal(linear(layer, x), layer(x))
    tanh = nn.Tanh()
    assert torch.equal(activated(tanh, x), tanh(x))
    torch.testing.assert_close(activated(gelu, x), gelu(x))


def test_compiled_whole() -> None:
    torch.manual_seed(0)
    block, x = ConvNeXtBlock(8), torch.randn(1, 8, 5, 5)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), block(x), atol=1e-5, rtol=1e-4)
