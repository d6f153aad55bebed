"""The gate before every timing: an output must lie within the rounding bound of the same work in float64.

    |error| <= 2 · n · eps · (|P| · (|D| * |x| + |b|) + |bias| + |residual|), times the activations' steepest slopes

element by element; n is the number of terms: kernel area + channels summed over + 1, and one more for a residual.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..backends.base import DepthwiseTensors, SeparableTensors
from ..backends.eager import activate, convolved
from ..functional import ActivationName, activation_of
from ..geometry import Geometry
from .cases import Case, Tensors

# Of each activation that is 0 at 0: no output differs by more than this many times what its inputs differ.
STEEPEST = {"relu": 1.0, "relu6": 1.0, "silu": 1.1, "hardswish": 1.5, "gelu": 1.13}


@dataclass(frozen=True, slots=True)
class Expected:
    """The right output in float64, and how far each of its elements may be missed."""

    value: Tensor
    bound: Tensor


def expected_of(case: Case, tensors: Tensors) -> Expected:
    """What `case` computes, by PyTorch in float64."""
    g = case.geometry
    summed = 0 if g.out_channels is None else g.depthwise_channels // g.groups
    terms = g.kernel_area + summed + 1 + case.residual
    # Sample by sample: for batches of large kernels in float64 PyTorch is ten times as slow as for their samples.
    samples = [tensors.sample(number).each(Tensor.double) for number in range(case.batch)]
    value = torch.cat(
        [_computed(sample, g, case.depthwise_activation, case.pointwise_activation) for sample in samples]
    )
    magnitude = torch.cat([_magnitude(sample, case) for sample in samples])
    return Expected(value, 2 * terms * torch.finfo(tensors.x.dtype).eps * magnitude)


def fault(actual: Tensor, expected: Expected) -> str | None:
    """What is wrong with an output, or None."""
    if actual.shape != expected.value.shape:
        return f"the output has shape {tuple(actual.shape)}, not {tuple(expected.value.shape)}"
    error = (actual.double() - expected.value).abs()
    # So written, a NaN fails too.
    wrong = ~(error <= expected.bound)
    if not bool(wrong.any()):
        return None
    worst = (error / expected.bound).nan_to_num(nan=torch.inf).max().item()
    return f"{int(wrong.sum())} of {wrong.numel()} outputs are wrong, the worst by {worst:.3g} times the rounding bound"


def _computed(t: Tensors, g: Geometry, between: ActivationName, after: ActivationName) -> Tensor:
    first, last = activation_of(between), activation_of(after)
    if t.pointwise_weight is None:
        return activate(convolved(t.x, DepthwiseTensors(t.depthwise_weight, t.depthwise_bias), g), first)
    weights = (t.depthwise_weight, t.pointwise_weight, t.depthwise_bias, t.pointwise_bias)
    return convolved(t.x, SeparableTensors(*weights, first, last, t.residual), g)


def _magnitude(t: Tensors, case: Case) -> Tensor:
    """The sum of the absolute values of all terms, output by output, times the steepest slopes."""
    sizes = t.each(Tensor.abs)
    if sizes.pointwise_weight is None:
        return _steepest(case.depthwise_activation) * _computed(sizes, case.geometry, None, None)
    sizes = replace(sizes, pointwise_weight=_steepest(case.depthwise_activation) * sizes.pointwise_weight)
    return _steepest(case.pointwise_activation) * _computed(sizes, case.geometry, None, None)


def _steepest(activation: ActivationName) -> float:
    settled = activation_of(activation)
    return 1.0 if settled is None else STEEPEST[settled[0]]
