"""An image repeated pixel by pixel becomes one stage."""

from __future__ import annotations

from ...pixels import Nearest
from ..emit.nearest import NearestKernel
from ..machine import Machine
from ..plan.elementwise import shared_by
from ..plan.nearest import NearestPlan, RepeatedRows
from ..plan.sizes import lanes_below
from ..plan.view import View
from ..run.program import Program, Stage
from .decision import Decision, of_pixels


def lower_nearest(problem: Nearest, machine: Machine, threads: int) -> Decision:
    plan = NearestPlan(problem.channels, lanes_below(problem.channels, machine.vector_lanes), problem.across)
    rows = problem.rows * problem.down
    elements = rows * problem.columns * problem.across * problem.channels
    cut = RepeatedRows(
        threads=shared_by(elements, rows, threads), all_rows=rows, down=problem.down, columns=problem.columns
    )
    return of_pixels(Program((Stage(NearestKernel(machine, plan), View(), cut),)))
