"""Squeeze-excite around its two small layers, forward and backward, as programs of one stage each."""

from __future__ import annotations

from dataclasses import dataclass

from ...pixels import Elementwise, Mean, Term
from ..emit.gate_gradient import GateGradientKernel
from ..machine import Machine
from ..plan.elementwise import shared_by
from ..plan.gate import WholeImages
from ..plan.rows import RowPlan
from ..plan.sizes import lanes_below
from ..plan.view import View
from ..run.program import Program, Stage
from .elementwise import lower_elementwise
from .mean import lower_mean


@dataclass(frozen=True, slots=True)
class GateProblem:
    """What is asked, as pure numbers: images whose channels lie side by side."""

    images: int
    pixels: int
    channels: int


def means_program(problem: GateProblem, machine: Machine, threads: int) -> Program:
    """Of the pixels of each image. Buffers: x, out."""
    return lower_mean(Mean(problem.images, problem.pixels, problem.channels), machine, threads).program


def product_program(problem: GateProblem, machine: Machine, threads: int) -> Program:
    """Of images and factors. Buffers: x, operand_0, out."""
    return _with(Term("mul", "image"), problem, machine, threads)


def sum_program(problem: GateProblem, machine: Machine, threads: int) -> Program:
    """Of images and a number for each of their channels. Buffers: x, operand_0, out, which may be x."""
    return _with(Term("add", "image"), problem, machine, threads)


def gradient_program(problem: GateProblem, machine: Machine, threads: int) -> Program:
    """Of the product. Buffers: x, dy, factors, dx, factors_gradient."""
    elements = problem.images * problem.pixels * problem.channels
    team = shared_by(elements, problem.images, threads)
    cut = WholeImages(threads=team, images=problem.images, pixels=problem.pixels)
    plan = RowPlan(problem.channels, lanes_below(problem.channels, machine.vector_lanes))
    return Program((Stage(GateGradientKernel(machine, plan), View(), cut),))


def _with(term: Term, problem: GateProblem, machine: Machine, threads: int) -> Program:
    asked = Elementwise(problem.images, problem.pixels, problem.channels, (term,))
    return lower_elementwise(asked, machine, threads).program
