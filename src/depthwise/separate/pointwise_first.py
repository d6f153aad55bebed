"""Pointwise first, then depthwise, the blueprint block (arXiv 2003.13549): the factors that reproduce outputs best.

    W[o, c, :] = mixing[o, c] · filters[o, :]

The start is the SVD of each output channel's slice. Every output is a problem of its own, linear in the mixing and in
the filter apart; the two take turns, each solved exactly and held to where it was by a ridge, so that the error of no
output rises.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..factorize import truncated_svd
from .depthwise_first import ridge_of, ridged
from .quadratic import Quadratic

# Of one chunk of outputs' matrices.
CHUNK_BYTES = 2**26


@dataclass(frozen=True, slots=True, eq=False)
class PointwiseFirst:
    """Factors of a kernel, per group, in float64.

    mixing:  (groups, group_outputs, channels)
    filters: (groups, group_outputs, area)
    """

    mixing: Tensor
    filters: Tensor

    @property
    def kernel(self) -> Tensor:
        """(groups, group_outputs, channels * area)"""
        return (self.mixing.unsqueeze(3) * self.filters.unsqueeze(2)).flatten(2)


def start(kernel: Tensor, area: int) -> PointwiseFirst:
    """The best rank 1 of each output channel's slice.

    kernel: (groups, group_outputs, channels * area)
    """
    mixing, filters, _ = truncated_svd(kernel.unflatten(2, (-1, area)), 1)
    return PointwiseFirst(mixing.squeeze(3), filters.squeeze(2))


def refit_mixing(q: Quadratic, factors: PointwiseFirst) -> PointwiseFirst:
    """The same filters with the mixing that least squares gives them."""
    cross = q.cross.mT.unflatten(2, (-1, q.area))
    return PointwiseFirst(_refitted(factors.mixing, factors.filters, _across(q), cross), factors.filters)


def refit_filters(q: Quadratic, factors: PointwiseFirst) -> PointwiseFirst:
    """The same mixing with the filters that least squares gives it."""
    # What the mixing sees with channels and taps in each other's place.
    across = _across(q).transpose(1, 2).transpose(3, 4)
    cross = q.cross.mT.unflatten(2, (-1, q.area)).mT
    return PointwiseFirst(factors.mixing, _refitted(factors.filters, factors.mixing, across, cross))


def refit(q: Quadratic, factors: PointwiseFirst, rounds: int) -> PointwiseFirst:
    """Both in turn, `rounds` times; never worse than `factors`."""
    better = refit_mixing(q, factors)
    for _ in range(rounds):
        better = refit_mixing(q, refit_filters(q, better))
    return min(better, factors, key=lambda each: q.error(each.kernel))


def _across(q: Quadratic) -> Tensor:
    """The Gram matrix by (groups, channels, taps, channels, taps)."""
    across: Tensor = q.gram.unflatten(1, (-1, q.area)).unflatten(3, (-1, q.area))
    return across


def _refitted(factor: Tensor, other: Tensor, across: Tensor, cross: Tensor) -> Tensor:
    """`factor` as least squares gives it while `other` stays, as many outputs at a time as fit `CHUNK_BYTES`.

    factor: (groups, group_outputs, n)
    other:  (groups, group_outputs, m)
    across: (groups, n, m, n, m)
    cross:  (groups, group_outputs, n, m)
    """
    outputs = max(1, CHUNK_BYTES // (8 * across.shape[0] * factor.shape[2] ** 2 * other.shape[2]))
    found = []
    for own, fixed, wanted in zip(*(part.split(outputs, 1) for part in (factor, other, cross)), strict=True):
        halves = torch.einsum("gom,gnmkl->gonkl", fixed, across)
        normal = torch.einsum("gonkl,gol->gonk", halves, fixed)
        found.append(_solved(normal, torch.einsum("gonm,gom->gon", wanted, fixed), own))
    return torch.cat(found, 1)


def _solved(normal: Tensor, wanted: Tensor, now: Tensor) -> Tensor:
    missing = wanted - (normal @ now.unsqueeze(3)).squeeze(3)
    factor = torch.linalg.cholesky(ridged(normal, ridge_of(normal)))
    return now + torch.cholesky_solve(missing.unsqueeze(3), factor).squeeze(3)
