"""Depthwise and pointwise in one pass: a band of depthwise pixels stays in this thread's scratch memory.

    for band in bands of output rows:
        for row in band:
            scratch[row] = depthwise(row), all filters
        out[band] = scratch x pointwise weight, all output channels; meanwhile the next band's input comes to L2

The depthwise result is computed once, whatever the number of output channels, and read from L2.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..plan.constants import Plan
from ..plan.depthwise import DepthwisePlan
from ..plan.pointwise import PointwisePlan
from ..plan.sizes import lanes_below
from . import boxes, depthwise
from .boxes import BOXES, Box, box_count, box_of, pixels_to_planes, planes_of, planes_to_pixels, write_box
from .depthwise import FETCHED, UNITS, Pixels, first_pixel, first_unseen, write_units
from .ir import Block, Int, Ptr, ceil_div, least
from .kernel import VIEW, Kernel
from .pointwise import Ahead, Band, write_product
from .product import POINTERS


@dataclass(frozen=True)
class FusedKernel(Kernel):
    """Channels-last images. Tasks: bands, runs of neighbouring pixels."""

    pointers = (*depthwise.POINTERS, *POINTERS, "scratch")
    # fetch_next: elements of the next band's input that are fetched for each pixel of this one; 0: none
    numbers = (*VIEW, *UNITS, *FETCHED, "pixels", "bands", "whole_rows", "fetch_next", "scratch_elements")

    depthwise: DepthwisePlan
    pointwise: PointwisePlan

    @property
    def label(self) -> str:
        return f"fused_f32_{self.depthwise.name}_{self.pointwise.name}"

    @property
    def plans(self) -> tuple[Plan, ...]:
        return self.depthwise, self.pointwise

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        d, p = self.depthwise, self.pointwise
        bands, fetch_next = e.number("bands"), e.number("fetch_next")
        scratch = e.pointer("scratch") + thread * e.number("scratch_elements")
        stop_task = (thread + 1) * bands // threads
        with e.loop(thread * bands // threads, stop_task) as task:
            (start, first, _), (stop, _, last) = _cut(e, d, task.index), _cut(e, d, task.index + 1)
            write_units(e, d, (first, last), (e.whole(0), e.whole(d.blocks)), Pixels(scratch, p.pixel_stride))
            offset = start * p.out_channels
            per_pixel = (task.index + 1 < stop_task).pick(fetch_next, 0)
            ahead = Ahead(first_unseen(e, d, last), per_pixel, fetch_next > 0)
            asked = scratch + (start - first_pixel(e, d, first)) * p.pixel_stride
            band = Band(asked, stop - start, e.pointer("out") + offset, e.pointer("residual") + offset, ahead)
            write_product(e, p, band, (e.whole(0), e.whole(p.panels)))


def _cut(e: Block, d: DepthwisePlan, band: Int) -> tuple[Int, Int, Int]:
    """Where a band begins: its pixel, the unit that this lies in, and the first unit that begins there or later."""
    bands, width, whole = e.number("bands"), e.number("out_x"), e.number("whole_rows") > 0
    unit = band * (e.number("rows") * e.number("segments")) // bands
    pixel = whole.pick(first_pixel(e, d, unit), band * e.number("pixels") // bands)
    return pixel, whole.pick(unit, pixel // width), whole.pick(unit, ceil_div(pixel, width))


@dataclass(frozen=True)
class BoxedFusedKernel(Kernel):
    """Contiguous images. Tasks: boxes; scratch memory holds a box's input, depthwise pixels, result and residual.

    residual_pixels: the residual is channels-last, and read where it lies
    """

    pointers = (*depthwise.POINTERS, *POINTERS, "scratch")
    numbers = (*VIEW, *FETCHED, *BOXES)

    depthwise: DepthwisePlan
    pointwise: PointwisePlan
    residual_pixels: bool = False

    @property
    def label(self) -> str:
        residual = "_of_pixels" if self.residual_pixels else ""
        return f"fused_f32_{self.depthwise.name}_{self.pointwise.name}{residual}_to_planes"

    @property
    def plans(self) -> tuple[Plan, ...]:
        return self.depthwise, self.pointwise

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        d, p = self.depthwise, self.pointwise
        packed = e.pointer("scratch") + thread * e.number("scratch_elements")
        most = e.number("box_pixels")
        scratch = packed + e.number("in_scratch")
        result = scratch + most * p.pixel_stride
        count = box_count(e)
        with e.loop(thread * count // threads, (thread + 1) * count // threads) as task:
            box = box_of(e, task.index)
            with e.loop(0, d.blocks) as block:
                write_box(e, d, box, block.index, packed, Pixels(scratch, p.pixel_stride))
            residual = result + most * p.out_channels
            if self.residual_pixels:
                residual = e.pointer("residual") + boxes.first_pixel(e, box) * p.out_channels
            elif p.residual:
                _in_planes(e, p, "residual", box, residual)
            write_product(e, p, Band(scratch, box.pixels, result, residual), (e.whole(0), e.whole(p.panels)))
            _in_planes(e, p, "out", box, result)


def _in_planes(e: Block, p: PointwisePlan, tensor: str, box: Box, pixels: Ptr) -> None:
    """Bring a box of `residual` to pixels, or one of pixels to `out`."""
    lanes = lanes_below(p.out_channels, p.lanes)
    with e.loop(0, -(-p.out_channels // lanes)) as block:
        o = least(block.index * lanes, p.out_channels - lanes)
        planes = planes_of(e, e.pointer(tensor), box, p.out_channels, o, lanes)
        if tensor == "out":
            pixels_to_planes(e, pixels + o, p.out_channels, box.pixels, planes)
        else:
            planes_to_pixels(e, planes, box.pixels, pixels + o, p.out_channels)
