"""An activation alone, and its derivative, as programs of one stage each."""

from __future__ import annotations

from dataclasses import dataclass

from ...pixels import Elementwise, Term
from ...problem import Activation
from ..machine import Machine
from ..run.program import Program
from .elementwise import lower_elementwise


@dataclass(frozen=True, slots=True)
class ActivationProblem:
    """What is asked, as pure numbers: of so many elements."""

    elements: int
    activation: Activation


def forward_program(problem: ActivationProblem, machine: Machine, threads: int) -> Program:
    """Buffers: x, out."""
    return _of(problem, Term("activation", activation=problem.activation), machine, threads)


def backward_program(problem: ActivationProblem, machine: Machine, threads: int) -> Program:
    """Buffers: x, the gradient of the result; operand_0, what the activation was given; out."""
    return _of(problem, Term("derivative", "each", activation=problem.activation), machine, threads)


def _of(problem: ActivationProblem, term: Term, machine: Machine, threads: int) -> Program:
    return lower_elementwise(Elementwise(1, 1, problem.elements, (term,)), machine, threads).program
