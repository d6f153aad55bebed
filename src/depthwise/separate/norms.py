"""Batch-norm statistics after a separation: moved by what changed between the two networks on the same data.

Statistics taken from a few hundred samples alone are noisy. Here only their change is: the mean moves by the difference
of the two networks' means, the variance by their ratio, and a norm before any separated layer stays bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .calibration import Batch, run_all
from .hooks import hooked_before
from .processes import add_up_


@dataclass(slots=True)
class Statistics:
    """Sums over a norm's input, per channel: count (1,), sum and sum of squares (channels,), in float64."""

    count: Tensor
    total: Tensor
    squares: Tensor

    @property
    def mean(self) -> Tensor:
        return self.total / self.count

    @property
    def variance(self) -> Tensor:
        return (self.squares / self.count - self.mean.square()).clamp_min(0)


def reestimate_(model: nn.Module, student: nn.Module, batches: Sequence[Batch]) -> None:
    """Move the running statistics of `student`, a changed copy of `model`, from those of `model`."""
    before, after = (_statistics(network, batches) for network in (model, student))
    for name, statistics in after.items():
        old, new = (network.get_submodule(name) for network in (model, student))
        assert isinstance(old, _BatchNorm)  # noqa: S101
        assert isinstance(new, _BatchNorm)  # noqa: S101
        move_(new, old, before[name].mean, before[name].variance, statistics.mean, statistics.variance)


def move_(norm: _BatchNorm, original: _BatchNorm, mean: Tensor, variance: Tensor, *now: Tensor) -> None:
    """Give `norm` the running statistics of `original`, moved as its input's mean and variance went to `now`'s."""
    if norm.running_mean is None or norm.running_var is None:
        return
    new_mean, new_variance = now
    if torch.equal(mean, new_mean) and torch.equal(variance, new_variance):
        return
    known = (variance > 0) & (new_variance > 0)
    ratio = torch.where(known, new_variance / variance.clamp_min(1e-300), torch.ones_like(variance))
    assert original.running_mean is not None  # noqa: S101
    assert original.running_var is not None  # noqa: S101
    norm.running_mean.copy_(original.running_mean.double() + (new_mean - mean))
    norm.running_var.copy_(original.running_var.double() * ratio)


def _statistics(model: nn.Module, batches: Sequence[Batch]) -> dict[str, Statistics]:
    """What every batch norm with running statistics gets, each normalising by its own batch meanwhile."""
    found: dict[str, Statistics] = {}

    def seen(name: str, norm: Any, args: tuple[Any, ...]) -> None:
        wide = args[0].detach().double().transpose(0, 1).flatten(1)
        sums = found[name]
        sums.count += wide.shape[1]
        sums.total += wide.sum(1)
        sums.squares += wide.square().sum(1)
        # One value a channel has no variance: the norm stands as it is.
        if wide.shape[1] > 1:
            norm.running_mean, norm.running_var = (
                batch.to(norm.running_mean.dtype) for batch in (wide.mean(1), wide.var(1, correction=0))
            )

    with ExitStack() as stack:
        for name, norm in model.named_modules():
            if isinstance(norm, _BatchNorm) and norm.running_mean is not None:
                total = torch.zeros_like(norm.running_mean, dtype=torch.float64)
                found[name] = Statistics(total.new_zeros(1), total, total.clone())
                stack.callback(_restore, norm, norm.running_mean, norm.running_var)
                stack.enter_context(hooked_before(norm, lambda *call, name=name: seen(name, *call)))
        run_all(model, batches)
    for sums in found.values():
        add_up_(sums.count, sums.total, sums.squares)
    return {name: sums for name, sums in found.items() if float(sums.count) > 0}


def _restore(norm: _BatchNorm, mean: Tensor | None, variance: Tensor | None) -> None:
    norm.running_mean, norm.running_var = mean, variance
