"""The inputs of one block of filters at one pixel: with a multiplier, several filters read the same channel.

    for lane in range(lanes):
        input[lane] = pixel[(o + lane) // multiplier]

Where multiplier and lanes do not go together, the block's few channels are loaded at once and spread over the lanes in
an order that depends on o mod multiplier: a row of a table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..plan.filters import PixelFilters
from .ir import Block, Int, Ptr, Vec, least
from .order import order_of


@dataclass(frozen=True, slots=True)
class Inputs:
    """Those of the filters from one on.

    first: elements from the start of a pixel to what `load` reads
    load:  a vector of them, from there
    """

    first: int | Int
    load: Callable[[Ptr], Vec]


def inputs_of(e: Block, k: PixelFilters, o: Int, *, packed: bool) -> Inputs:
    """The inputs of the filters from `o` on.

    packed: a pixel holds one block of filters, lane by lane; else all input channels
    """
    lanes, multiplier = k.lanes, k.multiplier
    if packed:
        return Inputs(0, lambda pixel: pixel.load(lanes))
    if multiplier == 1:
        return Inputs(o, lambda pixel: pixel.load(lanes))
    first = o // multiplier
    if multiplier % lanes == 0 or k.channels == 1:
        return Inputs(first, lambda pixel: e.splat(pixel, lanes))
    if lanes % multiplier == 0:
        repeated = [lane // multiplier for lane in range(lanes)]
        return Inputs(first, lambda pixel: pixel.load(lanes // multiplier).permuted(repeated))
    return _spread(e, k, o)


def _spread(e: Block, k: PixelFilters, o: Int) -> Inputs:
    lanes, multiplier = k.lanes, k.multiplier
    phases = [[(phase + lane) // multiplier for lane in range(lanes)] for phase in range(multiplier)]
    width = 1 << max(phases[-1]).bit_length()
    # No further than the last channel: nothing is read behind a pixel.
    first = least(o // multiplier, max(0, k.channels - width))
    order = order_of(e, f"spread{multiplier}", phases, o % multiplier).shifted(o // multiplier - first)
    there = [channel < k.channels for channel in range(width)]
    wide = [min(lane, width - 1) for lane in range(lanes)]
    return Inputs(first, lambda pixel: order.applied(pixel.load_where(there).permuted(wide)))
