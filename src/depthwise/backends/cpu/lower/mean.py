"""A mean over the pixels of images becomes one stage."""

from __future__ import annotations

from ...pixels import Mean
from ..emit.mean import MeanKernel
from ..machine import Machine
from ..plan.elementwise import shared_by
from ..plan.mean import Images, TotalPlan, mean_plan
from ..plan.view import View
from ..run.program import Program, Stage
from .decision import Decision, of_pixels


def lower_mean(problem: Mean, machine: Machine, threads: int) -> Decision:
    blocks = mean_plan(problem.channels, machine)
    plan = TotalPlan(blocks.channels, blocks.lanes, blocks.vectors, problem.result)
    elements = problem.images * problem.pixels * problem.channels
    team = shared_by(elements, problem.images * plan.blocks, threads)
    cut = Images(threads=team, images=problem.images, image_rows=problem.pixels)
    return of_pixels(Program((Stage(MeanKernel(machine, plan), View(), cut),)))
