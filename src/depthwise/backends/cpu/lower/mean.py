"""A mean over the pixels of images becomes one stage."""

from __future__ import annotations

from ...pixels import Mean
from ..emit.mean import MeanKernel
from ..machine import Machine
from ..plan.elementwise import shared_by
from ..plan.mean import Images, total_plan
from ..plan.view import View
from ..run.program import Program, Stage
from .decision import Decision, of_pixels


def lower_mean(problem: Mean, machine: Machine, threads: int) -> Decision:
    plan = total_plan(problem.channels, machine, problem.result, block=problem.block)
    rows = problem.sums or problem.pixels
    team = shared_by(problem.images * rows * problem.channels, problem.images * plan.blocks, threads)
    cut = Images(threads=team, images=problem.images, image_rows=rows, pixels=problem.pixels)
    return of_pixels(Program((Stage(MeanKernel(machine, plan), View(), cut),)))
