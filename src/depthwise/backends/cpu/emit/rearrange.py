"""A box of numbers, from places in x to places in out.

    for row in rows, i.e. for i0, i1, ..., i4 in the sizes of all axes but the last:
        for i in range(size of the last axis):
            out[start + i0 · out_0 + ... + i4 · out_4 + i · out_5] = x[start + i0 · x_0 + ... + i4 · x_4 + i · x_5]

`fill` stands in the place of x where there is one.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...pixels import MOST_AXES
from ..plan.rearrange import RearrangePlan
from .elementwise import AT_ONCE
from .ir import Block, Int, Ptr, ceil_div, greatest, least
from .kernel import OnePlanKernel

ROW, LAST = MOST_AXES - 2, MOST_AXES - 1


@dataclass(frozen=True)
class RearrangeKernel(OnePlanKernel):
    """Tasks: rows."""

    kind = "rearrange_f32"
    pointers = ("x", "out")
    numbers = (
        *("all_rows", "x_start", "out_start"),
        *(f"{name}_{axis}" for name in ("size", "x", "out") for axis in range(MOST_AXES)),
    )

    plan: RearrangePlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        rows, each = e.number("all_rows"), e.number(f"size_{ROW}")
        first, last = thread * rows // threads, (thread + 1) * rows // threads
        with e.loop(first // each, ceil_div(last, each)) as block:
            read, written = (self._begin(e, name, block.index) for name in ("x", "out"))
            start, stop = greatest(first - block.index * each, 0), least(last - block.index * each, each)
            with e.loop(start, stop) as row:
                self._row(
                    e, *(p + row.index * e.number(f"{name}_{ROW}") for p, name in ((read, "x"), (written, "out")))
                )

    def _begin(self, e: Block, name: str, block: Int) -> Ptr:
        """Where the rows of a block, that of the axes before ROW, begin."""
        place = e.pointer(name) + e.number(f"{name}_start")
        for axis in reversed(range(ROW)):
            size = e.number(f"size_{axis}")
            place = place + block % size * e.number(f"{name}_{axis}")
            block = block // size
        return place

    def _row(self, e: Block, read: Ptr, written: Ptr) -> None:
        k, size = self.plan, e.number(f"size_{LAST}")
        steps = {name: e.number(f"{name}_{LAST}") if k.lanes == 1 else e.whole(1) for name in ("x", "out")}
        done = e.whole(0)
        for lanes, count in ((k.lanes, AT_ONCE), (k.lanes, 1), (1, 1)):
            width = lanes * count
            end = done + (size - done) // width * width
            with e.loop(done, end, width) as at:
                for i in range(count):
                    place = at.index + i * lanes
                    source = read + place * steps["x"]
                    value = source.load(lanes) if k.fill is None else e.constant(k.fill, lanes)
                    (written + place * steps["out"]).store(value)
            done = end
