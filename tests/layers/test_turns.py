"""Modules in turn: batch norms in training mode with their activations, beside torch's own calls of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthwise import SeparableConv2d, backend
from depthwise.backends.cpu import machine
from depthwise.blocks import BlueprintConv2d, InvertedResidual, MobileNetV1Block, XceptionBlock
from depthwise.layers.turns import in_turn, normalized
from depthwise.norms import batch_norm, norm_refusal

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")
LAST = torch.channels_last


def image(*size: int) -> Tensor:
    return torch.randn(size).contiguous(memory_format=LAST)


def nodes(out: Tensor) -> str:
    """The names of the operators behind a result."""
    seen, waiting = set(), [out.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return " ".join(sorted(node.name() for node in seen))


def has_passes(out: Tensor) -> bool:
    """Whether a pass of ours over a batch norm is behind a result, with convolutions in it or alone."""
    return any(name in nodes(out) for name in ("NormActivation", "_Chain"))


def assert_same(model: nn.Module, x: Tensor, *, fused: bool = True) -> None:
    """Result, gradients and state as on torch's operators, within rounding; fused: a pass of ours was among it."""
    theirs = copy.deepcopy(model)
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    out = model(mine)
    with backend("eager"):
        expected = theirs(other)
    assert has_passes(out) is fused
    assert not has_passes(expected)
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=1e-4)
    dy = torch.randn_like(out)
    out.backward(dy)
    expected.backward(dy)
    torch.testing.assert_close(mine.grad, other.grad, atol=1e-4, rtol=1e-3)
    for (name, a), (_, b) in zip(model.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-3, msg=name)
    for (name, c), (_, d) in zip(model.named_buffers(), theirs.named_buffers(), strict=True):
        torch.testing.assert_close(c, d, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize(
    "layer",
    [
        MobileNetV1Block(8, 12),
        InvertedResidual(8, 8),
        InvertedResidual(8, 8, squeeze_channels=4, activation=nn.Hardswish),
        XceptionBlock(8, 12, stride=2, repeats=2),
        BlueprintConv2d(8, 12, 3, pointwise_norm=nn.BatchNorm2d),
        SeparableConv2d(8, 12, 3, pointwise_norm=nn.BatchNorm2d, pointwise_activation=nn.SiLU),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_and_blocks_in_training_mode(layer: nn.Module) -> None:
    assert_same(copy.deepcopy(layer), image(4, 8, 9, 9))


@pytest.mark.parametrize("block", [MobileNetV1Block(8, 12), InvertedResidual(8, 12), BlueprintConv2d(8, 12, 3)])
def test_every_convolution_of_a_block_in_training_is_ours(block: nn.Module) -> None:
    block, x = copy.deepcopy(block), image(4, 8, 9, 9)
    assert "Convolution" not in nodes(block(x))
    names: list[str] = []

    def compiler(graph: torch.fx.GraphModule, _: Any) -> Any:
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(block, backend=compiler)(x), block(x), atol=1e-4, rtol=1e-3)
    assert not any(name.endswith("conv2d") and "torch" in name for name in names), names


def test_convolutions_that_are_not_pointwise_are_torchs() -> None:
    window = {"stride": 2}, {"padding": 1}, {"padding": 1, "padding_mode": "circular"}, {"kernel_size": 2}
    for options in window:
        conv = nn.Conv2d(4, 9, **{"kernel_size": 1, **options})  # type: ignore[arg-type]
        assert "Convolution" in nodes(in_turn([conv], image(2, 4, 5, 5)))
        assert_same(Turns(conv, nn.BatchNorm2d(9), nn.ReLU()), image(2, 4, 5, 5))
    same = nn.Conv2d(4, 9, 1, padding="same")
    assert "Convolution" not in nodes(in_turn([same], image(2, 4, 5, 5)))
    assert in_turn([nn.Conv2d(4, 9, 1)], torch.randn(4, 5, 5)).shape == (9, 5, 5)
    complex_one = nn.Conv2d(4, 9, 1, dtype=torch.complex64)
    assert in_turn([complex_one], torch.randn(2, 4, 5, 5, dtype=torch.complex64)).is_complex()


class Turns(nn.Module):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return in_turn(self.parts, x)


@pytest.mark.parametrize(
    "activation",
    [
        *(nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(inplace=True), nn.SiLU(), nn.Hardswish(), nn.GELU(), nn.Sigmoid()),
        *(nn.LeakyReLU(0.2), nn.ELU(), nn.Hardsigmoid(), nn.Identity(), nn.Tanh(), nn.GELU(approximate="tanh")),
    ],
    ids=str,
)
def test_every_activation(activation: nn.Module) -> None:
    assert_same(Turns(nn.Conv2d(4, 9, 1), nn.BatchNorm2d(9, eps=1e-3, momentum=0.3), activation), image(3, 4, 5, 5))


def test_volumes_and_norms_without_weights_or_statistics() -> None:
    x = torch.randn(2, 4, 3, 4, 5).contiguous(memory_format=torch.channels_last_3d)
    assert_same(Turns(nn.BatchNorm3d(4), nn.ReLU()), x)
    assert_same(Turns(nn.BatchNorm3d(4), nn.ReLU()), x.contiguous())
    assert_same(Turns(nn.BatchNorm2d(4), nn.ReLU()), image(2, 4, 5, 5).contiguous())
    assert_same(Turns(nn.BatchNorm2d(4, affine=False), nn.ReLU()), image(2, 4, 5, 5))
    assert_same(Turns(nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()), image(2, 4, 5, 5))
    assert_same(Turns(nn.BatchNorm2d(4), nn.BatchNorm2d(4)), image(2, 4, 5, 5))
    assert_same(Turns(nn.Sequential(nn.BatchNorm2d(4), nn.Sequential(nn.ReLU()))), image(2, 4, 5, 5))


def frozen(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    return norm.eval()


def test_what_torch_computes() -> None:
    x = image(2, 4, 5, 5)
    for norm in (frozen(nn.BatchNorm2d(4)), nn.BatchNorm2d(4, momentum=None), nn.GroupNorm(2, 4)):
        assert_same(Turns(norm, nn.ReLU()), x, fused=False)
    assert_same(Turns(nn.BatchNorm2d(4).double(), nn.ReLU()), x.double(), fused=False)
    assert_same(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), x, fused=False)
    assert normalized(nn.BatchNorm2d(4), image(1, 4, 1, 1)) is None
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        in_turn([nn.BatchNorm2d(4)], image(1, 4, 1, 1))
    with pytest.raises(ValueError, match="expected 4D input"):
        in_turn([nn.BatchNorm2d(4)], torch.randn(2, 4, 5, 5, 5))


def test_hooks_see_every_part() -> None:
    seen: list[str] = []
    for watched in (0, 1):
        turns = Turns(nn.BatchNorm2d(4), nn.ReLU())
        turns.parts[watched].register_forward_hook(lambda *_: seen.append("seen"))
        assert_same(turns, image(2, 4, 5, 5), fused=watched == 1)
    assert len(seen) == 4
    seen.clear()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: seen.append("seen"))
    try:
        Turns(nn.BatchNorm2d(4), nn.ReLU())(image(2, 4, 5, 5))
    finally:
        handle.remove()
    assert len(seen) == 3


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
def test_numbers_of_other_shapes_are_torchs(name: str) -> None:
    outcomes = []
    for fused in (False, True):
        norm: Any = nn.BatchNorm2d(4)
        value = torch.full((8,), 0.5)[::2]
        setattr(norm, name, nn.Parameter(value) if name in ("weight", "bias") else value)
        torch.manual_seed(0)
        x = image(2, 4, 5, 5)
        outcomes.append(
            (in_turn([norm, nn.ReLU()], x) if fused else norm(x).relu(), norm.running_mean, norm.running_var)
        )
    torch.testing.assert_close(*outcomes)


def test_frozen_parameters() -> None:
    turns: Any = Turns(nn.BatchNorm2d(4), nn.ReLU())
    turns.parts[0].weight.requires_grad_(False)
    turns.parts[0].bias.requires_grad_(False)
    out = turns(image(2, 4, 5, 5).requires_grad_())
    out.sum().backward()
    assert turns.parts[0].weight.grad is None


def test_why_torch_computes_is_told() -> None:
    x, ones = image(2, 4, 5, 5), torch.ones(4)
    assert norm_refusal(x, (ones, ones), ones, ones, x) is None
    assert norm_refusal(x.contiguous(), (ones, ones), ones, ones, None) is None
    assert norm_refusal(x[..., ::2], None, None, None, None) == "the input is neither channels-last nor contiguous"
    assert norm_refusal(image(1, 4, 1, 1), None, None, None, None) == "there is one pixel"
    assert norm_refusal(x, None, None, None, x.contiguous()) == "the residual does not lie as the input does"
    assert norm_refusal(x, None, torch.ones(3), None, None) == "a weight or a statistic is not one number a channel"
    for odd in (
        torch.ones(()),
        torch.ones(1),
        torch.ones(1, 1),
        torch.ones(4, 1),
        torch.ones(8)[::2],
        ones[:1].expand(4),
    ):
        for running, weight, bias in (
            *((None, odd, None), (None, None, odd)),
            *(((odd, ones), None, None), ((ones, odd), None, None)),
        ):
            told = norm_refusal(x, running, weight, bias, None)
            assert told == "a weight or a statistic is not one number a channel"
    told = norm_refusal(x, None, ones.double(), None, None)
    assert told == "a tensor is torch.float64 on cpu, not torch.float32 on cpu"
    assert norm_refusal(x._neg_view(), None, None, None, None) == "a tensor is a view that negates"
    with backend("eager"):
        assert norm_refusal(x, None, None, None, None) == "another backend is asked for"
    with torch.autocast("cpu"):
        assert norm_refusal(x, None, None, None, None) == "something sees or rewrites operators"
    assert batch_norm(x[..., ::2], None, None, None, 0.1, 1e-5) is None
