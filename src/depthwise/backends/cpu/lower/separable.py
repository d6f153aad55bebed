"""Depthwise and separable convolutions become one stage, or two."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch

from ....geometry import Geometry
from ...formats import Strides, same_strides
from ...problem import Activation, Problem
from ..emit.boxes import BoxedDepthwiseKernel, PackedDepthwiseKernel
from ..emit.depthwise import DepthwiseKernel, SummedDepthwiseKernel
from ..emit.direct import DirectKernel
from ..emit.fused import BoxedFusedKernel, FusedKernel
from ..emit.kernel import Kernel
from ..emit.padded import PaddedKernel
from ..emit.patches import PatchKernel
from ..emit.planar import PlanarPointwiseKernel
from ..emit.pointwise import PointwiseKernel
from ..machine import Machine
from ..plan.bands import Bands, TwoStages, separable_cut
from ..plan.boxes import boxes_cut, comes_packed, packed_cut
from ..plan.cut import Cut, team_of
from ..plan.depthwise import DepthwisePlan, depthwise_plan, in_order, reads_in_order
from ..plan.direct import direct_plan, planes_cut, runs_direct
from ..plan.padded import padded_cut, padded_plan, runs_padded
from ..plan.patches import patch_plan, patches_cut, runs_patches
from ..plan.planar import planar_cut, planar_plan, runs_planar
from ..plan.pointwise import PointwisePlan, pointwise_plan
from ..plan.sizes import LINE_ELEMENTS, joined, least_steps, unaliased
from ..plan.strips import strips_cut
from ..plan.view import View, view_of
from ..run.program import Program, Stage
from .decision import Decision, Layout, dense_strides

# The depthwise result between two stages.
BETWEEN = "between"


def lower_separable(problem: Problem, machine: Machine, threads: int) -> Decision:
    """The stages of a depthwise or separable convolution."""
    g, batch = least_steps(problem.geometry), problem.batch
    layout = replace(layout_of(problem), residual_pixels=_adds_pixels(problem))
    strides = strides_of(problem) if layout.copied is None else dense_strides(g, channels_last=not layout.planar_in)
    # Sums are of the rows that there are.
    g, strides = (g, strides) if problem.summed else joined(g, strides)
    team = team_of(g, batch, machine, threads)
    call = _Call(g, batch, strides, problem.activations, problem.residual is not None, problem.summed, machine, team)
    separable = g.out_channels is not None
    if layout.planar_in and runs_patches(g, machine):
        program = _patched(call)
    elif layout.planar_in and runs_direct(g, machine):
        program = _direct(call)
    elif (
        layout.planar_in == layout.planar_out
        and not problem.summed
        and runs_padded(g, machine, pixels=not layout.planar_in)
    ):
        program = _padded(call, layout)
    elif separable and layout.planar_out and _multiplies_planes(call, layout):
        program = _planar_stages(call, layout)
    elif layout.planar_out:
        program = _boxed_separable(call, layout) if separable else _boxed_depthwise(call, layout)
    else:
        program = _separable(call) if separable else _depthwise(call)
    return Decision(program, layout, problem.memory_format)


def layout_of(problem: Problem) -> Layout:
    """Read what can be read as it lies, and write the result in its memory format."""
    g, strides = problem.geometry, strides_of(problem)
    planar_out = problem.memory_format == torch.contiguous_format
    if strides[1] == 1 or (g.in_channels == 1 and not planar_out):
        # One pixel lies alike in all formats.
        return Layout(planar_in=False, planar_out=planar_out and prod(g.out_spatial) > 1)
    columns_together = strides[-1] == 1 or g.input_size[-1] == 1
    if columns_together and planar_out:
        return Layout(planar_in=True, planar_out=True)
    if columns_together:
        why = "the input is contiguous, the weights and so the result are channels-last"
    else:
        why = f"neither channels nor columns lie side by side in strides {strides}"
    return Layout(planar_in=planar_out, planar_out=planar_out, copied=why)


def _adds_pixels(problem: Problem) -> bool:
    """Whether the residual of a result in planes is dense pixels."""
    if problem.residual is None or problem.memory_format != torch.contiguous_format:
        return False
    batch, channels, *spatial = problem.output_size
    last = torch.empty(batch, *spatial, channels, device="meta").movedim(-1, 1).stride()
    return prod(spatial) > 1 and channels > 1 and same_strides(problem.output_size, problem.residual, last)


def strides_of(problem: Problem) -> Strides:
    """Of the input."""
    if problem.strides is None:
        raise RuntimeError("a problem is planned for the strides of its input")
    return problem.strides


@dataclass(frozen=True, slots=True)
class _Call:
    """A problem and the team that there is for it."""

    g: Geometry
    batch: int
    strides: Strides
    activations: tuple[Activation, Activation]
    residual: bool
    summed: bool
    machine: Machine
    threads: int

    @property
    def sizes(self) -> tuple[Geometry, int, Machine, int]:
        """What cuts go by."""
        return self.g, self.batch, self.machine, self.threads

    def depthwise(self, *, planar: bool) -> DepthwisePlan:
        g, pixel = self.g, self.strides[-1]
        is_dense = pixel == g.in_channels or g.input_size[-1] == 1
        pixel_stride = g.in_channels if is_dense and not planar else None
        return depthwise_plan(
            g, self.activations[0], self.machine, planar=planar, pixel_stride=pixel_stride, distance=pixel
        )

    def pointwise(self, pixels: int) -> PointwisePlan:
        stride = unaliased(self.g.depthwise_channels)
        return pointwise_plan(
            self.g, self.activations[1], self.machine, residual=self.residual, pixels=pixels, pixel_stride=stride
        )

    def stage(self, kernel: Kernel, cut: Cut, zeros: int = 0, **buffers: str) -> Stage:
        return Stage(kernel, view_of(self.g, self.batch, self.strides), cut, tuple(buffers.items()), zeros)

    def zeros(self, d: DepthwisePlan) -> int:
        return d.zero_elements(self.strides[-1])


def _direct(call: _Call) -> Program:
    d = direct_plan(call.g, call.activations[0], call.machine)
    return Program(
        (call.stage(DirectKernel(call.machine, d), planes_cut(*call.sizes), d.zero_elements(call.g.input_size[-1])),)
    )


def _patched(call: _Call) -> Program:
    kernel = PatchKernel(call.machine, patch_plan(call.g, call.activations[0], call.machine))
    return Program((call.stage(kernel, patches_cut(call.g, call.machine, call.threads)),))


def _padded(call: _Call, layout: Layout) -> Program:
    plan = padded_plan(call.g, call.activations[0], call.machine, pixels=not layout.planar_in)
    return Program((call.stage(PaddedKernel(call.machine, plan), padded_cut(*call.sizes, plan)),))


def _boxed_depthwise(call: _Call, layout: Layout) -> Program:
    d, cut = call.depthwise(planar=layout.planar_in), boxes_cut(*call.sizes, planar_in=layout.planar_in)
    if d.to_planes:
        # From registers: nothing passes through memory of the thread's own.
        cut = replace(cut, scratch_elements=0)
    return Program((call.stage(BoxedDepthwiseKernel(call.machine, d), cut, call.zeros(d)),))


def _boxed_separable(call: _Call, layout: Layout) -> Program:
    d, cut = call.depthwise(planar=layout.planar_in), boxes_cut(*call.sizes, planar_in=layout.planar_in)
    kernel = BoxedFusedKernel(call.machine, d, call.pointwise(cut.tile_pixels), layout.residual_pixels)
    return Program((call.stage(kernel, cut, call.zeros(d)),))


def _alone(g: Geometry) -> Geometry:
    """The depthwise step."""
    return replace(g, out_channels=None, groups=1)


def _multiplies_planes(call: _Call, layout: Layout) -> bool:
    is_direct = layout.planar_in and runs_direct(_alone(call.g), call.machine)
    return not layout.residual_pixels and runs_planar(call.g, call.batch, call.machine, is_direct=is_direct)


def _planar_stages(call: _Call, layout: Layout) -> Program:
    """The depthwise result lies in planes between two stages."""
    g, pixels = call.g, prod(call.g.out_spatial)
    alone = replace(call, g=_alone(g), residual=False)
    is_direct = layout.planar_in and runs_direct(alone.g, call.machine)
    (first,) = (_direct(alone) if is_direct else _boxed_depthwise(alone, layout)).stages
    apart = unaliased(-(-pixels // LINE_ELEMENTS) * LINE_ELEMENTS)
    first = replace(first, view=replace(first.view, out_channel_stride=apart), buffers=(("out", BETWEEN),))
    p = planar_plan(g, call.activations[1], call.machine, residual=call.residual)
    view = View(batch=call.batch, image_stride=g.depthwise_channels * apart, channel_stride=apart)
    last = Stage(PlanarPointwiseKernel(call.machine, p), view, planar_cut(*call.sizes, p), (("x", BETWEEN),))
    return Program((first, last), ((BETWEEN, call.batch * g.depthwise_channels * apart),))


def _depthwise(call: _Call) -> Program:
    d = replace(call.depthwise(planar=False), summed=call.summed)
    if not call.summed and comes_packed(call.g, call.batch, call.machine, call.strides[-1]):
        d = replace(d, fetches=False, fetches_out=False)
        return Program((call.stage(PackedDepthwiseKernel(call.machine, d), packed_cut(*call.sizes), call.zeros(d)),))
    kind = SummedDepthwiseKernel if call.summed else DepthwiseKernel
    cut = strips_cut(*call.sizes, whole_rows=call.summed)
    if not call.summed and reads_in_order(call.g, call.batch, call.machine):
        d, cut = in_order(d, call.machine), replace(cut, strip_rows=1)
    return Program((call.stage(kind(call.machine, d, d.filters), cut, call.zeros(d)),))


def _separable(call: _Call) -> Program:
    d, cut = call.depthwise(planar=False), separable_cut(*call.sizes)
    if isinstance(cut, Bands):
        kernel = FusedKernel(call.machine, d, call.pointwise(cut.tile_pixels))
        return Program((call.stage(kernel, cut, call.zeros(d)),))
    return _two_stages(call, d, cut)


def _two_stages(call: _Call, d: DepthwisePlan, cut: TwoStages) -> Program:
    p = call.pointwise(cut.panels.tile_pixels)
    first = call.stage(DepthwiseKernel(call.machine, d, p.pixel_stride), cut.strips, call.zeros(d), out=BETWEEN)
    last = call.stage(PointwiseKernel(call.machine, p), cut.panels, x=BETWEEN)
    elements = call.batch * prod(call.g.out_spatial) * p.pixel_stride
    return Program((first, last), ((BETWEEN, elements),))
