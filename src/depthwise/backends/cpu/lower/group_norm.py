"""A norm over groups of channels becomes three stages."""

from __future__ import annotations

import struct

from ...pixels import GroupNorm, Term
from ..emit.elementwise import RowsKernel
from ..emit.group_norm import GroupFactorsKernel, GroupSumsKernel
from ..emit.wide import CELLS
from ..machine import Machine
from ..plan.elementwise import ImageRows, elementwise_plan, shared_by
from ..plan.group_norm import GroupedImages, GroupPlan
from ..plan.mean import mean_plan
from ..plan.view import View
from ..run.program import Program, Stage
from .decision import Decision, of_pixels

TERMS = (Term("mul", "image"), Term("add", "image"))


def lower_group_norm(problem: GroupNorm, machine: Machine, threads: int) -> Decision:
    blocks, rows = mean_plan(problem.channels, machine), problem.images * problem.pixels
    plan = GroupPlan(blocks.channels, blocks.lanes, blocks.vectors, problem.groups, problem.affine)
    elements, numbers = rows * problem.channels, problem.images * problem.channels

    def cut(work: int, tasks: int) -> GroupedImages:
        return GroupedImages(
            threads=shared_by(work, tasks, threads),
            images=problem.images,
            image_rows=problem.pixels,
            eps_bits=struct.unpack("<q", struct.pack("<d", problem.eps))[0],
        )

    terms = elementwise_plan(TERMS, problem.channels, elements, machine)
    by_rows = ImageRows(threads=shared_by(elements, rows, threads), all_rows=rows, image_rows=problem.pixels)
    stages = (
        Stage(GroupSumsKernel(machine, plan), View(), cut(elements, problem.images * plan.blocks)),
        Stage(GroupFactorsKernel(machine, plan), View(), cut(numbers, problem.images * plan.groups)),
        Stage(RowsKernel(machine, terms), View(), by_rows, (("operand_0", "scales"), ("operand_1", "shifts"))),
    )
    between = (("sums", 2 * CELLS * numbers), ("scales", numbers), ("shifts", numbers))
    return of_pixels(Program(stages, between))
