"""Dense kernels and their separable factors.

For each input channel c a dense kernel is a matrix W[:, c, :] of (out_channels x kernel area). A separable layer with
depth multiplier M represents exactly the kernels whose every such slice has rank M at most; below that the truncated
singular value decomposition is the least Frobenius error (Eckart and Young, Psychometrika 1, 1936; as network
decoupling in arXiv 1808.05517).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from .errors import DepthwiseError
from .geometry import check_groups, positive


@dataclass(frozen=True, slots=True)
class Factors:
    """Weights of a separable convolution, and how far its kernel is from the one it was made of.

    depthwise:      (in_channels * depth_multiplier, 1, *kernel_size)
    pointwise:      (out_channels, in_channels * depth_multiplier / groups, 1, ...)
    relative_error: Frobenius norm of the difference over that of the dense kernel
    """

    depthwise: Tensor
    pointwise: Tensor
    relative_error: float


def factorize(weight: Tensor, depth_multiplier: int = 1, groups: int = 1) -> Factors:
    """Factors of the dense kernel `weight` with the least Frobenius error, in float64 inside.

    weight: (out_channels, in_channels / groups, *kernel_size)

    >>> factors = factorize(torch.ones(8, 4, 3, 3))
    >>> factors.depthwise.shape, factors.pointwise.shape, round(factors.relative_error, 6)
    (torch.Size([4, 1, 3, 3]), torch.Size([8, 4, 1, 1]), 0.0)
    """
    if not isinstance(weight, Tensor) or weight.dim() < 3 or 0 in weight.shape:
        raise DepthwiseError(
            "the dense kernel must be a tensor (out_channels, in_channels / groups, *kernel_size); got "
            f"{tuple(weight.shape) if isinstance(weight, Tensor) else weight!r}"
        )
    out_channels, group_channels, *kernel_size = weight.shape
    groups, depth_multiplier = positive(groups, "groups"), positive(depth_multiplier, "depth_multiplier")
    if not weight.is_floating_point() or not bool(weight.isfinite().all()):
        raise DepthwiseError("the dense kernel must be made of finite floating-point numbers")
    check_groups(group_channels * groups, out_channels, groups)
    area, group_outputs = prod(kernel_size), out_channels // groups
    if depth_multiplier > min(group_outputs, area):
        raise DepthwiseError(
            f"depth_multiplier={depth_multiplier} is more than a {group_outputs} x {area} slice of the kernel has "
            f"rank: {min(group_outputs, area)} (out_channels per group, or the kernel area) is already exact"
        )
    slices = weight.detach().double().reshape(groups, group_outputs, group_channels, area).transpose(1, 2)
    mixing, filters, values = truncated_svd(slices, depth_multiplier)
    pointwise = mixing.transpose(1, 2)
    norm = values.norm()
    return Factors(
        filters.reshape(-1, 1, *kernel_size).to(weight.dtype).contiguous(),
        pointwise.reshape(out_channels, -1, *(1,) * len(kernel_size)).to(weight.dtype).contiguous(),
        float(values[..., depth_multiplier:].norm() / norm) if norm > 0 else 0.0,
    )


def truncated_svd(slices: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Factors of the matrices of this rank that are closest to `slices`, and the singular values of these.

    slices: (..., rows, columns)
    out:    (..., rows, rank), (..., rank, columns), (..., min(rows, columns))
    """
    u, s, vh = torch.linalg.svd(slices, full_matrices=False)
    # Each factor takes the root of the singular value, so that both train at the same scale.
    root = s[..., :rank].sqrt()
    return u[..., :rank] * root.unsqueeze(-2), vh[..., :rank, :] * root.unsqueeze(-1), s


def compose(depthwise: Tensor, pointwise: Tensor, in_channels: int, groups: int = 1) -> Tensor:
    """The dense kernel that a separable convolution's weights stand for: the inverse of `factorize`.

    depthwise: (in_channels * depth_multiplier, 1, *kernel_size)
    pointwise: (out_channels, in_channels * depth_multiplier / groups, 1, ...)
    out:       (out_channels, in_channels / groups, *kernel_size)
    """
    kernel_size = depthwise.shape[2:]
    filters = depthwise.reshape(groups, in_channels // groups, -1, prod(kernel_size))
    mixing = pointwise.reshape(groups, -1, *filters.shape[1:3])
    dense = torch.einsum("gocm,gcmk->gock", mixing, filters)
    return dense.reshape(-1, in_channels // groups, *kernel_size)
