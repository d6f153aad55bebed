"""Sums of each row of a depthwise result, left beside it, so that its mean is taken without reading it again.

    sums[row, block] = 0
    for tiles of the row's columns, from left to right:
        sums[row, block] += sum of the columns that the tile before it does not have

Rows are done whole by one thread each, so the order of the sums does not depend on the threads. A block has its place
to itself, also where its filters overlap those of the one before it.
"""

from __future__ import annotations

from ..plan.depthwise import DepthwisePlan
from .ir import Block, Int, Ptr, Vec, select


def clear(e: Block, k: DepthwisePlan, sums: Ptr, rows: Int, blocks: tuple[Int, Int]) -> None:
    """Begin the sums of some rows, of the blocks [first, last)."""
    with e.loop(0, rows) as row, e.loop(*blocks) as block:
        (sums + (row.index * k.sum_elements + block.index * k.lanes)).store(e.constant(0.0, k.lanes))


def add(e: Block, place: Ptr, tile: list[Vec], seen: Int) -> None:
    """Add the columns of a tile, but for the first `seen`."""
    with e.either(seen > 0) as (some, none):
        with some:
            zero = e.constant(0.0, tile[0].lanes)
            _add(place, [tile[0].like(select(seen <= i, one, zero).value) for i, one in enumerate(tile)])
        with none:
            _add(place, tile)


def _add(place: Ptr, vectors: list[Vec]) -> None:
    place.store(place.load(vectors[0].lanes) + pairwise(vectors))


def pairwise(vectors: list[Vec]) -> Vec:
    """Their sum, halves first."""
    if len(vectors) == 1:
        return vectors[0]
    half = len(vectors) // 2
    return pairwise(vectors[:half]) + pairwise(vectors[half:])
