"""Panels of weights and tiles of pixels: the two loops that pointwise and dense convolutions have in common.

Pixels are cut into as few tiles as the greatest height allows, all of one height or one pixel less, so that nearly all
numbers of pixels leave no remainder; where those tiles would be lower than the least height, the last overlaps the one
before it. So does the last vector of a group where channels do not fill it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..plan.product import LONGEST_CHAIN, Product
from .activations import activated
from .ir import Block, Int, Ptr, Vec, ceil_div, greatest, least

# To the panels, and to the bias of every vector.
WEIGHTS = ("pointwise_weight", "pointwise_bias")
POINTERS = (*WEIGHTS, "residual", "out")


@dataclass(frozen=True, slots=True)
class Panel:
    """`vectors` vectors of a group; `columns` are their first output channels."""

    number: Int
    weight: Ptr
    bias: Ptr
    vectors: int
    columns: list[Int]
    first_input: Int


@dataclass(frozen=True, slots=True)
class Tile:
    """`rows` neighbouring pixels, the first of which is `m`; `begin` pixels are in the tiles before it."""

    m: Int
    rows: int
    begin: Int


def each_panel(
    e: Block, k: Product, panels: tuple[Int, Int], write: Callable[[Panel], None], weights: tuple[str, str] = WEIGHTS
) -> None:
    """Full panels first, numbered through all groups, then each group's rest; `weights`: the pointers to them."""
    first, last = panels
    full = k.groups * k.full_panels
    with e.loop(first, least(last, full)) as panel:
        group, index = panel.index // k.full_panels, panel.index % k.full_panels
        write(_panel(e, k, weights, panel.index, (group, index * k.vectors), k.vectors))
    if k.rest_vectors:
        with e.loop(greatest(first, full), last) as panel:
            place = panel.index - full, e.whole(k.full_panels * k.vectors)
            write(_panel(e, k, weights, panel.index, place, k.rest_vectors))


def _panel(e: Block, k: Product, weights: tuple[str, str], number: Int, place: tuple[Int, Int], vectors: int) -> Panel:
    """The `vectors` vectors from place = (group, vector) on."""
    group, vector = place
    start = group * k.group_vectors + vector
    weight, bias = map(e.pointer, weights)
    return Panel(
        number=number,
        weight=weight + start * (k.lanes * k.terms),
        bias=bias + start * k.lanes,
        vectors=vectors,
        columns=[
            group * k.group_outputs + least((vector + j) * k.lanes, k.group_outputs - k.lanes) for j in range(vectors)
        ],
        first_input=group * k.group_inputs,
    )


def each_tile(heights: tuple[int, ...], pixels: Int, write: Callable[[Tile], None]) -> None:
    """Tiles by their first pixel and their height, of two neighbouring heights; single pixels where there are few."""
    least_height = heights[-1]
    e = pixels.block
    tiles = greatest(ceil_div(pixels, heights[0]), 1)
    # So many tiles of `height` pixels, after `taller` ones with one more.
    height, taller = pixels // tiles, pixels % tiles
    fits, enough = height >= least_height, pixels >= least_height
    for rows in heights:
        first = height.equals(rows).pick(taller * (rows + 1), 0)
        count = (height + 1).equals(rows).pick(taller, height.equals(rows).pick(tiles - taller, 0))
        if rows == least_height:
            count = fits.pick(count, enough.pick(ceil_div(pixels, rows), 0))
        with e.loop(0, count) as tile:
            begin = first + tile.index * rows
            write(Tile(least(begin, pixels - rows), rows, begin))
    with e.loop((fits | enough).pick(pixels, 0), pixels) as pixel:
        write(Tile(pixel.index, 1, pixel.index))


def add_products(
    e: Block, terms: int, sums: list[Vec], add: Callable[[Int, list[Vec]], list[Vec]], longest: int = LONGEST_CHAIN
) -> list[Vec]:
    """The sums plus `terms` terms each, in chains of about one length, at most `longest`; `add` adds those of one."""
    length = -(-terms // -(-terms // longest))
    with e.loop(0, length, carried=sums) as c:
        c.values = add(c.index, c.values)
    if length == terms:
        return c.values
    with e.loop(length, terms, length, carried=c.values) as chain:
        with e.loop(chain.index, least(chain.index + length, terms), carried=nothing(sums)) as c:
            c.values = add(c.index, c.values)
        chain.values = joined(chain.values, c.values)
    return chain.values


def joined(sums: list[Vec], others: list[Vec]) -> list[Vec]:
    return [total + own for total, own in zip(sums, others, strict=True)]


def nothing(sums: list[Vec]) -> list[Vec]:
    """As many sums of no products."""
    return [total.block.constant(0.0, total.lanes) for total in sums]


def put(k: Product, sums: list[Vec], rows: int, results: list[Ptr], residuals: list[Ptr]) -> None:
    """Store the sums of a tile, the residual added, activated; `residuals` is empty where there is none."""
    vectors = len(results)
    for i in range(rows):
        for j in range(vectors):
            value = sums[i * vectors + j]
            if residuals:
                value = value + (residuals[j] + i * k.out_channels).load(k.lanes)
            (results[j] + i * k.out_stride).store(activated(value, k.activation))
