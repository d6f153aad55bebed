"""`SeparableConvTranspose*` against torch's transposed convolutions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import depthwise
from depthwise import (
    DepthwiseError,
    SeparableConvTranspose1d,
    SeparableConvTranspose2d,
    SeparableConvTranspose3d,
    count,
)

LAYERS: dict[int, Any] = {1: SeparableConvTranspose1d, 2: SeparableConvTranspose2d, 3: SeparableConvTranspose3d}
TORCH: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_it_is_one_dense_transposed_convolution(rank: int, groups: int) -> None:
    arguments: Any = (4, 6, 3, 2, 1, 1, groups)
    layer, dense = LAYERS[rank](*arguments, depth_multiplier=2).double(), TORCH[rank](*arguments).double()
    filters = layer.depthwise.weight.reshape(groups, 4 // groups, 2, -1)
    mixing = layer.pointwise.weight.reshape(groups, 6 // groups, 4 // groups, 2)
    kernel = torch.einsum("gocm,gcmk->gcok", mixing, filters)
    dense.weight = nn.Parameter(kernel.reshape(dense.weight.shape))
    dense.bias = layer.pointwise.bias
    x = torch.randn(2, 4, *(5,) * rank, dtype=torch.float64)
    torch.testing.assert_close(layer(x), dense(x))
    torch.testing.assert_close(layer(x[0]), dense(x)[0])
    size = [10] * rank
    torch.testing.assert_close(layer(x, output_size=size), dense(x, output_size=size))


def test_parts_biases_and_training() -> None:
    layer = SeparableConvTranspose2d(
        4, 6, 4, 2, 1, depthwise_norm=nn.BatchNorm2d, depthwise_activation=nn.ReLU6, pointwise_activation=nn.ReLU
    )
    names = [name for name, _ in layer.named_children()]
    assert names == ["depthwise", "depthwise_norm", "depthwise_activation", "pointwise", "pointwise_activation"]
    assert layer.depthwise.bias is None
    assert SeparableConvTranspose2d(4, 6, 4, depthwise_activation=nn.ReLU).depthwise.bias is not None
    layer(torch.randn(2, 4, 5, 5)).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    assert list(SeparableConvTranspose2d(4, 6, 3).state_dict()) == [
        "depthwise.weight",
        "pointwise.weight",
        "pointwise.bias",
    ]


def test_it_is_counted_and_exported() -> None:
    layer = SeparableConvTranspose2d(4, 6, 4, 2, 1).eval()
    kinds = [row.kind for row in count(layer, (4, 5, 5)).rows]
    assert kinds == ["depthwise transposed convolution", "pointwise convolution"]
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "in_channels must be at least 1; got 0"),
        ({"padding": -1}, "padding must be at least 0; got -1"),
        ({"padding": "same"}, "padding must be an integer; got 'same'"),
        ({"output_padding": 1}, r"output_padding must be smaller than the stride or the dilation; got \(1, 1\)"),
        ({"padding_mode": "reflect"}, "pads with zeros alone; got padding_mode='reflect'"),
        ({"groups": 3}, "in_channels=4 is not divisible by groups=3"),
        ({"bias": "yes"}, "bias is True or False; got 'yes'"),
        ({"in_channels": 2**60}, "the weight would have the sizes"),
    ],
)
def test_errors(arguments: dict[str, Any], message: str) -> None:
    valid: dict[str, Any] = {"in_channels": 4, "out_channels": 6, "kernel_size": 3}
    with pytest.raises(DepthwiseError, match=message):
        SeparableConvTranspose2d(**(valid | arguments))
    with pytest.raises(DepthwiseError, match="the layer has in_channels=4; the input has 5 channels"):
        SeparableConvTranspose2d(**valid)(torch.zeros(1, 5, 9, 9))


def test_they_stand_at_the_top() -> None:
    assert {layer.__name__ for layer in LAYERS.values()} <= set(depthwise.__all__)
