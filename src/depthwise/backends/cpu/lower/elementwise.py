"""What is done to each number alone becomes one stage."""

from __future__ import annotations

from ...pixels import Elementwise
from ..emit.elementwise import ElementsKernel, RowsKernel
from ..machine import Machine
from ..plan.elementwise import Elements, ImageRows, elementwise_plan, shared_by
from ..plan.view import View
from ..run.program import Program, Stage
from .decision import Decision, of_pixels


def lower_elementwise(problem: Elementwise, machine: Machine, threads: int) -> Decision:
    rows = problem.images * problem.pixels
    elements = rows * problem.channels
    plan = elementwise_plan(problem.terms, problem.channels, elements, machine)
    if plan.channels:
        by_rows = ImageRows(threads=shared_by(elements, rows, threads), all_rows=rows, image_rows=problem.pixels)
        return of_pixels(Program((Stage(RowsKernel(machine, plan), View(), by_rows),)))
    cut = Elements(threads=shared_by(elements, elements, threads), elements=elements)
    return of_pixels(Program((Stage(ElementsKernel(machine, plan), View(), cut),)))
