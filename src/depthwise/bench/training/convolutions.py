"""Depthwise convolutions of every kind, forward and backward, and the gradient of their weights alone."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...accelerate import accelerate_
from ...backends.cpu import machine_refusal
from ...layers.conversion import CONVOLUTIONS as MODULES
from ...measure.turns import Call, Effort, Key, take_turns
from ..cases import Case, laid_out, layer
from ..peaks import measured_peaks, refreshed
from ..rows import OURS, TORCH
from .rows import CONVOLUTIONS, LAYOUTS, WEIGHTS, TrainingRow, row_of
from .sides import both_ways, check_near

_BOTH_WAYS = partial(layer, "training", batch=8)
CASES = (
    _BOTH_WAYS((128, 56, 56), 3),
    _BOTH_WAYS((128, 56, 56), 3, stride=2),
    _BOTH_WAYS((128, 56, 56), 5),
    _BOTH_WAYS((96, 56, 56), 7),
    _BOTH_WAYS((128, 32, 32), 31),
    _BOTH_WAYS((256, 33, 33), 3, dilation=2),
    _BOTH_WAYS((64, 56, 56), 3, multiplier=2),
    _BOTH_WAYS((64, 56, 56), 3, multiplier=3),
    _BOTH_WAYS((1024, 1024), 4, padding=3),
    _BOTH_WAYS((256, 1000), 31),
    _BOTH_WAYS((64, 8, 28, 28), 3),
)
# Input and gradient together below 1 MiB, a second-level cache of today.
_IN_CACHE = partial(layer, "training")
SMALL_CASES = (
    _IN_CACHE((128, 28, 28), 3),
    _IN_CACHE((128, 28, 28), 3, stride=2),
    _IN_CACHE((128, 28, 28), 5),
    _IN_CACHE((128, 28, 28), 7),
    _IN_CACHE((64, 28, 28), 31),
    _IN_CACHE((128, 28, 28), 3, dilation=2),
    _IN_CACHE((64, 28, 28), 3, multiplier=2),
    _IN_CACHE((48, 28, 28), 3, multiplier=3),
    _IN_CACHE((512, 200), 4, padding=3),
    _IN_CACHE((256, 400), 31),
    _IN_CACHE((64, 8, 14, 14), 3),
)


def rows(effort: Effort) -> Iterator[TrainingRow]:
    """Forward and backward; torch.compile runs the same operator, and is not tried."""
    for case in CASES:
        yield forward_and_backward(case, effort)


def forward_and_backward(case: Case, effort: Effort) -> TrainingRow:
    torch.manual_seed(0)
    theirs = _module(case)
    ours = deepcopy(theirs)
    accelerate_(ours)
    calls = both_ways(case.name, ours, theirs, torch.randn(case.batch, *case.geometry.input_size), compiled=False)
    return row_of(CONVOLUTIONS, case.name, torch.get_num_threads(), take_turns(calls, effort, lambda: None))


def weight_rows(effort: Effort) -> Iterator[TrainingRow]:
    """The gradient of the weights by the operators alone, without what autograd takes around them."""
    peaks = measured_peaks(torch.get_num_threads())
    for case in SMALL_CASES:
        row = weight_gradient(case, effort)
        # The highest seen: whatever else the machine does can only lower it.
        peaks = max(peaks, refreshed(peaks), key=lambda each: each.fma_gflops or 0.0)
        if peaks.fma_gflops is not None:
            least = 1000 * _gflop(case) / peaks.fma_gflops
            row = replace(row, share=least / row.ours, torch_share=least / row.torch)
        yield row


@torch.no_grad()
def weight_gradient(case: Case, effort: Effort) -> TrainingRow:
    torch.manual_seed(0)
    calls: dict[Key, Call] = {}
    for layout in LAYOUTS:
        x = laid_out(torch.randn(case.batch, *case.geometry.input_size), layout)
        gradient = laid_out(torch.randn(case.batch, *case.geometry.output_size), layout)
        weight = _module(case).weight.detach()
        ours, theirs = _ours_alone(case, gradient, x, weight), _torchs_alone(case, gradient, x, weight)
        if ours is not None:
            found = ours()[1]
            check_near(case.name, [found], [theirs()[1]])
            calls[OURS, layout] = ours
        calls[TORCH, layout] = theirs
    if not any(who == OURS for who, _ in calls):
        calls[OURS, "PyTorch's"] = calls[TORCH, LAYOUTS[0]]
    return row_of(WEIGHTS, case.name, torch.get_num_threads(), take_turns(calls, effort, lambda: None))


def _ours_alone(case: Case, gradient: Tensor, x: Tensor, weight: Tensor) -> Call | None:
    """What autograd calls of a convolution seen before; None where PyTorch's operator computes it."""
    if machine_refusal() is not None:
        return None
    # Here, not above: importing depthwise must load no LLVM.
    from ...backends.cpu.gradients import plain_steps

    found = plain_steps(gradient, x, weight, case.geometry, (False, True, False))
    if found is None:
        return None
    steps, laid = found
    return lambda: steps.run(*laid)


def _torchs_alone(case: Case, gradient: Tensor, x: Tensor, weight: Tensor) -> Call:
    g = case.geometry
    window = g.stride, [before for before, _ in g.padding], g.dilation, False, [0] * g.rank, g.in_channels
    wanted = False, True, False
    return lambda: torch.ops.aten.convolution_backward(gradient, x, weight, None, *window, wanted)


def _module(case: Case) -> nn.Conv2d:
    g = case.geometry
    padding = tuple(before for before, _ in g.padding)
    filters = g.in_channels, g.output_size[0], g.kernel_size
    conv: Any = MODULES[g.rank]
    module: nn.Conv2d = conv(*filters, g.stride, padding, g.dilation, groups=g.in_channels)
    return module


def _gflop(case: Case) -> float:
    """Two for each tap of each output; padding counts as data."""
    g = case.geometry
    outputs = case.batch
    for size in g.output_size:
        outputs *= size
    return 2 * outputs * g.kernel_area / 1e9
