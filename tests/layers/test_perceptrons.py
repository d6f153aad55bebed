"""Linear layers of images whose channels come last, on our kernels where autograd records them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthwise import backend
from depthwise.backends.cpu import machine
from depthwise.blocks import ConvNeXtBlock
from depthwise.layers.perceptrons import activated, linear, scaled
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


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("added", [True, False])
def test_scale_and_sum_within_the_product(bias: bool, added: bool) -> None:
    torch.manual_seed(0)
    layer, scale = nn.Linear(12, 20, bias=bias), torch.randn(20).requires_grad_()
    x = torch.randn(2, 5, 7, 12).requires_grad_()
    images = torch.randn(2, 20, 5, 7).contiguous(memory_format=torch.channels_last).requires_grad_()
    out, wanted = scaled(layer, x, scale, images if added else None), (scale * layer(x)).movedim(-1, 1)
    wanted = wanted + images if added else wanted
    assert out.stride() == wanted.stride()
    assert "_Recorded" in nodes(out)
    assert "AddBackward0" not in nodes(out)
    torch.testing.assert_close(out, wanted)
    read = [x, scale, *layer.parameters(), *([images] if added else [])]
    weights = torch.randn_like(out)
    for mine, other in zip(*(torch.autograd.grad(y, read, weights) for y in (out, wanted)), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


def test_the_scales_gradient_is_no_less_exact_than_torchs() -> None:
    torch.manual_seed(0)
    block = ConvNeXtBlock(32, layer_scale=1e-6)
    x = torch.randn(4, 32, 14, 14).contiguous(memory_format=torch.channels_last)

    def gradient(block: nn.Module, x: Tensor) -> Tensor:
        torch.manual_seed(1)
        out = block(x)
        return torch.autograd.grad(out, block.scale, torch.randn(out.shape).to(out))[0]  # type: ignore[arg-type]

    mine = gradient(block, x)
    with backend("eager"):
        torchs = gradient(block, x)
    exact = gradient(block.double(), x.double())
    assert (mine - exact).abs().max() <= 2 * (torchs - exact).abs().max()


def test_images_of_other_sizes_are_not_read() -> None:
    layer, scale, x = nn.Linear(4, 6), torch.ones(6), torch.randn(2, 3, 3, 4)
    for images in (torch.ones(1, 6, 1, 1), torch.ones(2, 6, 3, 3, dtype=torch.float64), torch.ones(2, 6, 3, 3).mT):
        torch.testing.assert_close(scaled(layer, x, scale, images), images + layer(x).movedim(-1, 1))
    with pytest.raises(RuntimeError, match="size"):
        scaled(layer, x, scale, torch.ones(2, 6, 3, 4))


def test_compiled_whole() -> None:
    torch.manual_seed(0)
    block, x = ConvNeXtBlock(8), torch.randn(1, 8, 5, 5)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), block(x), atol=1e-5, rtol=1e-4)
