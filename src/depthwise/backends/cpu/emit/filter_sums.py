"""Sums over the filters of each channel, as the gradient of an input has them.

    for p in pixels, c in blocks of `lanes` channels:                 (or planes p, c, in blocks of `lanes` pixels)
        out[p, c] = values[p, c · multiplier] + values[p, c · multiplier + 1] + ...

The last block overlaps the one before it. Domain: lanes <= channels, or pixels of a plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add

from ..plan.filter_sums import FilterSumsPlan
from .ir import Block, Int, Ptr, Vec, ceil_div, least
from .kernel import OnePlanKernel


@dataclass(frozen=True)
class FilterSumsKernel(OnePlanKernel):
    """Tasks: pixels, or planes of channels."""

    kind = "dw_filter_sums_f32"
    pointers = ("values", "out")
    numbers = ("lines", "length")

    plan: FilterSumsPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k, lines = self.plan, e.number("lines")
        length = e.number("length") if k.planar else e.whole(k.channels)
        with e.loop(thread * lines // threads, (thread + 1) * lines // threads) as line:
            values, out = (
                e.pointer("values") + line.index * length * k.multiplier,
                e.pointer("out") + line.index * length,
            )
            with e.loop(0, ceil_div(length, k.lanes)) as block:
                first = least(block.index * k.lanes, length - k.lanes)
                if k.planar:
                    parts = [(values + (first + length * i)).load(k.lanes) for i in range(k.multiplier)]
                else:
                    parts = _apart(k, values + first * k.multiplier)
                (out + first).store(reduce(add, parts))


def _apart(k: FilterSumsPlan, values: Ptr) -> list[Vec]:
    """Filter i of each of `lanes` channels, for each i: every multiplier-th number from `values` + i on."""
    vectors = [(values + i * k.lanes).load(k.lanes) for i in range(k.multiplier)]
    apart = []
    for i in range(k.multiplier):
        sources = [divmod(lane * k.multiplier + i, k.lanes) for lane in range(k.lanes)]
        found = vectors[0]
        for number, vector in enumerate(vectors):
            own = [source == number for source, _ in sources]
            if number == 0:
                found = vector.permuted([lane if is_own else 0 for (_, lane), is_own in zip(sources, own, strict=True)])
            elif any(own):
                lanes = [k.lanes + sources[at][1] if is_own else at for at, is_own in enumerate(own)]
                found = found.merged(vector, lanes)
        apart.append(found)
    return apart
