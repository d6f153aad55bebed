"""The error of a layer's output, as a quadratic function of its kernel."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .moments import Moments


@dataclass(frozen=True, slots=True, eq=False)
class Quadratic:
    """error(W) = sum over outputs o of weight_o · mean (t_o - W_o u)², per group.

    gram:    (groups, patch, patch), mean of u u^T
    cross:   (groups, patch, group_outputs), mean of u t^T
    energy:  (groups, group_outputs), mean of t²
    weights: (groups, group_outputs): what an output's error counts, the square of the scale that follows it
    area:    of the kernel; patch = group channels * area
    patch_mean, target_mean: (groups, patch), (groups, group_outputs)

    Where a bias, or a norm that takes the mean away, follows, u and t are without their means.
    """

    gram: Tensor
    cross: Tensor
    energy: Tensor
    weights: Tensor
    area: int
    patch_mean: Tensor
    target_mean: Tensor

    @property
    def channels(self) -> int:
        """Input channels of a group."""
        return self.gram.shape[1] // self.area

    @property
    def scale(self) -> float:
        """Mean of t², weighted and added up: the error of a kernel of zeros."""
        return float((self.weights * self.energy).sum())

    def normal_equations(self, filters: Tensor) -> tuple[Tensor, Tensor]:
        """As `Evidence` has it, for filters (groups, channels, multiplier, area)."""
        halves = _filtered(filters, self.gram)
        return _filtered(filters, halves.mT), _filtered(filters, self.cross)

    def of_outputs(self, kernel: Tensor) -> Tensor:
        """The error of each output, unweighted; rounding may leave it a little below 0.

        kernel: (groups, group_outputs, patch)
        out:    (groups, group_outputs)
        """
        pulled = kernel @ self.gram - 2 * self.cross.mT
        return self.energy + (pulled * kernel).sum(2)

    def variance(self, kernel: Tensor) -> Tensor:
        """Mean square of what a kernel gives: (groups, group_outputs)."""
        return ((kernel @ self.gram) * kernel).sum(2)

    def error(self, kernel: Tensor) -> float:
        """The share of the scale that `kernel` (groups, group_outputs, patch) misses, from 0 for none of it."""
        return share((self.weights * self.of_outputs(kernel)).sum(), self.scale)


def quadratic_(moments: Moments, area: int, weights: Tensor, *, free_mean: bool) -> Quadratic:
    """The error that `moments` stand for; their memory is reused, and they are spent.

    weights:   (groups, group_outputs)
    free_mean: whether a bias or a norm takes care of the mean
    """
    count = float(moments.count)
    for sums in (moments.gram, moments.cross, moments.energy, moments.patches, moments.targets):
        sums.div_(count)
    if free_mean:
        u, t = moments.patches, moments.targets
        moments.gram.baddbmm_(u.unsqueeze(2), u.unsqueeze(1), alpha=-1)
        moments.cross.baddbmm_(u.unsqueeze(2), t.unsqueeze(1), alpha=-1)
        moments.energy -= t.square()
    return Quadratic(moments.gram, moments.cross, moments.energy, weights, area, moments.patches, moments.targets)


def share(missed: Tensor, scale: float) -> float:
    """`missed` of `scale`, from 0; infinity where it is NaN, so that what gives NaN is never the least."""
    if bool(missed.isnan()):
        return float("inf")
    return max(0.0, float(missed) / scale) if scale > 0 else 0.0


def _filtered(filters: Tensor, rows: Tensor) -> Tensor:
    """Each channel's filters times its rows: (groups, patch, n) becomes (groups, channels * multiplier, n)."""
    _, channels, _, area = filters.shape
    given: Tensor = (filters @ rows.unflatten(1, (channels, area))).flatten(1, 2)
    return given
