"""The blocks: shapes, what their papers say they hold, training, export-friendly copies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from depthwise import DepthwiseError, blocks
from depthwise.blocks import (
    BlueprintConv1d,
    BlueprintConv2d,
    BlueprintConv3d,
    ConvNeXtBlock,
    InvertedResidual,
    MobileNetV1Block,
    SqueezeExcite,
    XceptionBlock,
)

X = torch.randn(2, 8, 9, 10)
BLOCKS: list[tuple[Any, tuple[int, ...]]] = [
    (lambda **to: MobileNetV1Block(8, 12, 2, **to), (2, 12, 5, 5)),
    (lambda **to: InvertedResidual(8, 8, **to), (2, 8, 9, 10)),
    (lambda **to: InvertedResidual(8, 12, 5, 2, 3, 4, nn.Hardswish, **to), (2, 12, 5, 5)),
    (lambda **to: InvertedResidual(8, 12, expansion=1, **to), (2, 12, 9, 10)),
    (lambda **to: BlueprintConv2d(8, 12, 3, 2, 1, pointwise_norm=nn.BatchNorm2d, **to), (2, 12, 5, 5)),
    (lambda **to: XceptionBlock(8, 12, 2, **to), (2, 12, 5, 5)),
    (lambda **to: XceptionBlock(8, 8, **to), (2, 8, 9, 10)),
    (lambda **to: ConvNeXtBlock(8, **to), (2, 8, 9, 10)),
    (lambda **to: SqueezeExcite(8, 2, **to), (2, 8, 9, 10)),
]


@pytest.mark.parametrize(("make", "shape"), BLOCKS)
def test_shapes_training_and_copies(make: Any, shape: tuple[int, ...]) -> None:
    block = make()
    out = block(X)
    assert out.shape == shape
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())
    block.eval()
    assert torch.equal(copy.deepcopy(block)(X), block(X))
    again = make()
    again.load_state_dict(block.state_dict())
    assert torch.equal(again.eval()(X), block(X))


@pytest.mark.parametrize(("make", "shape"), BLOCKS)
def test_device_and_dtype_reach_every_part(make: Any, shape: tuple[int, ...]) -> None:
    block = make(device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in block.parameters()} == {("meta", torch.bfloat16)}
    assert block(X.to("meta", torch.bfloat16)).shape == shape


def test_every_block_cites_its_paper() -> None:
    for name, block in vars(blocks).items():
        if isinstance(block, type) and issubclass(block, nn.Module) and block.__module__ == blocks.__name__:
            assert "arXiv" in (block.__doc__ or ""), name


def order(module: nn.Module) -> list[str]:
    return [type(child).__name__ for child in module.modules() if not list(child.children())]


def test_mobilenet_v1() -> None:
    pair = ["Conv2d", "BatchNorm2d", "ReLU6"]
    assert order(MobileNetV1Block(8, 12)) == ["DepthwiseConv2d", *pair[1:], *pair]


def test_mobilenet_v2_adds_its_input_and_ends_linear() -> None:
    block = InvertedResidual(8, 8).eval()
    assert order(block)[-2:] == ["Conv2d", "BatchNorm2d"]
    assert block.separable.in_channels == 48
    assert isinstance(block.expand, nn.Sequential)
    torch.testing.assert_close(block(X), X + block.separable(block.expand(X)))
    assert InvertedResidual(8, 12).adds_input is False
    assert InvertedResidual(8, 8, stride=2).adds_input is False
    assert InvertedResidual(8, 8, expansion=1).expand is None


def test_mobilenet_v3_squeezes_between_depthwise_and_projection() -> None:
    block = InvertedResidual(8, 8, squeeze_channels=4, activation=nn.Hardswish)
    squeeze = ["Conv2d", "ReLU", "Conv2d", "Hardsigmoid"]
    expected = ["Conv2d", "BatchNorm2d", "Hardswish", "DepthwiseConv2d", "BatchNorm2d", "Hardswish", *squeeze]
    assert order(block) == [*expected, "Conv2d", "BatchNorm2d"]


def test_squeeze_excite_scales_channels() -> None:
    block = SqueezeExcite(8, 2)
    ratio = block(X) / X
    torch.testing.assert_close(ratio, ratio.mean((2, 3), keepdim=True).expand_as(ratio))
    assert bool((ratio >= 0).all())
    assert bool((ratio <= 1).all())


def test_a_blueprint_filter_is_a_scaled_copy_per_channel() -> None:
    block = BlueprintConv2d(3, 5, 3, padding=1, bias=False)
    dense = block.pointwise.weight * block.depthwise.weight
    x = torch.randn(2, 3, 7, 7)
    torch.testing.assert_close(block(x), nn.functional.conv2d(x, dense, padding=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "circular"])
@pytest.mark.parametrize(
    ("block_class", "size"), [(BlueprintConv1d, (9,)), (BlueprintConv2d, (9, 8)), (BlueprintConv3d, (5, 6, 7))]
)
def test_a_blueprint_is_a_dense_convolution(block_class: Any, size: tuple[int, ...], padding_mode: str) -> None:
    block = block_class(4, 6, 3, 2, 1, 1, 2, padding_mode=padding_mode, dtype=torch.float64)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    torch.testing.assert_close(block.to_dense()(x), block(x), rtol=1e-11, atol=1e-11)


def test_what_of_a_blueprint_has_no_dense_equivalent() -> None:
    with pytest.raises(DepthwiseError, match="a norm between pointwise and depthwise shifts all but the padding"):
        BlueprintConv2d(4, 6, 3, pointwise_norm=nn.BatchNorm2d).to_dense()
    with pytest.raises(DepthwiseError, match=r"no padding='same' with stride=\(2, 2\); pad the input yourself"):
        BlueprintConv2d(4, 6, 3, 2, "same").to_dense()


def test_xception_activates_before_each_separable_convolution() -> None:
    step = ["ReLU", "DepthwiseConv2d", "Conv2d", "BatchNorm2d"]
    assert order(XceptionBlock(8, 8, repeats=2)) == [*step, *step, "Identity"]


def test_sizes_are_checked() -> None:
    with pytest.raises(DepthwiseError, match="squeeze_channels must be at least 1; got 0"):
        SqueezeExcite(8, 0)
    with pytest.raises(DepthwiseError, match="out_channels=9 is not divisible by groups=2"):
        BlueprintConv2d(8, 9, 3, groups=2)
    with pytest.raises(DepthwiseError, match="pointwise_norm must be a callable"):
        BlueprintConv2d(8, 8, 3, pointwise_norm=3)  # type: ignore[arg-type]
    assert InvertedResidual(8, 8, (3, 5), (1, 1)).adds_input
    assert InvertedResidual(8, 8, (3, 5), (1, 1))(X).shape == X.shape


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InvertedResidual(8, 8, 4), r"kernel_size must be odd here, .*; got \(4, 4\)"),
        (lambda: ConvNeXtBlock(8, (7, 2)), r"kernel_size must be odd here, .*; got \(7, 2\)"),
        (lambda: InvertedResidual(8, 8, expansion=float("nan")), "expansion must be a finite number; got nan"),
        (lambda: ConvNeXtBlock(8, layer_scale=None), "layer_scale must be a finite number; got None"),  # type: ignore[arg-type]
        (lambda: SqueezeExcite(8, 2, activation=None), "activation must be a callable .*; got None"),  # type: ignore[arg-type]
        (lambda: XceptionBlock(8, 8, 2**31), r"stride must be below 2\*\*31, which torch's pooling takes; got"),
        (lambda: InvertedResidual(4, 4)(X), "the layer has in_channels=4; the input has 8 channels"),
        (lambda: BlueprintConv2d(4, 4, 3)(X), "the layer has in_channels=4; the input has 8 channels"),
        (lambda: XceptionBlock(4, 4)(X), "the layer has in_channels=4; the input has 8 channels"),
        (lambda: SqueezeExcite(4, 4)(X), "the layer has in_channels=4; the input has 8 channels"),
    ],
)
def test_arguments_are_checked(make: Callable[[], object], message: str) -> None:
    with pytest.raises(DepthwiseError, match=message):
        make()


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (MobileNetV1Block(8, 12, 2), (8, 12, (3, 3), (2, 2))),
        (InvertedResidual(8, 12, 5, 2), (8, 12, (5, 5), (2, 2))),
        (XceptionBlock(8, 12, (2, 1)), (8, 12, (3, 3), (2, 1))),
        (ConvNeXtBlock(8), (8, 8, (7, 7), (1, 1))),
        (BlueprintConv2d(8, 12, 3, 2), (8, 12, (3, 3), (2, 2))),
    ],
)
def test_the_attributes_of_a_convolution(block: Any, expected: tuple[Any, ...]) -> None:
    assert (block.in_channels, block.out_channels, block.kernel_size, block.stride) == expected
    same = tuple(k // 2 for k in block.kernel_size) if type(block) is not BlueprintConv2d else (0, 0)
    assert (block.padding, block.dilation) == (same, (1, 1))


def test_all_attributes_of_a_blueprint() -> None:
    block = BlueprintConv2d(8, 12, 3, 2, ((1, 0), (0, 1)), 2, 4, padding_mode="replicate")
    assert (block.padding, block.dilation, block.groups) == (((1, 0), (0, 1)), (2, 2), 4)
    assert block.padding_mode == "replicate"


class Other(BlueprintConv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 1


def test_what_of_a_blueprint_cannot_be_read() -> None:
    biased = BlueprintConv2d(4, 6, 3)
    biased.pointwise = nn.Conv2d(4, 6, 1)
    with pytest.raises(DepthwiseError, match="a bias before the depthwise convolution does not reach its padding"):
        biased.to_dense()
    with pytest.raises(DepthwiseError, match="what this Other computes: a Other computes something else"):
        Other(4, 6, 3).to_dense()
    hooked = BlueprintConv2d(4, 6, 3)
    hooked.pointwise.register_forward_hook(lambda *_: None)
    with pytest.raises(DepthwiseError, match=r"what the pointwise part, .*, computes: it has hooks"):
        hooked.to_dense()


def test_xception_leaves_its_input_alone() -> None:
    before = X.clone()
    XceptionBlock(8, 8)(X)
    assert torch.equal(X, before)


def test_convnext_starts_as_the_identity() -> None:
    assert ConvNeXtBlock(8).norm.eps == 1e-6

    def distance(scale: float) -> float:
        return float((ConvNeXtBlock(8, layer_scale=scale)(X) - X).abs().max().detach())

    assert distance(1e-6) < 1e-4
    assert distance(1.0) > 1e-2
