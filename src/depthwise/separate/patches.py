"""What a dense convolution sees at each of its output positions: its input as rows of a matrix.

An output is a product of a kernel with such rows, so the second moments of the rows say everything that least squares
needs. Large images repeat themselves: of each at most `most` output positions are used, always the same ones.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from .. import functional
from ..geometry import out_spatial, padding_pairs
from ..layers.depthwise import pad_input

PLACES = 1024


def patches(x: Tensor, conv: _ConvNd, most: int = PLACES) -> Tensor:
    """The patches of `x` that `conv` multiplies its kernel with, padding included.

    x:   (batch, in_channels, *spatial), or without the batch
    out: (groups, batch * places, in_channels / groups * kernel area), a kernel's row being weight[o].flatten()

    >>> from torch import nn
    >>> conv = nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False)
    >>> x = torch.randn(5, 4, 9, 9)
    >>> rows = patches(x, conv)
    >>> rows.shape
    torch.Size([2, 80, 18])
    >>> torch.allclose(rows @ conv.weight.view(2, 3, 18).mT, outputs(conv(x), conv), atol=1e-5)
    True
    """
    rank = len(conv.kernel_size)
    x, _ = functional.batched(x, rank)
    spatial = x.shape[2:]
    pairs = padding_pairs(conv.padding, spatial, conv.kernel_size, conv.stride, conv.dilation)
    windows, _ = pad_input(x, conv)
    if conv.padding_mode == "zeros":
        windows = F.pad(windows, [amount for pair in reversed(pairs) for amount in pair])
    for axis, (k, s, d) in enumerate(zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)):
        windows = windows.unfold(2 + axis, d * (k - 1) + 1, s)[..., ::d]
    # Now batch and channels, then the output's axes, then the kernel's.
    size = out_spatial(spatial, conv.kernel_size, conv.stride, pairs, conv.dilation)
    chosen = windows[_at(size, most)] if prod(size) > most else windows.flatten(2, 1 + rank)
    rows = chosen.reshape(len(x), conv.groups, -1, min(prod(size), most), prod(conv.kernel_size))
    return rows.permute(1, 0, 3, 2, 4).flatten(3).flatten(1, 2)


def outputs(y: Tensor, conv: _ConvNd, most: int = PLACES) -> Tensor:
    """The outputs of `conv` at the positions of `patches`.

    y:   (batch, out_channels, *out_spatial), or without the batch
    out: (groups, batch * places, out_channels / groups)
    """
    y, _ = functional.batched(y, len(conv.kernel_size))
    size = tuple(y.shape[2:])
    chosen = y[_at(size, most)] if prod(size) > most else y.flatten(2)
    rows: Tensor = chosen.unflatten(1, (conv.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
    return rows


def _at(size: tuple[int, ...], most: int) -> tuple[Any, ...]:
    return (slice(None), slice(None), *places(size, most))


@lru_cache(maxsize=64)
def places(size: tuple[int, ...], most: int) -> tuple[Tensor, ...]:
    """Indices along each axis of `most` positions, always the same ones for one size."""
    drawn = torch.randperm(prod(size), generator=torch.Generator("cpu").manual_seed(0), device="cpu")[:most]
    return torch.unravel_index(drawn.sort().values, size)
