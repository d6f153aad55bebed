"""The weights of a layer in one of its forms: from its kernel alone, or fitted to evidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from . import depthwise_first, pointwise_first, sample
from .depthwise_first import DepthwiseFirst
from .gathering import AnyEvidence
from .options import Form, Option
from .pointwise_first import PointwiseFirst
from .quadratic import Quadratic

# L-BFGS steps, and turns of the mirror's alternation: of a fit, and of a trial of one.
STEPS, ROUNDS = 60, 20
TRIAL_STEPS, TRIAL_ROUNDS = 6, 2

Factors = DepthwiseFirst | PointwiseFirst


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Factors of a layer, their relative error and that of the truncated SVD they start from, on the same evidence.

    unseen: directions of the filtered inputs that the calibration data do not show; there the SVD's weights stand
    """

    factors: Factors
    error: float
    svd_error: float
    unseen: int


def kernel_of(conv: _ConvNd) -> Tensor:
    """(groups, group_outputs, patch), float64"""
    kernel: Tensor = conv.weight.detach().double().flatten(1).unflatten(0, (conv.groups, -1))
    return kernel


def start(kernel: Tensor, form: Form, area: int) -> Factors:
    """The form's truncated SVD."""
    if form.order == "pointwise first":
        return pointwise_first.start(kernel, area)
    return depthwise_first.start(kernel, form.multiplier, area)


def weight_options(conv: _ConvNd, forms: Sequence[Form]) -> Iterator[Option]:
    """Each form with the relative error, Frobenius norm, that its truncated SVD leaves in the kernel."""
    kernel = kernel_of(conv)
    norm = float(kernel.norm())
    for form in forms:
        missed = float((start(kernel, form, prod(conv.kernel_size)).kernel - kernel).norm())
        yield Option(form, missed / norm if norm > 0 else 0.0)


def options(conv: _ConvNd, forms: Sequence[Form], evidence: AnyEvidence) -> Iterator[Option]:
    """Each form with the relative error that a trial of its fit leaves in the layer's output."""
    for form in forms:
        yield Option(form, evidence.error(trial(conv, form, evidence).kernel) ** 0.5)


def trial(conv: _ConvNd, form: Form, evidence: AnyEvidence) -> Factors:
    """The form's factors after a few steps, which bring most of what all of them do; never worse than the SVD.

    Of a sample of patches, whose steps are many and small, only the pointwise weights are fitted.
    """
    first = start(kernel_of(conv), form, prod(conv.kernel_size))
    if isinstance(first, PointwiseFirst):
        assert isinstance(evidence, Quadratic)  # noqa: S101
        return pointwise_first.refit(evidence, first, TRIAL_ROUNDS)
    if isinstance(evidence, Quadratic):
        return depthwise_first.refit(evidence, first, TRIAL_STEPS)
    mixed = depthwise_first.refit_mixing(evidence, first)
    return min(mixed, first, key=lambda each: evidence.error(each.kernel))


def fit(conv: _ConvNd, form: Form, evidence: AnyEvidence) -> Fit:
    """The form's factors with the least error that is found."""
    first = start(kernel_of(conv), form, prod(conv.kernel_size))
    unseen = 0
    if isinstance(first, PointwiseFirst):
        assert isinstance(evidence, Quadratic)  # noqa: S101
        found: Factors = pointwise_first.refit(evidence, first, ROUNDS)
    else:
        better = (
            depthwise_first.refit(evidence, first, STEPS)
            if isinstance(evidence, Quadratic)
            else sample.refit(evidence, first)
        )
        found, unseen = better, depthwise_first.unseen(evidence, better.filters)
    return Fit(found, evidence.error(found.kernel) ** 0.5, evidence.error(first.kernel) ** 0.5, unseen)


def put_(layer: nn.Module, factors: Factors, bias: Tensor | None) -> None:
    """Make `factors`, and `bias` (out_channels,), the weights of a layer of their form."""
    depthwise, pointwise = layer.get_submodule("depthwise"), layer.get_submodule("pointwise")
    assert isinstance(depthwise, _ConvNd)  # noqa: S101
    assert isinstance(pointwise, _ConvNd)  # noqa: S101
    with torch.no_grad():
        depthwise.weight.copy_(factors.filters.reshape(depthwise.weight.shape))
        pointwise.weight.copy_(factors.mixing.reshape(pointwise.weight.shape))
        own = depthwise.bias if isinstance(factors, PointwiseFirst) else pointwise.bias
        if own is not None and bias is not None:
            own.copy_(bias)
