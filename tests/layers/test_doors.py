"""Whatever comes from outside is checked at the door: a wrong argument is a DepthwiseError, or torch takes it too."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from depthwise import DepthwiseConv2d, DepthwiseError, SeparableConv2d, blocks, functional


class Two:
    """An integer for whoever asks."""

    def __index__(self) -> int:
        return 2


X, D, P = torch.randn(1, 4, 9, 9), torch.randn(4, 1, 3, 3), torch.randn(6, 4, 1, 1)

# Strides beyond any input are torch's to take; what needs more memory than there is, is torch's to say.
NUMBERS: list[Any] = [None, True, False, 0, -1, 1.5, 2.0, float("nan"), float("inf"), 10**30, 2**63, -(2**63), 1j]
TEXTS: list[Any] = ["3", "same", "valid", "full", "", b"ab", bytearray(b"ab"), "relu", "cpu", "nowhere"]
SEQUENCES: list[Any] = [
    *((), [], ((),), ((), ()), (1, 2, 3), (1, "a"), (1, True), (1, None), (0, 0), [2, 2], range(2), (1, 10**30)),
    *(
        ((1, 2), 3),
        ((1, 2), (3,)),
        ((-1, 0), (0, 0)),
        [[1, 1], [1, 1]],
        (((1, 1), (1, 1)), 1),
        {1},
        {"a": 1},
        iter([1]),
    ),
]
ARRAYS: list[Any] = [
    *(np.int64(2), np.float32(2), np.array([1, 2]), np.array(2), np.bool_(True), torch.tensor(2), torch.tensor(2.5)),
    *(torch.tensor(True), torch.tensor([1, 2]), torch.zeros(()), torch.zeros(0), nn.Parameter(torch.zeros(3))),
    *(torch.zeros(1, 4, 9, 9, dtype=torch.complex64), torch.zeros(1, 3, 9, 9), torch.zeros(4)),
]
OTHERS: list[Any] = [Two(), object(), lambda: 1, nn.ReLU, nn.ReLU(), Fraction(3), Fraction(10**400), ..., torch.int8]
SLOPES: list[Any] = [
    *(("elu", 10**400), ("elu", float("nan")), ("elu", True), ("elu", "x"), ("elu", torch.tensor(1.0)), ("elu",)),
    *(("elu", np.float32(1)), ("elu", 1, 2), ["elu", 1.0], ("relu", 1), ("leaky_relu", -float("inf")), (None, 1)),
]
GIVEN = [*NUMBERS, *TEXTS, *SEQUENCES, *ARRAYS, *OTHERS, *SLOPES]

WINDOW = ("kernel_size", "stride", "padding", "dilation", "bias", "padding_mode", "device", "dtype")
PARTS = ("depthwise_norm", "depthwise_activation", "pointwise_norm", "pointwise_activation")
DOORS: dict[str, tuple[Callable[..., Tensor], dict[str, Any], tuple[str, ...]]] = {
    "depthwise_conv2d": (
        functional.depthwise_conv2d,
        {"x": X, "weight": D},
        ("x", "weight", "bias", "stride", "padding", "dilation"),
    ),
    "separable_conv2d": (
        functional.separable_conv2d,
        {"x": X, "depthwise_weight": D, "pointwise_weight": P},
        (
            *("x", "depthwise_weight", "pointwise_weight", "depthwise_bias", "pointwise_bias", "residual"),
            *("stride", "padding", "dilation", "groups", "depthwise_activation", "pointwise_activation"),
        ),
    ),
    "DepthwiseConv2d": (
        lambda **given: DepthwiseConv2d(**given)(X),
        {"in_channels": 4, "kernel_size": 3},
        ("in_channels", "depth_multiplier", *WINDOW),
    ),
    "SeparableConv2d": (
        lambda **given: SeparableConv2d(**given)(X),
        {"in_channels": 4, "out_channels": 6, "kernel_size": 3},
        ("in_channels", "out_channels", "groups", "depth_multiplier", *WINDOW, *PARTS),
    ),
    "BlueprintConv2d": (
        lambda **given: blocks.BlueprintConv2d(**given)(X),
        {"in_channels": 4, "out_channels": 6, "kernel_size": 3},
        ("in_channels", "out_channels", "groups", *WINDOW, "pointwise_norm"),
    ),
    "MobileNetV1Block": (
        lambda **given: blocks.MobileNetV1Block(**given)(X),
        {"in_channels": 4, "out_channels": 6},
        ("in_channels", "out_channels", "stride", "device", "dtype"),
    ),
    "InvertedResidual": (
        lambda **given: blocks.InvertedResidual(**given)(X),
        {"in_channels": 4, "out_channels": 6},
        (
            *("in_channels", "out_channels", "kernel_size", "stride", "expansion", "squeeze_channels", "activation"),
            *("device", "dtype"),
        ),
    ),
    "XceptionBlock": (
        lambda **given: blocks.XceptionBlock(**given)(X),
        {"in_channels": 4, "out_channels": 6},
        ("in_channels", "out_channels", "stride", "repeats", "device", "dtype"),
    ),
    "ConvNeXtBlock": (
        lambda **given: blocks.ConvNeXtBlock(**given)(X),
        {"channels": 4},
        ("channels", "kernel_size", "expansion", "layer_scale", "device", "dtype"),
    ),
    "SqueezeExcite": (
        lambda **given: blocks.SqueezeExcite(**given)(X),
        {"channels": 4, "squeeze_channels": 2},
        ("channels", "squeeze_channels", "activation", "gate", "device", "dtype"),
    ),
    "from_dense": (
        lambda **given: SeparableConv2d.from_dense(**given)(X),
        {"conv": nn.Conv2d(4, 6, 3)},
        ("conv", "depth_multiplier"),
    ),
}


def raised(call: Callable[..., object], *args: Any, **given: Any) -> Exception | None:
    try:
        call(*args, **given)
    except Exception as error:  # noqa: BLE001  whatever it is, is looked at
        return error
    return None


@pytest.mark.parametrize("door", DOORS)
def test_a_wrong_argument_is_an_error_of_ours(door: str) -> None:
    call, valid, names = DOORS[door]
    outcomes = [(name, value, raised(call, **(valid | {name: value}))) for name in names for value in GIVEN]
    foreign = [(name, value, error) for name, value, error in outcomes if not isinstance(error, DepthwiseError | None)]
    assert not foreign
    assert sum(error is not None for _, _, error in outcomes) > 0.4 * len(outcomes)


def test_what_was_right_once_is_looked_at_again() -> None:
    layer, conv = SeparableConv2d(4, 6, 3).eval(), DepthwiseConv2d(4, 3).eval()
    with torch.no_grad():
        for module in (layer, conv):
            module(X)
            for value in GIVEN:
                assert isinstance(raised(module, value), DepthwiseError), value
        for module, part in ((layer, layer.depthwise), (conv, conv)):
            for name in ("stride", "padding", "dilation", "padding_mode"):
                before = getattr(part, name)
                for value in GIVEN:
                    if isinstance(value, nn.Module | nn.Parameter):
                        continue
                    setattr(part, name, value)
                    assert isinstance(raised(module, X), DepthwiseError | None), (name, value)
                setattr(part, name, before)
                module(X)


def test_a_tensor_is_read_when_it_is_given() -> None:
    one: Any = torch.tensor(1)
    conv = DepthwiseConv2d(4, 3, stride=one, padding=one, dilation=one)
    expected = repr(conv)
    with torch.no_grad():
        for _ in range(2):
            assert functional.depthwise_conv2d(X, D, stride=one, padding=one).shape == (1, 4, 9, 9)
        one.fill_(2)
        for _ in range(2):
            assert functional.depthwise_conv2d(X, D, stride=one, padding=one).shape == (1, 4, 6, 6)
    assert repr(conv) == expected


@pytest.mark.parametrize("make", [lambda k: DepthwiseConv2d(k, 3), lambda k: SeparableConv2d(4, k, 3)])
def test_more_weights_than_can_be_counted(make: Callable[[int], nn.Module]) -> None:
    with pytest.raises(DepthwiseError, match=r"would have the sizes .* more elements than a tensor can have"):
        make(2**60)
    with pytest.raises(DepthwiseError, match="must be at most 9223372036854775807, the largest 64-bit integer"):
        make(2**63)


def test_more_output_than_can_be_counted() -> None:
    with pytest.raises(DepthwiseError, match="the padded input would have the sizes"):
        functional.depthwise_conv2d(X, D, padding=2**40)
    with pytest.raises(DepthwiseError, match="the output would have the sizes"):
        functional.separable_conv2d(X.to("meta"), D.to("meta"), torch.zeros(2**55, 4, 1, 1, device="meta"))
