"""What sees a whole row of channels at once becomes one stage."""

from __future__ import annotations

from ...pixels import LayerNorm, Softmax
from ..emit.kernel import Kernel
from ..emit.rows import LayerNormKernel, SoftmaxKernel
from ..machine import Machine
from ..plan.elementwise import shared_by
from ..plan.rows import RowPlan, WholeRows
from ..plan.sizes import lanes_below
from ..plan.view import View
from ..run.program import Program, Stage
from .decision import Decision, of_pixels


def lower_layer_norm(problem: LayerNorm, machine: Machine, threads: int) -> Decision:
    lanes = lanes_below(problem.channels, machine.vector_lanes)
    plan = RowPlan(problem.channels, lanes, problem.eps, problem.affine)
    return _of_rows(LayerNormKernel(machine, plan), problem, threads)


def lower_softmax(problem: Softmax, machine: Machine, threads: int) -> Decision:
    plan = RowPlan(problem.channels, lanes_below(problem.channels, machine.vector_lanes))
    return _of_rows(SoftmaxKernel(machine, plan), problem, threads)


def _of_rows(kernel: Kernel, problem: LayerNorm | Softmax, threads: int) -> Decision:
    team = shared_by(problem.rows * problem.channels, problem.rows, threads)
    return of_pixels(Program((Stage(kernel, View(), WholeRows(threads=team, all_rows=problem.rows)),)))
