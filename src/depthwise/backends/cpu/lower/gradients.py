"""Gradients become stages: the one place that knows which kinds of kernels a gradient needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch

from ....geometry import Geometry
from ...formats import LAST, Strides
from ...problem import Problem
from ..emit.filter_sums import FilterSumsKernel
from ..emit.gated_sums import GatedSumsKernel
from ..emit.input_gradient import InputGradientKernel
from ..emit.pointwise_gradient import PointwiseGradientKernel, PointwiseSumsKernel
from ..emit.weight_gradient import WeightGradientKernel, WeightSumsKernel
from ..machine import Machine
from ..plan.cut import team_of
from ..plan.filter_sums import Lines, filter_sums_plan
from ..plan.input_gradient import input_boxes, input_gradient_plan
from ..plan.pointwise_gradient import pixel_slots, pointwise_gradient_plan
from ..plan.sizes import three
from ..plan.view import View, view_of
from ..plan.weight_gradient import weight_boxes, weight_gradient_plan
from ..run.program import Program, Stage
from .decision import dense_strides
from .fresh import with_fresh_weights
from .separable import BETWEEN, lower_separable

# What boxes were summed up to, between two stages.
SUMS = "sums"


@dataclass(frozen=True, slots=True)
class WeightGradient:
    """The gradients of a depthwise convolution's weight and bias.

    strides: of the input
    planar:  input and gradient have columns side by side, else channels; the gradient is dense
    bias:    its gradient is asked for too
    """

    geometry: Geometry
    batch: int
    strides: Strides
    planar: bool
    bias: bool


@dataclass(frozen=True, slots=True)
class InputGradient:
    """The gradient of a depthwise convolution's input; that of its result lies `strides` apart.

    planar: both have columns side by side, and the result is contiguous; else channels
    """

    geometry: Geometry
    batch: int
    strides: Strides
    planar: bool


def lower_input_gradient(asked: InputGradient, machine: Machine, threads: int) -> Program:
    g, planar = asked.geometry, asked.planar
    stages = _turned(asked, machine, threads) if is_turned(g) else _strided(asked, machine, threads)
    if g.depth_multiplier == 1:
        return with_fresh_weights(Program(stages), g, machine, turned=is_turned(g), bias=False)
    *others, last = stages
    last = replace(last, buffers=(*last.buffers, ("out", BETWEEN)))
    pixels, filters = prod(g.input_size[1:]), asked.batch * g.depthwise_channels
    plan = filter_sums_plan(g.in_channels, g.depth_multiplier, pixels, machine, planar=planar)
    lines = asked.batch * (g.in_channels if planar else pixels)
    cut = Lines(threads=team_of(g, asked.batch, machine, threads), lines=lines, length=pixels)
    sums = Stage(FilterSumsKernel(machine, plan), last.view, cut, (("values", BETWEEN),))
    program = Program((*others, last, sums), ((BETWEEN, filters * pixels),))
    return with_fresh_weights(program, g, machine, turned=is_turned(g), bias=False)


def is_turned(g: Geometry) -> bool:
    """Whether the gradient of an input is a convolution with kernels turned about."""
    return all(s == 1 for s in g.stride)


def _turned(asked: InputGradient, machine: Machine, threads: int) -> tuple[Stage, ...]:
    """A convolution of the filters' gradients, with the padding that the geometry's lacks of a whole one."""
    g = asked.geometry
    reaches = [d * (k - 1) for k, d in zip(g.kernel_size, g.dilation, strict=True)]
    padding = tuple((reach - before, reach - after) for reach, (before, after) in zip(reaches, g.padding, strict=True))
    turned = Geometry((g.depthwise_channels, *g.out_spatial), g.kernel_size, g.stride, padding, g.dilation)
    size = (asked.batch, g.depthwise_channels, *g.input_size[1:])
    last = None if asked.planar else LAST.get(g.rank)
    result = torch.empty(size, device="meta", memory_format=last or torch.contiguous_format).stride()
    problem = Problem("depthwise", turned, torch.float32, "cpu", asked.batch, asked.strides, result)
    return lower_separable(problem, machine, threads).program.stages


def _strided(asked: InputGradient, machine: Machine, threads: int) -> tuple[Stage, ...]:
    g, planar = asked.geometry, asked.planar
    is_dense = asked.strides[-1] == g.depthwise_channels or g.out_spatial[-1] == 1
    pixel_stride = g.depthwise_channels if is_dense and not planar else None
    plan = input_gradient_plan(g, asked.batch, machine, planar=planar, pixel_stride=pixel_stride)
    cut = input_boxes(g, asked.batch, machine, team_of(g, asked.batch, machine, threads), planar=planar)
    view = view_of(g, asked.batch, asked.strides)
    return (Stage(InputGradientKernel(machine, plan), replace(view, sizes=view.outputs, outputs=view.sizes), cut),)


def lower_weight_gradient(asked: WeightGradient, machine: Machine, threads: int) -> Program:
    g = asked.geometry
    is_dense = asked.strides[-1] == g.in_channels or g.input_size[-1] == 1
    # Of a row of one pixel the stride says nothing.
    distance = g.in_channels if is_dense else asked.strides[-1]
    pixel_stride = g.in_channels if is_dense and not asked.planar else None
    plan = weight_gradient_plan(
        g, asked.batch, machine, bias=asked.bias, planar=asked.planar, pixel_stride=pixel_stride, distance=distance
    )
    cut = weight_boxes(plan, g, asked.batch, machine, team_of(g, asked.batch, machine, threads))
    view, zeros = view_of(g, asked.batch, asked.strides), plan.zero_elements(g.input_size[-1], distance)
    stages = (
        Stage(WeightGradientKernel(machine, plan), view, cut, zeros=zeros),
        Stage(WeightSumsKernel(machine, plan), view, cut),
    )
    return Program(stages, ((SUMS, plan.sum_elements(cut.slots)),))


def pointwise_input_problem(g: Geometry, batch: int, strides: Strides) -> Problem:
    """The gradient of a pointwise convolution's input: a convolution of its result's, which lies `strides` apart."""
    turned = replace(g, input_size=g.output_size, out_channels=g.in_channels)
    result = dense_strides(g, channels_last=True)
    return Problem("pointwise", turned, torch.float32, "cpu", batch, strides, result)


@dataclass(frozen=True, slots=True)
class PointwiseGradient:
    """The gradients of a pointwise convolution's weight and bias, of dense channels-last images.

    geometry: with a window of one pixel
    bias:     its gradient is asked for too
    """

    geometry: Geometry
    batch: int
    bias: bool


def lower_pointwise_gradient(asked: PointwiseGradient, machine: Machine, threads: int) -> Program:
    g, batch = asked.geometry, asked.batch
    plan = pointwise_gradient_plan(g, batch, machine, bias=asked.bias)
    cut = pixel_slots(plan, g, batch, machine, team_of(g, batch, machine, threads))
    view = View(batch=batch, outputs=three(g.out_spatial, 1))
    stages = (
        Stage(PointwiseGradientKernel(machine, plan), view, cut),
        Stage(PointwiseSumsKernel(machine, plan), view, cut),
    )
    return Program(stages, ((SUMS, cut.slots * plan.tiles * plan.tile_elements),))


def lower_gated_gradient(g: Geometry, batch: int, machine: Machine, threads: int) -> Program:
    """The gradients of a pointwise convolution's weight and of the factors that its input was multiplied by.

    Buffers: x, gradient, weight, factors, weight_gradient, factors_gradient.

    g: with a window of one pixel, one group
    """
    plan = pointwise_gradient_plan(g, batch, machine, bias=False, may_turn=False)
    cut = pixel_slots(plan, g, batch, machine, team_of(g, batch, machine, threads), slots=batch)
    view = View(batch=batch, outputs=three(g.out_spatial, 1))
    stages = (
        Stage(PointwiseGradientKernel(machine, plan), view, cut),
        Stage(GatedSumsKernel(machine, plan), view, cut),
    )
    return Program(stages, ((SUMS, cut.slots * plan.tiles * plan.tile_elements),))
