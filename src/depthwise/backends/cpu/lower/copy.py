"""A copy of pieces of rows becomes one stage."""

from __future__ import annotations

from ...pixels import Copy
from ..emit.copy import CopyKernel
from ..machine import Machine
from ..plan.copy import Pieces
from ..plan.elementwise import shared_by
from ..plan.rows import RowPlan
from ..plan.sizes import lanes_below
from ..plan.view import View
from ..run.program import Program, Stage
from .decision import Decision, of_pixels


def lower_copy(problem: Copy, machine: Machine, threads: int) -> Decision:
    plan = RowPlan(problem.channels, lanes_below(problem.channels, machine.vector_lanes))
    cut = Pieces(
        threads=shared_by(problem.rows * problem.channels, problem.rows, threads),
        all_rows=problem.rows,
        x_start=problem.starts[0],
        out_start=problem.starts[1],
        x_step=problem.steps[0],
        out_step=problem.steps[1],
    )
    start, step = problem.starts[1], problem.steps[1]
    piece = (step, start, start + problem.channels)
    return of_pixels(Program((Stage(CopyKernel(machine, plan), View(), cut, piece=piece),)))
