"""Pointwise, then depthwise convolutions, whose first result stays in L2: when that pays, and its bands of rows."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ....geometry import Geometry
from ..machine import FLOAT_BYTES, Machine
from .cut import Cut
from .sizes import moved_bytes, unaliased
from .tuning import tuning_of

# Of rows, those of a thread's first band that the thread before has too.
_MOST_TWICE = 0.1
# Of the rows of a band, those that are moved.
_MOST_MOVED = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledRows(Cut):
    """Bands of output rows are dealt out.

    bands:           of an image
    rolled_elements: of the rows of the first result that a band sees
    expand_pixels, tile_pixels: the most of the first result, and of the last, that are multiplied at once
    fetch_next:      elements of the input that are fetched for each pixel of the result; 0: none
    """

    bands: int
    rolled_elements: int
    expand_pixels: int
    tile_pixels: int
    fetch_next: int = 0


def expanded_bands(channels: int, g: Geometry, batch: int, machine: Machine, threads: int) -> int | None:
    """Bands of an image for a convolution `g` of what a pointwise one makes of `channels` channels.

    None where it does not pay. It does where the first result would go far beyond L2 and back, and few of its rows are
    moved or computed twice.
    """
    expanded_bytes = FLOAT_BYTES * batch * prod(g.input_size)
    if g.rank != 2 or expanded_bytes <= tuning_of(machine).expanded_share * machine.l2_bytes:
        return None
    (overlap, stride), in_y, out_y = (_overlap(g), g.stride[0]), g.input_size[1], g.out_spatial[0]
    if overlap * (threads - 1) > _MOST_TWICE * batch * in_y:
        return None
    weights = channels * g.in_channels + g.depthwise_channels // g.groups * (g.out_channels or 0)
    room = machine.l2_bytes * 3 // 4 // FLOAT_BYTES - weights
    row, result = _row_elements(g)
    most = min(out_y, (room - overlap * row) // (stride * row + result))
    return None if most < 1 or overlap > _MOST_MOVED * most * stride else _even(out_y, most, batch, threads)


def rolled_rows(channels: int, g: Geometry, batch: int, machine: Machine, threads: int, bands: int) -> RolledRows:
    """So many bands of each image."""
    rows, stride = -(-g.out_spatial[0] // bands), g.stride[0]
    seen = min(g.input_size[1], (rows - 1) * stride + max(stride, _reach(g)))
    row, result = _row_elements(g)
    return RolledRows(
        threads=threads,
        bands=bands,
        rolled_elements=seen * row,
        scratch_elements=seen * row + rows * result,
        expand_pixels=min(g.input_size[1], rows * stride) * g.input_size[2],
        tile_pixels=rows * g.out_spatial[1],
        fetch_next=channels * prod(g.stride) if moved_bytes(g, batch) > machine.l2_bytes else 0,
    )


def _reach(g: Geometry) -> int:
    """Rows of the image under a window."""
    return (g.kernel_size[0] - 1) * g.dilation[0] + 1


def _overlap(g: Geometry) -> int:
    """Rows that windows one below the other share."""
    return max(0, _reach(g) - g.stride[0])


def _row_elements(g: Geometry) -> tuple[int, int]:
    """Of a row of the first result, and of one of the depthwise result where that is multiplied further."""
    pixel = unaliased(g.depthwise_channels) if g.out_channels is not None else 0
    return g.input_size[2] * g.in_channels, g.out_spatial[1] * pixel


def _even(rows: int, most: int, batch: int, threads: int) -> int:
    """Bands of an image, of at most so many rows, such that the thread with the most rows has the fewest."""
    fewest = -(-rows // most)

    def cost(bands: int) -> tuple[int, int]:
        return -(-batch * bands // threads) * -(-rows // bands), bands

    return min(range(fewest, min(rows, 2 * fewest + threads) + 1), key=cost)
