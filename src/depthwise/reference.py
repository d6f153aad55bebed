"""The definition of both convolutions: slow, obvious, in any dtype, without torch's convolutions.

Everything else in the package is tested against this file; it is never optimised. Letters: n c y x index the output
(here in any rank), `tap` is one (ky, kx) of the kernel.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from .geometry import IntOrTuple, Padding, geometry


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
) -> Tensor:
    """Convolve each channel of `x` with its own filters; channel c·depth_multiplier + m is the m-th filter of c.

    x:      (batch, in_channels, *spatial)
    weight: (in_channels * depth_multiplier, 1, *kernel_size)
    bias:   (in_channels * depth_multiplier,) or None
    out:    (batch, in_channels * depth_multiplier, *out_spatial)

    out[n, c·M + m, y, x] = bias[c·M + m] + sum over ky, kx of
        weight[c·M + m, 0, ky, kx] · x[n, c, y·stride + ky·dilation - before, x·stride + kx·dilation - before]

    >>> depthwise_conv(torch.ones(1, 2, 3, 3), torch.ones(2, 1, 3, 3), padding=1)[0, 0]
    tensor([[4., 6., 4.],
            [6., 9., 6.],
            [4., 6., 4.]])
    """
    batch, channels, *spatial = x.shape
    multiplier = weight.shape[0] // channels
    g = geometry(x.shape[1:], weight.shape[2:], stride, padding, dilation, depth_multiplier=multiplier)

    padded = x.new_zeros(batch, channels, *(n + sum(p) for n, p in zip(spatial, g.padding, strict=True)))
    every = slice(None)
    inside = tuple(slice(before, before + n) for n, (before, _) in zip(spatial, g.padding, strict=True))
    padded[(every, every, *inside)] = x

    out = x.new_zeros(batch, *g.output_size)
    per_filter = (-1, *(1,) * g.rank)
    for index, tap in enumerate(product(*(range(k) for k in g.kernel_size))):
        windows = tuple(
            slice(d * k, d * k + s * (n - 1) + 1, s)
            for k, d, s, n in zip(tap, g.dilation, g.stride, g.out_spatial, strict=True)
        )
        taken = padded[(every, every, *windows)].repeat_interleave(multiplier, dim=1)
        out = out + weight.flatten(1)[:, index].reshape(per_filter) * taken
    return out if bias is None else out + bias.reshape(per_filter)


def pointwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> Tensor:
    """Mix the channels of every pixel.

    x:      (batch, in_channels, *spatial)
    weight: (out_channels, in_channels / groups, 1, ...)
    bias:   (out_channels,) or None
    out:    (batch, out_channels, *spatial)
    """
    matrices = weight.flatten(1).chunk(groups, dim=0)
    parts = x.chunk(groups, dim=1)
    out = torch.cat([torch.einsum("oc,nc...->no...", w, p) for w, p in zip(matrices, parts, strict=True)], dim=1)
    return out if bias is None else out + bias.reshape(-1, *(1,) * (x.dim() - 2))


def separable_conv(
    x: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    depthwise_bias: Tensor | None = None,
    pointwise_bias: Tensor | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
) -> Tensor:
    """A depthwise convolution, then a pointwise one, nothing between.

    >>> separable_conv(torch.ones(1, 2, 3), torch.ones(2, 1, 3), torch.ones(4, 2, 1)).flatten()
    tensor([6., 6., 6., 6.])
    """
    y = depthwise_conv(x, depthwise_weight, depthwise_bias, stride, padding, dilation)
    return pointwise_conv(y, pointwise_weight, pointwise_bias, groups)
