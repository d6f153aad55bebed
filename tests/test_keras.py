"""Weights in Keras's layout: what they compute is held against loops in numpy over Keras's own axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from depthwise import (
    DepthwiseConv1d,
    DepthwiseConv2d,
    DepthwiseConv3d,
    DepthwiseError,
    SeparableConv1d,
    SeparableConv2d,
    SeparableConv3d,
    keras,
)

DEPTHWISE: dict[int, Any] = {1: DepthwiseConv1d, 2: DepthwiseConv2d, 3: DepthwiseConv3d}
SEPARABLE: dict[int, Any] = {1: SeparableConv1d, 2: SeparableConv2d, 3: SeparableConv3d}
RANDOM = np.random.default_rng(0)
Array = np.ndarray[Any, np.dtype[np.float64]]


def given(*shape: int) -> Array:
    return RANDOM.standard_normal(shape)


def windows(x: Array, kernel_size: tuple[int, ...]) -> Array:
    """(batch, *out, channels, *kernel) of x, (batch, *spatial, channels)."""
    axes = tuple(range(1, 1 + len(kernel_size)))
    return np.lib.stride_tricks.sliding_window_view(x, kernel_size, axes)


def keras_depthwise(x: Array, kernel: Array) -> Array:
    """x (batch, *spatial, C), kernel (*k, C, M) -> (batch, *out, C·M)."""
    *kernel_size, channels, multiplier = kernel.shape
    seen = windows(x, tuple(kernel_size))
    out = np.zeros((*seen.shape[: len(kernel_size) + 1], channels * multiplier))
    for c in range(channels):
        for m in range(multiplier):
            taps = kernel[..., c, m]
            out[..., c * multiplier + m] = (seen.take(c, axis=len(kernel_size) + 1) * taps).sum(
                axis=tuple(range(-len(kernel_size), 0))
            )
    return out


def keras_dense(x: Array, kernel: Array) -> Array:
    """x (batch, *spatial, C), kernel (*k, C, F) -> (batch, *out, F)."""
    rank = kernel.ndim - 2
    seen = np.moveaxis(windows(x, kernel.shape[:rank]), rank + 1, -1)
    return np.tensordot(seen, kernel, axes=rank + 1)


def torch_of(x: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def keras_of(y: Tensor) -> Array:
    return np.moveaxis(y.detach().numpy(), 1, -1)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("channels", "multiplier"), [(4, 1), (3, 2), (1, 3)])
def test_depthwise(rank: int, channels: int, multiplier: int) -> None:
    kernel_size = (3, 2, 4)[:rank]
    layer = DEPTHWISE[rank](channels, kernel_size, depth_multiplier=multiplier).double()
    kernel, bias = given(*kernel_size, channels, multiplier), given(channels * multiplier)
    keras.load_(layer, [kernel, bias])
    x = given(2, *(6,) * rank, channels)
    np.testing.assert_allclose(keras_of(layer(torch_of(x))), keras_depthwise(x, kernel) + bias, atol=1e-12)
    for ours, theirs in zip(keras.weights(layer), (kernel, bias), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_separable(rank: int) -> None:
    kernel_size = (3, 2, 4)[:rank]
    layer = SEPARABLE[rank](3, 5, kernel_size, depth_multiplier=2).double()
    arrays = [given(*kernel_size, 3, 2), given(*(1,) * rank, 6, 5), given(5)]
    keras.load_(layer, arrays)
    x = given(2, *(6,) * rank, 3)
    expected = keras_depthwise(x, arrays[0]) @ arrays[1].reshape(6, 5) + arrays[2]
    np.testing.assert_allclose(keras_of(layer(torch_of(x))), expected, atol=1e-12)
    for ours, theirs in zip(keras.weights(layer), arrays, strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(("conv", "rank"), [(nn.Conv1d, 1), (nn.Conv2d, 2), (nn.Conv3d, 3)])
def test_dense(conv: Any, rank: int) -> None:
    layer = conv(3, 5, (3, 2, 4)[:rank]).double()
    arrays = [given(*(3, 2, 4)[:rank], 3, 5), given(5)]
    keras.load_(layer, arrays)
    x = given(2, *(6,) * rank, 3)
    np.testing.assert_allclose(keras_of(layer(torch_of(x))), keras_dense(x, arrays[0]) + arrays[1], atol=1e-12)
    assert np.array_equal(keras.weights(layer)[0], arrays[0])


def test_linear() -> None:
    layer, arrays, x = nn.Linear(3, 5).double(), [given(3, 5), given(5)], given(4, 3)
    keras.load_(layer, arrays)
    np.testing.assert_allclose(layer(torch.from_numpy(x)).detach().numpy(), x @ arrays[0] + arrays[1], atol=1e-12)


def test_mobilenets_block() -> None:
    def norm(channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels, eps=1e-3)

    layer = SeparableConv2d(
        3, 5, 3, bias=False, depthwise_norm=norm, depthwise_activation=nn.ReLU6, pointwise_norm=norm
    )
    layer.double().eval()
    parts = {
        "depthwise": [given(3, 3, 3, 1)],
        "depthwise_norm": [given(3), given(3), given(3), given(3) ** 2],
        "pointwise": [given(1, 1, 3, 5)],
        "pointwise_norm": [given(5), given(5), given(5), given(5) ** 2],
    }
    keras.load_(layer, parts)

    def normalised(y: Array, gamma: Array, beta: Array, mean: Array, variance: Array) -> Array:
        return (y - mean) / np.sqrt(variance + 1e-3) * gamma + beta

    x = given(2, 6, 6, 3)
    y = np.clip(normalised(keras_depthwise(x, parts["depthwise"][0]), *parts["depthwise_norm"]), 0, 6)
    y = normalised(y @ parts["pointwise"][0].reshape(3, 5), *parts["pointwise_norm"])
    np.testing.assert_allclose(keras_of(layer(torch_of(x))), y, atol=1e-10)
    in_turn = [array for part in parts.values() for array in part]
    assert all(np.array_equal(a, b) for a, b in zip(keras.weights(layer), in_turn, strict=True))


@pytest.mark.parametrize(
    ("layer", "weights", "message"),
    [
        (DepthwiseConv2d(4, 3), [np.zeros((3, 3, 4, 1))], r"weights of a DepthwiseConv2d are \['weight', 'bias'\] of"),
        (DepthwiseConv2d(4, 3), [np.zeros((4, 1, 3, 3)), np.zeros(4)], r"got the shapes \[\(4, 1, 3, 3\), \(4,\)\]"),
        (DepthwiseConv2d(4, 3), np.zeros(3), "weights must be a list of arrays, as Keras's get_weights"),
        (DepthwiseConv2d(4, 3), [None, None], "weights must hold arrays of numbers; got NoneType"),
        (SeparableConv2d(4, 6, 3), {"depthwise": []}, r"need the parts \['depthwise', 'pointwise'\] of this Separable"),
        (nn.PReLU(), [], r"Keras's weights go into convolutions, .*; this is a PReLU"),
        (nn.ConvTranspose2d(4, 4, 3), [], "Keras's weights go into convolutions"),
    ],
)
def test_errors(layer: nn.Module, weights: Any, message: str) -> None:
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    with pytest.raises(DepthwiseError, match=message):
        keras.load_(layer, weights)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
