"""How a convolution's result lies: its strides, its memory format."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from ..geometry import Geometry

Strides = tuple[int, ...]  # in elements

LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def same_strides(size: Sequence[int], one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether tensors of this size lie alike: along a dimension of one element all do."""
    return all(n == 1 or a == b for n, a, b in zip(size, one, other, strict=True))


def suggested_format(*tensors: Tensor) -> torch.memory_format:
    """Channels-last where the strides of one of these, an input and its weights, say so: what a program can tell."""
    last = LAST.get(tensors[0].dim() - 2)
    if last is None or not any(suggest_memory_format(tensor) == last for tensor in tensors):
        return torch.contiguous_format
    return last


def suggested_strides(size: tuple[int, ...], *tensors: Tensor) -> Strides:
    """Of a result of this size in the suggested format; `tensors` are no tracer's."""
    return _suggested_strides(size, tuple((tensor.shape, tensor.stride()) for tensor in tensors))


@lru_cache(maxsize=4096)
def _suggested_strides(size: tuple[int, ...], layouts: tuple[tuple[tuple[int, ...], Strides], ...]) -> Strides:
    tensors = (torch.empty_strided(*layout, device="meta") for layout in layouts)
    return torch.empty(size, device="meta", memory_format=suggested_format(*tensors)).stride()


def torch_strides(x: Tensor, filters: Sequence[Tensor], g: Geometry, residual: Tensor | None) -> Strides:
    """Of what torch's own operators give, one after another; of dimensions of one element they may be other numbers.

    A convolution of torch asks its input, its weight, and which of its implementations would run; a residual is added
    to that.
    """
    layouts = tuple((tensor.shape, tensor.stride()) for tensor in filters)
    added = None if residual is None else residual.stride()
    # Which implementation runs goes by these two as well.
    settings = torch.get_num_threads() > 1, torch._C._get_mkldnn_enabled()
    return _torch_strides(g, x.shape, x.stride(), layouts, added, settings)


@lru_cache(maxsize=4096)
def _torch_strides(
    g: Geometry,
    size: tuple[int, ...],
    stride: Strides,
    filters: tuple[tuple[tuple[int, ...], Strides], ...],
    residual: Strides | None,
    _: tuple[bool, bool],
) -> Strides:
    y = torch.empty_strided(size, stride, device="cpu")
    even = tuple(before for before, _ in g.padding)
    if any(before != after for before, after in g.padding):
        # eager.py pads the input first.
        even = (0,) * g.rank
        wide = (n + before + after for n, (before, after) in zip(size[2:], g.padding, strict=True))
        y = torch.empty((*size[:2], *wide), device="cpu", memory_format=suggested_format(y))
    pointwise = ((1,) * g.rank, (0,) * g.rank, (1,) * g.rank, g.groups)
    windows = [(g.stride, even, g.dilation, g.in_channels), pointwise]
    if len(filters) == 1 and g.out_channels is not None:
        windows = [pointwise]
    for (shape, steps), window in zip(filters, windows, strict=False):
        weight = torch.empty_strided(shape, steps, device="cpu")
        out = (size[0], shape[0], *g.out_spatial)
        y = torch.empty(out, device="cpu", memory_format=_format_of_convolution(y, weight, *window))
    if residual is not None:
        other = torch.empty_strided(y.shape, residual, device="meta")
        y = torch.empty_strided(y.shape, y.stride(), device="meta") + other
    if y.is_contiguous() or (g.rank in LAST and y.is_contiguous(memory_format=LAST[g.rank])):
        return y.stride()
    return torch.empty(y.shape, device="meta").stride()


def _format_of_convolution(
    x: Tensor, weight: Tensor, stride: Strides, padding: Strides, dilation: Strides, groups: int
) -> torch.memory_format:
    window = stride, padding, dilation, False, (0,) * len(stride)
    implementation = torch._C._select_conv_backend(x, weight, None, *window, groups)
    found: torch.memory_format = torch._C._conv_determine_backend_memory_format(x, weight, implementation)
    return found
