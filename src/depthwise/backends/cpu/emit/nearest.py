"""An image whose every pixel is repeated, down and across.

    for row in rows of the result, of all images:
        for x in range(columns):
            for j in range(across):
                out[row, x · across + j] = x[row // down, x]

The rows of an image are as many in the result, times `down`, so that all images are rows of one.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..plan.nearest import NearestPlan
from .elementwise import each_channel
from .ir import Block, Int, Ptr
from .kernel import OnePlanKernel


@dataclass(frozen=True)
class NearestKernel(OnePlanKernel):
    """Tasks: rows."""

    kind = "nearest_f32"
    pointers = ("x", "out")
    numbers = ("all_rows", "down", "columns")

    plan: NearestPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k, rows, columns = self.plan, e.number("all_rows"), e.number("columns")
        own = thread * rows // threads, (thread + 1) * rows // threads
        with e.loop(*own) as row, e.loop(0, columns) as column:
            read = e.pointer("x") + (row.index // e.number("down") * columns + column.index) * k.channels
            first = (row.index * columns + column.index) * (k.channels * k.across)
            written = e.pointer("out") + first

            def write(c: Int, lanes: int, read: Ptr = read, written: Ptr = written) -> None:
                value = (read + c).load(lanes)
                for j in range(k.across):
                    (written + (c + j * k.channels)).store(value)

            each_channel(e, k.channels, k.lanes, write)
