"""`DepthwiseConv*` against torch's grouped convolutions and the definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from torch import nn
from torch.nn import functional as F

import depthwise
from depthwise import DepthwiseConv1d, DepthwiseConv2d, DepthwiseConv3d, DepthwiseError, reference
from depthwise.geometry import geometry, padding_pairs
from tests.support.cases import Case, assert_bit_equal, cases, small_integers

LAYERS: dict[int, Any] = {1: DepthwiseConv1d, 2: DepthwiseConv2d, 3: DepthwiseConv3d}
TORCH: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@given(case=cases())
def test_bit_equal_to_the_definition(case: Case) -> None:
    x, weight, _, _ = case.tensors(small_integers(1))
    layer = LAYERS[case.rank](
        case.in_channels, case.kernel_size, bias=False, depth_multiplier=case.depth_multiplier, **case.window
    )
    layer.load_state_dict({"weight": weight})
    assert_bit_equal(layer(x), reference.depthwise_conv(x, weight, None, **case.window))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_it_is_torchs_convolution(rank: int) -> None:
    torch.manual_seed(5)
    ours = LAYERS[rank](6, 3, 2, 1, 2, depth_multiplier=2)
    torch.manual_seed(5)
    theirs = TORCH[rank](6, 12, 3, 2, 1, 2, 6)
    assert isinstance(ours, TORCH[rank])
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
        assert getattr(ours, name) == getattr(theirs, name)
    x = torch.randn(2, 6, *(9,) * rank)
    with depthwise.backend("eager"):
        assert_bit_equal(ours(x), theirs(x))
    assert ours.depth_multiplier == 2


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_padding_modes_are_torchs(rank: int, mode: str) -> None:
    ours = LAYERS[rank](4, 3, 1, 2, 2, padding_mode=mode)
    theirs = TORCH[rank](4, 4, 3, 1, 2, 2, 4, padding_mode=mode)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, *(7,) * rank)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", ["same", ((2, 0), (0, 1))])
def test_padding_modes_with_what_torch_does_not_know(mode: str, padding: Any) -> None:
    layer = DepthwiseConv2d(4, 3, 2, padding, padding_mode=mode)
    x = torch.randn(2, 4, 8, 7)
    (top, bottom), (left, right) = padding_pairs(padding, (8, 7), (3, 3), (2, 2), (1, 1))
    padded = F.pad(x, (left, right, top, bottom), mode="constant" if mode == "zeros" else mode)
    torch.testing.assert_close(layer(x), F.conv2d(padded, layer.weight, layer.bias, 2, groups=4))


def test_causal() -> None:
    layer = DepthwiseConv1d(2, 4, padding=((3, 0),))
    x = torch.randn(1, 2, 10)
    later = x.clone()
    later[..., 6:] += 1
    assert torch.equal(layer(x)[..., :6], layer(later)[..., :6])
    assert layer(x).shape == x.shape


def test_initialisation_has_the_kernel_area_as_fan_in() -> None:
    weight = DepthwiseConv2d(4096, 5).weight
    # torch's default for convolutions: uniform within 1 / sqrt(fan_in)
    assert weight.abs().max() <= 1 / 5
    assert weight.abs().max() > 0.99 / 5


@pytest.mark.parametrize(
    "layer",
    [
        DepthwiseConv2d(8, 3),
        DepthwiseConv2d(8, (3, 5), 2, "same", (1, 2), bias=False, padding_mode="reflect", depth_multiplier=3),
        DepthwiseConv1d(64, 4, padding=((3, 0),)),
        DepthwiseConv3d(2, 3, padding=1),
    ],
)
def test_repr_is_the_constructor_call(layer: nn.Module) -> None:
    again = eval(repr(layer), vars(depthwise))
    assert repr(again) == repr(layer)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in layer.state_dict().items()}


def test_device_and_dtype() -> None:
    layer = DepthwiseConv2d(4, 3, device="meta", dtype=torch.float64)
    assert (layer.weight.device.type, layer.weight.dtype) == ("meta", torch.float64)
    assert layer(torch.empty(1, 4, 9, 9, device="meta", dtype=torch.float64)).shape == (1, 4, 7, 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "in_channels must be at least 1; got 0"),
        ({"in_channels": 2.5}, "in_channels must be an integer; got 2.5"),
        ({"depth_multiplier": 0}, "depth_multiplier must be at least 1; got 0"),
        ({"kernel_size": -3}, "kernel_size must be at least 1; got -3"),
        ({"stride": 0}, "stride must be at least 1; got 0"),
        ({"dilation": (1, 1, 1)}, "dilation is one int, or 2 for a 2-d convolution"),
        ({"padding": "full"}, "padding is an int, a tuple"),
        ({"padding_mode": "wrap"}, "padding_mode is one of zeros, reflect, replicate, circular; got 'wrap'"),
        ({"dtype": torch.int32}, "dtype must be a floating-point torch.dtype; got torch.int32"),
        ({"dtype": "float32"}, "dtype must be a floating-point torch.dtype; got float32"),
        ({"dtype": torch.complex64}, "dtype must be a floating-point torch.dtype; got torch.complex64"),
    ],
)
def test_constructor_errors(arguments: dict[str, Any], message: str) -> None:
    valid: dict[str, Any] = {"in_channels": 8, "kernel_size": 3}
    with pytest.raises(DepthwiseError, match=message):
        DepthwiseConv2d(**(valid | arguments))


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, (1, 16, 9, 9), r"the layer has in_channels=8; the input has 16 channels, shape \(1, 16, 9, 9\)"),
        ({}, (1, 8, 2, 9), "more than the padded input's 2"),
        ({}, (8,), r"x must be \(batch, channels, height, width\) or"),
        (
            {"padding": 9, "padding_mode": "reflect"},
            (1, 8, 9, 9),
            r"padding_mode='reflect' needs padding of at most 8 along the height, of 9; got \(9, 9\)",
        ),
        (
            {"padding": 10, "padding_mode": "circular"},
            (1, 8, 9, 12),
            "needs padding of at most 9 along the height, of 9",
        ),
    ],
)
def test_call_errors(options: dict[str, Any], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(DepthwiseError, match=message):
        DepthwiseConv2d(8, 3, **options)(torch.zeros(shape))


def test_the_inputs_name_is_torchs() -> None:
    conv, x = DepthwiseConv2d(8, 3), torch.ones(1, 8, 6, 6)
    assert torch.equal(conv(input=x), conv(x))


def test_unbatched_and_empty() -> None:
    layer = DepthwiseConv2d(4, 3, padding="same", padding_mode="reflect")
    x = torch.randn(4, 9, 9)
    torch.testing.assert_close(layer(x), layer(x.unsqueeze(0)).squeeze(0))
    assert layer(torch.zeros(0, 4, 9, 9)).shape == (0, 4, 9, 9)
    assert geometry((4, 9, 9), 3, padding="same").output_size == (4, 9, 9)


def test_a_padding_set_afterwards_counts_and_shows() -> None:
    layer = DepthwiseConv2d(4, 3)
    layer.padding = 1  # type: ignore[assignment]
    assert repr(layer) == "DepthwiseConv2d(4, kernel_size=(3, 3), padding=1)"
    assert layer(torch.zeros(1, 4, 9, 9)).shape == (1, 4, 9, 9)
    layer.padding = 0  # type: ignore[assignment]
    assert repr(layer) == "DepthwiseConv2d(4, kernel_size=(3, 3))"
