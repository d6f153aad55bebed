"""Pointwise first, then depthwise, the blueprint block (arXiv 2003.13549): the factors that reproduce outputs best.

    W[o, c, :] = mixing[o, c] · filters[o, :]

The start is the SVD of each output channel's slice. Every output is a problem of its own, linear in the mixing and in
the filter apart; the two take turns, each solved exactly and held to where it was by a ridge, so that the error of no
output rises.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

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
    u, s, vh = torch.linalg.svd(kernel.unflatten(2, (-1, area)), full_matrices=False)
    root = s[..., :1].sqrt()
    return PointwiseFirst(u[..., 0] * root, vh[..., 0, :] * root)


def refit_mixing(q: Quadratic, factors: PointwiseFirst) -> PointwiseFirst:
    """The same filters with the mixing that least squares gives them, a few outputs at a time."""
    across = q.gram.unflatten(1, (-1, q.area)).unflatten(3, (-1, q.area))
    found = []
    for mixing, filters, cross in _few_outputs(q, factors):
        halves = torch.einsum("gok,gckdl->gocdl", filters, across)
        normal = torch.einsum("gocdl,gol->gocd", halves, filters)
        found.append(_solved(normal, torch.einsum("gock,gok->goc", cross, filters), mixing))
    return PointwiseFirst(torch.cat(found, 1), factors.filters)


def refit_filters(q: Quadratic, factors: PointwiseFirst) -> PointwiseFirst:
    """The same mixing with the filters that least squares gives it, a few outputs at a time."""
    across = q.gram.unflatten(1, (-1, q.area)).unflatten(3, (-1, q.area))
    found = []
    for mixing, filters, cross in _few_outputs(q, factors):
        halves = torch.einsum("goc,gckdl->gokdl", mixing, across)
        normal = torch.einsum("gokdl,god->gokl", halves, mixing)
        found.append(_solved(normal, torch.einsum("gock,goc->gok", cross, mixing), filters))
    return PointwiseFirst(factors.mixing, torch.cat(found, 1))


def refit(q: Quadratic, factors: PointwiseFirst, rounds: int) -> PointwiseFirst:
    """Both in turn, `rounds` times; never worse than `factors`."""
    better = refit_mixing(q, factors)
    for _ in range(rounds):
        better = refit_mixing(q, refit_filters(q, better))
    return min(better, factors, key=lambda each: q.error(each.kernel))


def _few_outputs(q: Quadratic, factors: PointwiseFirst) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(mixing, filters, cross by channel and tap) of so many outputs as fit `CHUNK_BYTES`."""
    groups, patch, _ = q.gram.shape
    outputs = max(1, CHUNK_BYTES // (8 * groups * max(q.channels, q.area) * patch))
    cross = q.cross.mT.unflatten(2, (-1, q.area))
    parts = (factors.mixing, factors.filters, cross)
    return zip(*(part.split(outputs, 1) for part in parts), strict=True)


def _solved(normal: Tensor, wanted: Tensor, now: Tensor) -> Tensor:
    missing = wanted - (normal @ now.unsqueeze(3)).squeeze(3)
    factor = torch.linalg.cholesky(ridged(normal, ridge_of(normal)))
    return now + torch.cholesky_solve(missing.unsqueeze(3), factor).squeeze(3)
