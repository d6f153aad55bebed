"""Depthwise pixels alone: rows, or pieces of them, of all planes, in strips that go down some rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from ....geometry import Geometry
from ..machine import FLOAT_BYTES, Machine
from .cut import Cut, balance, segments_of
from .filters import sets_of
from .sizes import moved_bytes, three
from .tuning import tuning_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Strips(Cut):
    """Units, pieces of rows, are dealt out, and chunks of blocks of filters.

    segments:   pieces of a row
    chunks:     of the blocks of filters
    plane_rows: rows of a plane that are done, on all planes, before others; they divide its rows evenly
    strip_rows: rows that a strip goes down
    fetch_rows:   how many rows further down the input is fetched, or 0
    fetch_planes: 1 where that of the next plane is fetched instead, or 0
    fetch_blocks: how many blocks of filters ahead that of a sequence is fetched, or 0
    """

    segments: int
    chunks: int
    plane_rows: int
    strip_rows: int
    fetch_rows: int = 0
    fetch_planes: int = 0
    fetch_blocks: int = 0


def strips_cut(g: Geometry, batch: int, machine: Machine, threads: int, *, whole_rows: bool = False) -> Strips:
    """whole_rows: units are no pieces of rows"""
    rows, height = batch * prod(g.out_spatial[:-1]), three(g.out_spatial, 1)[1]
    pieces = 1 if whole_rows else segments_of(g.out_spatial[-1], rows, threads, g.out_spatial[-1])
    segments, blocks = pieces, filter_blocks(g, machine)
    is_uneven = balance(rows * segments, threads) < tuning_of(machine).least_balance
    chunks = min(threads, blocks) if is_uneven else 1
    cut = Strips(threads=threads, segments=segments, chunks=chunks, plane_rows=height, strip_rows=height)
    if moved_bytes(g, batch) <= machine.l2_bytes:
        return cut
    plane_rows = _plane_rows(g, machine)
    cut = replace(cut, plane_rows=plane_rows, strip_rows=tuning_of(machine).far_strip_rows)
    return replace(cut, fetch_planes=1) if plane_rows < height else replace(cut, **fetched_ahead(g, machine))


def filter_blocks(g: Geometry, machine: Machine) -> int:
    """Blocks of filters, of whole vectors."""
    return -(-g.depthwise_channels // machine.vector_lanes)


def fetched_ahead(g: Geometry, machine: Machine) -> dict[str, int]:
    """How far ahead an input beyond L2 is fetched, where planes are done one after another."""
    ahead = max(1, tuning_of(machine).fetched_blocks // filter_blocks(g, machine))
    if g.rank == 1:
        return {"fetch_blocks": ahead}
    # Where all pixels share one set of L1, what a tile reads now would be driven out; below the image there is nothing.
    reaches_over_all = g.out_spatial[-2] == 1 or (g.kernel_size[-2] - 1) * g.dilation[-2] >= g.input_size[-2]
    return {} if sets_of(g.in_channels) == 1 or reaches_over_all else {"fetch_rows": ahead}


def _plane_rows(g: Geometry, machine: Machine) -> int:
    """The most rows under which the window's planes stay in L2, where fewer bytes come from beyond it so."""
    (depth, height, _), kernel, stride = (three(n, 1) for n in (g.out_spatial, g.kernel_size, g.stride))
    if depth == 1:
        return height
    dilation = three(g.dilation, 1)
    reach, planes = (kernel[1] - 1) * dilation[1] + 1, (kernel[0] - 1) * dilation[0] + 1
    row_bytes = FLOAT_BYTES * g.in_channels * g.input_size[-1]

    def in_rows(rows: int) -> int:
        return (rows - 1) * stride[1] + reach

    most = (machine.l2_bytes // 2 // (planes * row_bytes) - reach) // stride[1] + 1
    for rows in range(min(height, most), 0, -1):
        if height % rows == 0:
            return rows if in_rows(rows) * stride[0] < kernel[0] * rows * stride[1] else height
    return height
