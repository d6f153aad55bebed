"""Pieces of rows, copied from one place in rows to another.

for row in rows:
for c in range(channels):
out[out_start + row · out_step + c] = x[x_start + row · x_step + c]
"""

from __future__ import annotations

from dataclasses import dataclass

from ..plan.rows import RowPlan
from .elementwise import each_channel
from .ir import Block, Int
from .kernel import OnePlanKernel


@dataclass(frozen=True)
class CopyKernel(OnePlanKernel):
    """Tasks: rows."""

    kind = "copy_f32"
    pointers = ("x", "out")
    numbers = ("all_rows", "x_start", "out_start", "x_step", "out_step")

    plan: RowPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        rows = e.number("all_rows")
        x, out = e.pointer("x") + e.number("x_start"), e.pointer("out") + e.number("out_start")
        with e.loop(thread * rows // threads, (thread + 1) * rows // threads) as row:
            read, written = x + row.index * e.number("x_step"), out + row.index * e.number("out_step")

            def write(c: Int, lanes: int) -> None:
                (written + c).store((read + c).load(lanes))

            each_channel(e, self.plan.channels, self.plan.lanes, write)
