"""Exact algebra that merges what stands next to a convolution into its weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .errors import DepthwiseError

# By rank of what they normalise. A SyncBatchNorm in eval mode, or alone, is the batch norm of any rank.
BATCH_NORMS: Mapping[int, tuple[type[_BatchNorm], ...]] = {
    1: (nn.BatchNorm1d, nn.SyncBatchNorm),
    2: (nn.BatchNorm2d, nn.SyncBatchNorm),
    3: (nn.BatchNorm3d, nn.SyncBatchNorm),
}


def scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """(scale, shift), float64, such that the batch norm in eval mode is x · scale + shift per channel.

    Raises DepthwiseError where it normalises with the statistics of the batch.
    """
    if norm.training or norm.running_mean is None or norm.running_var is None:
        raise DepthwiseError(
            "a batch norm folds into a convolution only with running statistics and in eval mode; call .eval() first"
        )
    return scale_and_shift_of(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)


def scale_and_shift_of(
    mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """`scale_and_shift` of a norm with these statistics and parameters."""
    scale = torch.rsqrt(var.double() + eps)
    if weight is not None:
        scale = scale * weight.double()
    shift = -mean.double() * scale
    return scale, shift if bias is None else shift + bias.double()


def through_pointwise(shift: Tensor, pointwise: Tensor, groups: int = 1) -> Tensor:
    """What a constant per channel before a pointwise convolution adds after it: P·shift.

    shift:     (channels,)
    pointwise: (out_channels, channels / groups, 1, ...)
    out:       (out_channels,)
    """
    matrices = pointwise.flatten(1).unflatten(0, (groups, -1))
    return torch.einsum("goc,gc->go", matrices, shift.reshape(groups, -1)).flatten()
