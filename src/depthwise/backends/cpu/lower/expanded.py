"""A pointwise convolution and the depthwise or separable one that alone reads it become one stage, where that pays."""

from __future__ import annotations

from dataclasses import replace

from ...problem import Problem
from ..emit.expanded import ExpandedDepthwiseKernel, ExpandedFusedKernel, ExpandedKernel, ExpandedSummedKernel
from ..machine import Machine
from ..plan.cut import team_of
from ..plan.depthwise import depthwise_plan
from ..plan.expanded import expanded_bands, rolled_rows
from ..plan.pointwise import pointwise_plan
from ..plan.sizes import least_steps, unaliased
from ..plan.view import view_of
from ..run.program import Program, Stage
from .decision import dense_strides


def lower_expanded(first: Problem, last: Problem, machine: Machine, threads: int) -> Program | None:
    """The program of two problems, `last` that of what `first` gives; None where two stages are as good, or better."""
    if first.operation != "pointwise" or last.operation not in ("depthwise", "separable"):
        return None
    if first.residual is not None or first.gated:
        return None
    g, batch = least_steps(last.geometry), last.batch
    strides = dense_strides(g, channels_last=True)
    if last.strides != strides or last.result is None or last.result[1] != 1:
        return None
    sizes = first.geometry.in_channels, g, batch, machine, team_of(g, batch, machine, threads)
    bands = expanded_bands(*sizes)
    if bands is None:
        return None
    cut = rolled_rows(*sizes, bands)
    expand = pointwise_plan(
        first.geometry,
        first.activations[1],
        machine,
        residual=False,
        pixels=cut.expand_pixels,
        pixel_stride=first.geometry.in_channels,
    )
    d = depthwise_plan(g, last.activations[0], machine, planar=False, pixel_stride=g.in_channels, distance=strides[-1])
    d = replace(d, fetches=False, fetches_out=False, summed=last.summed)
    kind = ExpandedSummedKernel if last.summed else ExpandedDepthwiseKernel
    kernel: ExpandedKernel = kind(machine, expand, d)
    if g.out_channels is not None:
        p = pointwise_plan(
            g,
            last.activations[1],
            machine,
            residual=last.residual is not None,
            pixels=cut.tile_pixels,
            pixel_stride=unaliased(g.depthwise_channels),
        )
        kernel = ExpandedFusedKernel(machine, expand, d, replace(p, fetched_lines=min(p.fetched_lines, 1)))
    return Program((Stage(kernel, view_of(g, batch, strides), cut, zeros=d.zero_elements(g.in_channels)),))
