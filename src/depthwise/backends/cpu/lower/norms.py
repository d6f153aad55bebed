"""A batch norm in training mode, and its gradients, as programs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...problem import Activation
from ..emit.derivatives import LONG
from ..emit.norm_backward import SHIFT, TURN, CoefficientsKernel, GradientSumsKernel, NormGradientKernel
from ..emit.norm_forward import MomentsKernel, NormalizeKernel, NormKernel, StatisticsKernel
from ..emit.norm_whole import WholeGradientKernel, WholeNormKernel, WholeSumsKernel
from ..emit.wide import CELLS
from ..machine import Machine
from ..plan.norm import NormCut, NormPlan, column_plan, norm_cut, norm_plan, plane_plan
from ..plan.view import View
from ..run.program import Program, Stage

SUMS = "sums"


@dataclass(frozen=True, slots=True)
class NormProblem:
    """What is asked: pure numbers.

    pixels: over all images
    plane:  pixels of one where channels are planes; 0: each pixel has its channels, one after the other
    momentum: by which running statistics move to the batch's; None: there are none
    """

    pixels: int
    channels: int
    eps: float
    activation: Activation = None
    residual: bool = False
    plane: int = 0
    momentum: float | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels, self.channels


def forward_program(problem: NormProblem, machine: Machine, threads: int) -> Program:
    """Buffers: x, weight, bias, residual, statistics, out; running_mean, running_var."""
    # The residual is read once.
    columns = _columns(problem, machine, threads, read_again=1)
    if columns is not None:
        plan = replace(columns, tracks=problem.momentum is not None)
        return _in_one_stage(problem, plan, machine, threads, WholeNormKernel)
    return _by_chunks(problem, machine, threads, (MomentsKernel, StatisticsKernel, NormalizeKernel))


def backward_program(problem: NormProblem, machine: Machine, threads: int, *, input_gradient: bool) -> Program:
    """Buffers: x, dy, bias, residual, statistics, weight_gradient, bias_gradient, dx, dresidual."""
    columns = _columns(problem, machine, threads, read_again=3 if problem.residual else 2)
    if columns is not None:
        whole = WholeGradientKernel if input_gradient else WholeSumsKernel
        plan = _keeping(columns, problem) if input_gradient else columns
        return _in_one_stage(problem, plan, machine, threads, whole)
    last = (NormGradientKernel,) if input_gradient else ()
    return _by_chunks(problem, machine, threads, (GradientSumsKernel, CoefficientsKernel, *last))


def _keeping(plan: NormPlan, problem: NormProblem) -> NormPlan:
    is_long = problem.activation is not None and problem.activation[0] in LONG
    # Of vectors that overlap, one would read what the other has replaced.
    return replace(plan, keeps=is_long and (plan.planar or problem.channels % plan.lanes == 0))


def _columns(problem: NormProblem, machine: Machine, threads: int, *, read_again: int) -> NormPlan | None:
    activation, residual = problem.activation, problem.residual
    if problem.plane:
        return plane_plan(activation, machine, residual=residual)
    return column_plan(problem.size, activation, machine, threads, residual=residual, read_again=read_again)


def _in_one_stage(
    problem: NormProblem, plan: NormPlan, machine: Machine, threads: int, kernel: type[NormKernel]
) -> Program:
    plane = problem.plane or 1
    view = View(batch=problem.pixels // plane, outputs=(1, 1, plane))
    stage = Stage(kernel(machine, plan), view, _cut(problem, plan, machine, threads))
    return Program((stage,), () if kernel is WholeNormKernel else _coefficients(problem))


def _by_chunks(problem: NormProblem, machine: Machine, threads: int, kernels: tuple[type[NormKernel], ...]) -> Program:
    plan = norm_plan(problem.channels, problem.activation, machine, residual=problem.residual)
    plain = norm_plan(problem.channels, None, machine, residual=False)
    if NormGradientKernel in kernels:
        plan = _keeping(plan, problem)
    cut = _cut(problem, plan, machine, threads)
    # Those that look at no activation are the same for all.
    blind = (MomentsKernel, StatisticsKernel, CoefficientsKernel)
    plans = {kind: plain if kind in blind else plan for kind in kernels}
    if StatisticsKernel in kernels:
        plans[StatisticsKernel] = replace(plain, tracks=problem.momentum is not None)
    stages = (Stage(kind(machine, own), View(problem.pixels), cut) for kind, own in plans.items())
    inner = () if StatisticsKernel in kernels else _coefficients(problem)
    return Program(tuple(stages), ((SUMS, CELLS * 2 * cut.chunks * cut.sum_channels), *inner))


def _coefficients(problem: NormProblem) -> tuple[tuple[str, int], ...]:
    return (SHIFT, problem.channels), (TURN, problem.channels)


def _cut(problem: NormProblem, plan: NormPlan, machine: Machine, threads: int) -> NormCut:
    return norm_cut(problem.size, plan.lanes, problem.eps, problem.momentum or 0.0, machine, threads)
