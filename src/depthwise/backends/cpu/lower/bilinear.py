"""An image resized by weighing four pixels becomes one stage."""

from __future__ import annotations

import struct

from ...pixels import Bilinear
from ..emit.bilinear import BilinearKernel
from ..machine import Machine
from ..plan.bilinear import BilinearPlan, ResizedRows
from ..plan.elementwise import shared_by
from ..plan.sizes import lanes_below
from ..plan.view import View
from ..run.program import Program, Stage
from .decision import Decision, of_pixels


def lower_bilinear(problem: Bilinear, machine: Machine, threads: int) -> Decision:
    plan = BilinearPlan(problem.channels, lanes_below(problem.channels, machine.vector_lanes), problem.aligned)
    (in_y, in_x), (out_y, out_x) = problem.size, problem.out_size
    y_bits, x_bits = (struct.unpack("<q", struct.pack("<d", step))[0] for step in problem.steps)
    rows = problem.images * out_y
    cut = ResizedRows(
        threads=shared_by(rows * out_x * problem.channels, rows, threads),
        all_rows=rows,
        in_y=in_y,
        in_x=in_x,
        out_y=out_y,
        out_x=out_x,
        y_bits=y_bits,
        x_bits=x_bits,
    )
    return of_pixels(Program((Stage(BilinearKernel(machine, plan), View(), cut),)))
