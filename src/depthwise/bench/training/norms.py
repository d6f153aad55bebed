"""Batch norms in training mode with the activation behind them, forward and backward, beside copying as many bytes."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn

from ...accelerate import accelerate_
from ...measure.turns import Effort, take_turns
from .rows import NORMS, TrainingRow, fastest, row_of
from .sides import both_ways

BATCH = 8
SIZES = ((64, 56), (192, 28), (576, 14), (960, 7))
ACTIVATIONS = (nn.ReLU6, nn.SiLU, nn.Hardswish)
COPY = "memcpy"
# Of the size of the input, read or written: forward the input twice and the result; backward the input and the gradient
# of the result twice, and that of the input. A copy reads one and writes one.
TENSORS, COPIED = 8, 2


def rows(effort: Effort, *, compiled: bool) -> Iterator[TrainingRow]:
    for channels, pixels in SIZES:
        for activation in ACTIVATIONS:
            yield norm(channels, pixels, activation, effort, compiled=compiled)


def norm(channels: int, pixels: int, activation: type[nn.Module], effort: Effort, *, compiled: bool) -> TrainingRow:
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.BatchNorm2d(channels), activation())
    ours = deepcopy(theirs)
    accelerate_(ours)
    x = torch.randn(BATCH, channels, pixels, pixels)
    name = f"{BATCH}x{channels}x{pixels}x{pixels} {activation.__name__}"
    calls = both_ways(name, ours, theirs, x, compiled=compiled)
    other = torch.empty_like(x)
    calls[COPY, ""] = lambda: other.copy_(x)
    samples = take_turns(calls, effort, lambda: None)
    row = row_of(NORMS, name, torch.get_num_threads(), samples)
    copying = fastest(samples, COPY)[1] * TENSORS / COPIED
    return replace(row, share=copying / row.ours, torch_share=copying / row.torch)
