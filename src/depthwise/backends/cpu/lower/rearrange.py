"""A box of numbers that goes to other places becomes one stage."""

from __future__ import annotations

from math import prod

from ...pixels import MOST_AXES, Rearrange
from ..emit.rearrange import RearrangeKernel
from ..machine import Machine
from ..plan.elementwise import shared_by
from ..plan.rearrange import Box, RearrangePlan, merged
from ..plan.sizes import lanes_below
from ..plan.view import View
from ..run.program import Program, Stage
from .decision import Decision, of_pixels


def lower_rearrange(problem: Rearrange, machine: Machine, threads: int) -> Decision:
    sizes, steps = merged(problem.sizes, problem.steps)
    missing = MOST_AXES - len(sizes)
    sizes, steps = (1,) * missing + sizes, ((0, 0),) * missing + steps
    is_beside = steps[-1][1] == 1 and (problem.fill is not None or steps[-1][0] == 1)
    lanes = lanes_below(sizes[-1], machine.vector_lanes) if is_beside else 1
    team = shared_by(prod(sizes), prod(sizes[:-1]), threads)
    cut = Box(threads=team, starts=problem.starts, sizes=sizes, steps=steps)
    kernel = RearrangeKernel(machine, RearrangePlan(lanes, problem.fill))
    return of_pixels(Program((Stage(kernel, View(), cut),)))
