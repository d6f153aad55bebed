"""Depthwise first, then pointwise: the factors that reproduce a layer's outputs best.

    W[o, c, :] = sum over m of mixing[o, c, m] · filters[c, m, :]

The start is the truncated SVD. Given the filters, the mixing is a linear least squares problem; what it leaves is a
function of the filters alone, which L-BFGS lowers (variable projection: Golub and Pereyra, SIAM J. Numer. Anal. 10,
1973). A ridge holds the mixing to where it starts, so that what the calibration data say nothing about stays as the
trained weights have it, and no step raises the error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..factorize import truncated_svd

# Of the mean of the normal matrix's diagonal; and an eigenvalue below this share of the largest is none.
RIDGE, RANK_TOLERANCE = 1e-6, 1e-12


class Evidence(Protocol):
    """What is known of a layer's inputs and outputs, reduced to what the fits need."""

    @property
    def weights(self) -> Tensor: ...

    def normal_equations(self, filters: Tensor) -> tuple[Tensor, Tensor]:
        """Mean products of the filtered patches with themselves, and with the targets.

        filters: (groups, channels, multiplier, area)
        out:     (groups, channels * multiplier, channels * multiplier), (groups, channels * multiplier, group_outputs)
        """

    def error(self, kernel: Tensor) -> float:
        """The share of the targets' energy that a kernel (groups, group_outputs, patch) misses."""


@dataclass(frozen=True, slots=True, eq=False)
class DepthwiseFirst:
    """Factors of a kernel, per group, in float64.

    filters: (groups, channels, multiplier, area)
    mixing:  (groups, group_outputs, channels, multiplier)
    """

    filters: Tensor
    mixing: Tensor

    @property
    def kernel(self) -> Tensor:
        """(groups, group_outputs, channels * area)"""
        return torch.einsum("gocm,gcmk->gock", self.mixing, self.filters).flatten(2)


def start(kernel: Tensor, multiplier: int, area: int) -> DepthwiseFirst:
    """The truncated SVD of each input channel's slice (Eckart and Young, Psychometrika 1, 1936).

    kernel: (groups, group_outputs, channels * area)
    """
    mixing, filters, _ = truncated_svd(kernel.unflatten(2, (-1, area)).transpose(1, 2), multiplier)
    return DepthwiseFirst(filters.contiguous(), mixing.transpose(1, 2))


def refit_mixing(evidence: Evidence, factors: DepthwiseFirst) -> DepthwiseFirst:
    """The same filters with the mixing that least squares gives them."""
    normal, wanted = evidence.normal_equations(factors.filters)
    return DepthwiseFirst(factors.filters, _solved(normal, wanted, factors.mixing, ridge_of(normal)))


def refit(evidence: Evidence, factors: DepthwiseFirst, steps: int) -> DepthwiseFirst:
    """Filters and mixing together, by `steps` of L-BFGS at most; never worse than `factors`."""
    best = refit_mixing(evidence, factors)
    # The gauge: what the mixing gains in scale the filters lose, so the ridge is measured once, here.
    ridge = ridge_of(evidence.normal_equations(best.filters)[0])
    filters = best.filters.clone(memory_format=torch.contiguous_format).requires_grad_()
    search = torch.optim.LBFGS([filters], max_iter=steps, history_size=20, line_search_fn="strong_wolfe")
    scale = float(evidence.weights.sum())

    def left() -> Tensor:
        search.zero_grad()
        with torch.enable_grad():
            normal, wanted = evidence.normal_equations(filters)
            # The mixing stands still in the gradient: it is the best one (the envelope theorem).
            mixing = _solved(normal.detach(), wanted.detach(), best.mixing, ridge)
            flat = mixing.flatten(2)
            misfit = ((flat @ normal - 2 * wanted.mT) * flat).sum(2)
            held = ridge.flatten()[:, None] * (mixing - best.mixing).flatten(2).square().sum(2)
            loss: Tensor = (evidence.weights * (misfit + held)).sum() / max(scale, 1e-300)
            loss.backward()
        return loss.detach()

    try:
        search.step(left)
        found = refit_mixing(evidence, DepthwiseFirst(filters.detach(), best.mixing))
    # The search went so far that numbers overflowed, or that the ridge is too small for them.
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        found = best
    return min(found, best, factors, key=lambda each: evidence.error(each.kernel))


def unseen(evidence: Evidence, filters: Tensor) -> int:
    """How many directions of the filtered patches, over all groups, the calibration data do not show."""
    values = torch.linalg.eigvalsh(evidence.normal_equations(filters)[0])
    return int((values <= RANK_TOLERANCE * values.amax(1, keepdim=True)).sum())


def ridge_of(normal: Tensor) -> Tensor:
    """What is added to the diagonal of a normal matrix (..., n, n): (..., 1); 1 where the matrix is zero."""
    ridge = RIDGE * normal.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True)
    return torch.where(ridge > 0, ridge, torch.ones_like(ridge)).detach()


def ridged(normal: Tensor, ridge: Tensor) -> Tensor:
    return normal + torch.diag_embed(ridge.expand(normal.shape[:-1]))


def _solved(normal: Tensor, wanted: Tensor, mixing: Tensor, ridge: Tensor) -> Tensor:
    now = mixing.flatten(2).mT
    change = torch.cholesky_solve(wanted - normal @ now, torch.linalg.cholesky(ridged(normal, ridge)))
    return (now + change).mT.reshape(mixing.shape)
