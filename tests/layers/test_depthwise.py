"""`DepthwiseConv*` against torch's grouped convolutions and the definition."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import nn
from torch.nn import functional as F

import depthwise
from depthwise import (
    DepthwiseConv1d,
    DepthwiseConv2d,
    DepthwiseConv3d,
    DepthwiseError,
    SeparableConv1d,
    functional,
    reference,
)
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
    ours = LAYERS[rank](6, 3, stride=2, padding=1, dilation=2, depth_multiplier=2)
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
    ours = LAYERS[rank](4, 3, padding=2, dilation=2, padding_mode=mode)
    theirs = TORCH[rank](4, 4, 3, 1, 2, 2, 4, padding_mode=mode)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, *(7,) * rank)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", ["same", ((2, 0), (0, 1))])
def test_padding_modes_with_what_torch_does_not_know(mode: str, padding: Any) -> None:
    layer = DepthwiseConv2d(4, 3, stride=2, padding=padding, padding_mode=mode)
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
        DepthwiseConv2d(
            8, (3, 5), stride=2, padding="same", dilation=(1, 2), bias=False, padding_mode="reflect", depth_multiplier=3
        ),
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


# ---- what goes by keyword


@pytest.mark.parametrize(
    ("arguments", "given", "message"),
    [
        (
            (32, 32, 3),
            {},
            r"for nn.Conv2d's order write DepthwiseConv2d\(32, 3\); for a kernel of 32 write .*stride=3\)",
        ),
        ((8, 8), {"kernel_size": 3}, r"for nn.Conv2d's order write DepthwiseConv2d\(8, 3\)$"),
        ((3, 3, 2, "same"), {}, r"for a kernel of 3 write DepthwiseConv2d\(3, 3, stride=2, padding='same'\)$"),
        (
            (8, 16, 3, 1, 1),
            {"groups": 8, "bias": False},
            r"write .*\(8, 3, stride=1, .* bias=False, depth_multiplier=2\)$",
        ),
        ((8,), {"out_channels": 8, "kernel_size": 3}, r"it has no out_channels, .* write DepthwiseConv2d\(8, 3\)$"),
        ((8, 3), {"groups": 8}, "and no groups; for nn.Conv2d's order write"),
    ],
)
def test_torchs_order_is_an_error_that_says_what_to_write(
    arguments: tuple[Any, ...], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(DepthwiseError, match=message):
        DepthwiseConv2d(*arguments, **given)


def test_the_signature_stays_readable() -> None:
    parameters = inspect.signature(DepthwiseConv2d).parameters
    assert list(parameters)[:2] == ["in_channels", "kernel_size"]
    assert parameters["stride"].kind is inspect.Parameter.KEYWORD_ONLY


# ---- causal, and step by step


@pytest.mark.parametrize(("kernel_size", "dilation"), [(1, 1), (4, 1), (3, 5)])
def test_causal_padding(kernel_size: int, dilation: int) -> None:
    layer = DepthwiseConv1d(2, kernel_size, dilation=dilation, padding="causal")
    pairs = DepthwiseConv1d(2, kernel_size, dilation=dilation, padding=((dilation * (kernel_size - 1), 0),))
    pairs.load_state_dict(layer.state_dict())
    x = torch.randn(3, 2, 20)
    assert torch.equal(layer(x), pairs(x))
    assert torch.equal(layer(x), functional.depthwise_conv1d(x, layer.weight, layer.bias, 1, "causal", dilation))


def test_causal_padding_of_volumes_is_of_time_alone() -> None:
    layer = DepthwiseConv3d(2, (4, 3, 3), padding="causal", dilation=(2, 1, 1))
    assert repr(layer.padding) == "((6, 0), (0, 0), (0, 0))"
    assert layer(torch.zeros(1, 2, 7, 9, 9)).shape == (1, 2, 7, 7, 7)
    with pytest.raises(DepthwiseError, match=r"padding='causal' needs a time axis: .*; this is 2-d"):
        DepthwiseConv2d(2, 3, padding="causal")


@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("kernel_size", [1, 4])
@pytest.mark.parametrize("make", [DepthwiseConv1d, lambda c, k, **o: SeparableConv1d(c, 5, k, **o)])
def test_steps_are_the_whole_sequence(make: Any, kernel_size: int, dilation: int) -> None:
    layer = make(4, kernel_size, dilation=dilation, padding="causal", depth_multiplier=2)
    state_dict = {key: small_integers(1)(value.shape) for key, value in layer.state_dict().items()}
    layer.load_state_dict(state_dict)
    x = small_integers(2)((3, 4, 23))
    for batched in (x, x[0]):
        state: Any = None
        outputs = []
        for part in batched.split((1, 1, 7, 10, 4), dim=-1):
            y, state = layer.step(part, state)
            outputs.append(y)
        assert_bit_equal(torch.cat(outputs, dim=-1), layer(batched))
        assert state.shape == (*batched.shape[:-1], dilation * (kernel_size - 1))


def test_step_errors() -> None:
    x = torch.zeros(1, 4, 5)
    layer = DepthwiseConv1d(4, 3, padding="causal")
    for wrong in (
        DepthwiseConv1d(4, 3, padding=1),
        DepthwiseConv1d(4, 3, padding="causal", stride=2),
        DepthwiseConv1d(4, 3, padding="causal", padding_mode="reflect"),
    ):
        with pytest.raises(DepthwiseError, match="step needs padding='causal', of zeros, and a stride of 1; this is"):
            wrong.step(x)
    for state, got in (
        (torch.zeros(1, 4, 1), r"\(1, 4, 1\) of torch.float32"),
        (3, "3"),
        (torch.zeros(1, 4, 2).double(), ""),
    ):
        with pytest.raises(
            DepthwiseError, match=rf"state must have the shape \(1, 4, 2\) and x's dtype, .*; got {got}"
        ):
            layer.step(x, state)  # type: ignore[arg-type]
    with pytest.raises(DepthwiseError, match=r"step needs one frame at least; got the shape \(1, 4, 0\)"):
        layer.step(torch.zeros(1, 4, 0))
    separable: Any = SeparableConv1d(4, 5, 3, padding="causal")
    separable.depthwise = nn.Conv1d(4, 4, 3, groups=4)
    with pytest.raises(DepthwiseError, match="step needs a DepthwiseConv1d as the depthwise part; got Conv1d"):
        separable.step(x)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_to_torch_shares_the_parameters(rank: int, mode: str) -> None:
    layer = LAYERS[rank](4, 3, stride=2, padding=2, dilation=2, padding_mode=mode, depth_multiplier=2).eval()
    conv = layer.to_torch()
    assert type(conv) is TORCH[rank]
    assert conv.weight is layer.weight
    assert conv.bias is layer.bias
    assert not conv.training
    x = torch.randn(2, 4, *(7,) * rank)
    torch.testing.assert_close(conv(x), layer(x))
    assert LAYERS[rank](4, 3, bias=False).to_torch().bias is None


def test_what_torch_has_no_convolution_for() -> None:
    with pytest.raises(DepthwiseError, match=r"torch's convolution has no padding='same' with stride=\(2,\); pad the"):
        DepthwiseConv1d(4, 3, stride=2, padding="same").to_torch()
