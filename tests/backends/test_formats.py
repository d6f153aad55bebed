"""How results lie: as those of torch's own operators do, one after another."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

import depthwise
from depthwise import DepthwiseError, functional
from depthwise.backends import formats
from depthwise.backends.cpu import machine

CONVOLUTIONS = {
    1: (functional.depthwise_conv1d, functional.separable_conv1d),
    2: (functional.depthwise_conv2d, functional.separable_conv2d),
    3: (functional.depthwise_conv3d, functional.separable_conv3d),
}


def laid_out(draw: random.Random, tensor: Tensor) -> Tensor:
    """The same numbers in some layout."""
    last = formats.LAST.get(tensor.dim() - 2)
    kind = draw.random()
    if last is not None and kind < 0.4:
        return tensor.contiguous(memory_format=last)
    if kind < 0.5:
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if kind < 0.6:
        return tensor.transpose(-1, 1).contiguous().transpose(-1, 1)
    if kind < 0.65:
        return torch.cat([tensor, tensor], 1)[:, : tensor.shape[1]]
    return tensor


def call_of(draw: random.Random, rank: int) -> Any:
    """A function that calls one drawn convolution, or None where its sizes do not go together."""
    batch, channels = draw.choice([1, 1, 2, 3, 16]), draw.choice([1, 2, 3, 8, 16])
    multiplier, outputs = draw.choice([1, 1, 2]), draw.choice([1, 4, 8, 24])
    sizes = [draw.choice([1, 1, 2, 3, 5, 9]) for _ in range(rank)]
    kernel = [draw.choice([1, 1, 2, 3]) for _ in range(rank)]
    uneven = tuple((draw.choice([0, 1]), draw.choice([0, 1])) for _ in range(rank))
    window: dict[str, Any] = {"padding": draw.choice([0, 1, "same", uneven]), "stride": draw.choice([1, 1, 2])}
    x = laid_out(draw, torch.randn(batch, channels, *sizes))
    weight = laid_out(draw, torch.randn(channels * multiplier, 1, *kernel))
    depthwise_conv, separable_conv = CONVOLUTIONS[rank]
    if draw.random() < 0.4:
        return lambda: depthwise_conv(x, weight, **window)
    pointwise = laid_out(draw, torch.randn(outputs, channels * multiplier, *(1,) * rank))
    with depthwise.backend("eager"):
        try:
            plain = separable_conv(x, weight, pointwise, **window)
        except (DepthwiseError, RuntimeError):
            return None
    residual = laid_out(draw, torch.randn(plain.shape)) if draw.random() < 0.5 else None
    return lambda: separable_conv(x, weight, pointwise, **window, residual=residual)


@pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("threads", [1, 2])
def test_results_lie_as_torchs_do(rank: int, threads: int) -> None:
    draw = random.Random(rank)
    torch.set_num_threads(threads)
    compared = 0
    while compared < 60:
        call = call_of(draw, rank)
        if call is None:
            continue
        with depthwise.backend("eager"):
            try:
                theirs = call()
            except (DepthwiseError, RuntimeError):
                continue
        for ours in (call(), call()):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
            told = [(n, ours.stride(axis), theirs.stride(axis)) for axis, n in enumerate(ours.shape)]
            assert all(one == other for n, one, other in told if n > 1), told
        compared += 1
