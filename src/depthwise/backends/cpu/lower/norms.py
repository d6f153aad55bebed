"""A batch norm in training mode, and its gradients, as programs."""

from __future__ import annotations

from dataclasses import dataclass

from ...problem import Activation
from ..emit.norm_backward import CoefficientsKernel, GradientSumsKernel, NormGradientKernel
from ..emit.norm_forward import MomentsKernel, NormalizeKernel, NormKernel, StatisticsKernel
from ..emit.wide import CELLS
from ..machine import Machine
from ..plan.norm import norm_cut, norm_plan
from ..plan.view import View
from ..run.program import Program, Stage

SUMS = "sums"


@dataclass(frozen=True, slots=True)
class NormProblem:
    """What is asked: pure numbers. pixels: over all images; each has `channels` of them, one after the other."""

    pixels: int
    channels: int
    eps: float
    activation: Activation = None
    residual: bool = False


def forward_program(problem: NormProblem, machine: Machine, threads: int) -> Program:
    """Buffers: x, weight, bias, residual, statistics, out."""
    return _program(problem, machine, threads, (MomentsKernel, StatisticsKernel, NormalizeKernel))


def backward_program(problem: NormProblem, machine: Machine, threads: int, *, input_gradient: bool) -> Program:
    """Buffers: x, dy, bias, residual, statistics, gradients, dx, dresidual."""
    last = (NormGradientKernel,) if input_gradient else ()
    return _program(problem, machine, threads, (GradientSumsKernel, CoefficientsKernel, *last))


def _program(problem: NormProblem, machine: Machine, threads: int, kernels: tuple[type[NormKernel], ...]) -> Program:
    plan = norm_plan(problem.channels, problem.activation, machine, residual=problem.residual)
    plain = norm_plan(problem.channels, None, machine, residual=False)
    cut = norm_cut(problem.pixels, problem.channels, plan.lanes, problem.eps, machine, threads)
    # Those that look at no activation are the same for all.
    blind = (MomentsKernel, StatisticsKernel, CoefficientsKernel)
    stages = (Stage(kind(machine, plain if kind in blind else plan), View(problem.pixels), cut) for kind in kernels)
    return Program(tuple(stages), ((SUMS, CELLS * 2 * cut.chunks * cut.sum_channels),))
