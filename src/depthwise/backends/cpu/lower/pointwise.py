"""Pointwise convolutions alone become one stage."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ....geometry import Geometry
from ...problem import Activation, Problem
from ..emit.gated import GatedKernel, ScaledKernel
from ..emit.kernel import Kernel
from ..emit.pointwise import PointwiseKernel
from ..machine import Machine
from ..plan.cut import Cut, team_of
from ..plan.panels import ImagePanels, images_cut, panels_cut
from ..plan.pointwise import PointwisePlan, pointwise_plan
from ..plan.product import vectors_of
from ..plan.sizes import moved_bytes
from ..plan.view import view_of
from ..run.program import Program, Stage
from .decision import Decision, Layout, dense_strides


def lower_pointwise(problem: Problem, machine: Machine, threads: int) -> Decision:
    """The stage of a pointwise convolution alone, of dense channels-last images."""
    g, residual = problem.geometry, problem.residual is not None
    if problem.gated:
        return Decision(
            _gated(problem, machine, threads), Layout(planar_in=False, planar_out=False), problem.memory_format
        )
    program = pointwise_program(
        g, problem.batch, g.in_channels, problem.activations[1], residual=residual, machine=machine, threads=threads
    )
    return Decision(program, Layout(planar_in=False, planar_out=False), problem.memory_format)


def pointwise_program(
    g: Geometry,
    batch: int,
    pixel_stride: int,
    activation: Activation,
    *,
    residual: bool,
    machine: Machine,
    threads: int,
) -> Program:
    """The stages of a pointwise convolution alone, of channels-last pixels evenly `pixel_stride` elements apart.

    g: with a window of one pixel
    """
    team = team_of(g, batch, machine, threads)
    cut = panels_cut(g, machine, team, batch * prod(g.out_spatial))
    p = pointwise_plan(g, activation, machine, residual=residual, pixels=cut.tile_pixels, pixel_stride=pixel_stride)
    return _in_one_stage(PointwiseKernel(machine, _fetching(p, g, batch, machine)), cut, g, batch)


def scaled_program(g: Geometry, batch: int, machine: Machine, threads: int) -> Program:
    """The stage of one whose result is multiplied by numbers of each image's own, and others are added to it.

    Buffers: x, scale, shift, pointwise_weight, pointwise_bias, out.
    """
    cut, p = _of_images(g, batch, None, machine, threads, residual=False)
    return _in_one_stage(ScaledKernel(machine, p), replace(cut, scratch_elements=0), g, batch)


def _gated(problem: Problem, machine: Machine, threads: int) -> Program:
    """The stage of one whose input is multiplied by factors of each image's own."""
    g, batch, activation = problem.geometry, problem.batch, problem.activations[1]
    cut, p = _of_images(g, batch, activation, machine, threads, residual=problem.residual is not None)
    return _in_one_stage(GatedKernel(machine, replace(p, pixels_first=False)), cut, g, batch)


def _of_images(
    g: Geometry, batch: int, activation: Activation, machine: Machine, threads: int, *, residual: bool
) -> tuple[ImagePanels, PointwisePlan]:
    lanes, vectors, _ = vectors_of(g, machine)
    elements = g.in_channels // g.groups * vectors * lanes
    cut = images_cut(g, machine, team_of(g, batch, machine, threads), batch, elements)
    p = pointwise_plan(g, activation, machine, residual=residual, pixels=cut.tile_pixels, pixel_stride=g.in_channels)
    return cut, _fetching(p, g, batch, machine)


def _fetching(p: PointwisePlan, g: Geometry, batch: int, machine: Machine) -> PointwisePlan:
    """The same; what lies in L2 need not be fetched."""
    return p if moved_bytes(g, batch) > machine.l2_bytes else replace(p, fetched_lines=0)


def _in_one_stage(kernel: Kernel, cut: Cut, g: Geometry, batch: int) -> Program:
    return Program((Stage(kernel, view_of(g, batch, dense_strides(g, channels_last=True)), cut),))
