"""A dense convolution becomes a stage."""

from __future__ import annotations

from math import prod

from ....geometry import Geometry
from ...formats import Strides
from ...problem import Activation, Problem
from ..emit.dense import DenseKernel
from ..machine import Machine
from ..plan.dense import dense_cut, dense_plan
from ..plan.sizes import least_steps
from ..plan.tuning import tuning_of
from ..plan.view import view_of
from ..run.program import Program, Stage
from .decision import Decision, Layout
from .separable import strides_of


def lower_dense(problem: Problem, machine: Machine, threads: int) -> Decision:
    """The stage of a dense convolution, of a dense image that is channels-last or contiguous."""
    g, strides, residual = problem.geometry, strides_of(problem), problem.residual is not None
    activation = problem.activations[1]
    program = dense_program(g, problem.batch, strides, activation, residual=residual, machine=machine, threads=threads)
    return Decision(program, Layout(planar_in=strides[1] != 1, planar_out=False), problem.memory_format)


def dense_program(
    g: Geometry,
    batch: int,
    strides: Strides,
    activation: Activation,
    *,
    residual: bool,
    machine: Machine,
    threads: int,
) -> Program:
    """The stage of a dense convolution, of channels-last pixels or of planes; its result is dense and channels-last.

    strides: of the input, (batch, channels, *spatial); either channels or columns lie side by side
    """
    g = least_steps(g)
    macs = batch * prod(g.output_size) * g.kernel_area * g.in_channels // g.groups
    team = 1 if macs < tuning_of(machine).serial_macs else threads
    cut, planar = dense_cut(g, batch, machine, team), strides[1] != 1
    k = dense_plan(
        g,
        activation,
        machine,
        cut,
        residual=residual,
        planar=planar,
        pixel_stride=strides[-1] if g.input_size[-1] > 1 or planar else g.in_channels,
    )
    stage = Stage(DenseKernel(machine, k), view_of(g, batch, strides), cut.with_sums(k), (), k.zero_elements)
    return Program((stage,))
