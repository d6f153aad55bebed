"""Pointwise, depthwise and, mostly, pointwise again in one pass: the first result rolls through scratch memory.

    for band in bands of output rows of an image:
        rows = those of the first result that the band sees
        move what the band before left of them to the front of `rolled`
        for other rows:
            rolled[row] = activation(x[row] x expand weight)
        for row in band:
            out[row] = depthwise(rolled), all filters                                    (ExpandedDepthwiseKernel)
            scratch[row] = depthwise(rolled), all filters                                (ExpandedFusedKernel)
        out[band] = scratch x pointwise weight, all output channels

The first result, the largest by far in inverted residuals, is never in memory whole: it is written to L2 and read from
there. Of a thread's first band only those rows are computed twice that the thread before it sees too. Domain: rank 2.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from ..plan.constants import Plan
from ..plan.depthwise import DepthwisePlan
from ..plan.pointwise import PointwisePlan
from .depthwise import Pixels, Rows, write_rows
from .elementwise import each_channel
from .ir import Block, Int, Ptr, greatest, least
from .kernel import Kernel
from .pointwise import Ahead, Band, write_product
from .product import POINTERS

EXPAND = ("expand_weight", "expand_bias")
READ = ("x", *EXPAND, "zeros", "depthwise_weight", "depthwise_bias")
NUMBERS = ("batch", "in_y", "in_x", "pad_y", "pad_x", "out_y", "out_x", "bands", "scratch_elements")


@dataclass(frozen=True, slots=True)
class Task:
    """A band of an image: its output rows [start, stop), and the rows [first, last) of the first result it sees."""

    image: Int
    start: Int
    stop: Int
    first: Int
    last: Int


@dataclass(frozen=True)
class ExpandedKernel(Kernel):
    """Channels-last images. Tasks: bands of output rows, image by image."""

    expand: PointwisePlan
    depthwise: DepthwisePlan

    @property
    def label(self) -> str:
        return f"expanded_f32_{'_'.join(plan.name for plan in self.plans)}"

    @abstractmethod
    def write_band(self, e: Block, task: Task, rows: Rows, end: Ptr) -> None:
        """The results of a band, from these rows of the first result; scratch memory is free from `end` on."""

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        bands, row_elements = e.number("bands"), e.number("in_x") * self.expand.out_channels
        tasks = e.number("batch") * bands
        rolled = e.pointer("scratch") + thread * e.number("scratch_elements")
        start = thread * tasks // threads
        with e.loop(start, (thread + 1) * tasks // threads) as turn:
            image, band = turn.index // bands, turn.index % bands
            task, before = self._task(e, image, band), self._task(e, image, band - 1)
            is_next = (turn.index > start) & (band > 0)
            held = least(greatest(is_next.pick(before.last, 0), task.first), task.last)
            moved = rolled + is_next.pick(task.first - before.first, 0) * row_elements
            self._move(e, moved, rolled, (held - task.first) * e.number("in_x"))
            self._expand(e, task, held, rolled + (held - task.first) * row_elements)
            k, iy = self.depthwise, task.start * self.depthwise.stride[1] - e.number("pad_y")
            first_row = image * e.number("out_y") + task.start
            rows = Rows(
                count=task.stop - task.start,
                z=e.whole(0),
                y=iy,
                tap=rolled + (iy - task.first) * row_elements,
                z_stride=e.whole(0),
                y_stride=row_elements,
                x_stride=self.expand.out_channels,
                start=e.whole(0),
                stop=e.number("out_x"),
                sums=e.pointer("sums") + first_row * k.sum_elements if k.summed else None,
            )
            self.write_band(e, task, rows, rolled + e.number("rolled_elements"))

    def _task(self, e: Block, image: Int, band: Int) -> Task:
        k, size, height, bands = self.depthwise, e.number("in_y"), e.number("out_y"), e.number("bands")
        start, stop = band * height // bands, (band + 1) * height // bands
        iy = start * k.stride[1] - e.number("pad_y")
        end = iy + ((stop - 1 - start) * k.stride[1] + ((k.kernel[1] - 1) * k.dilation[1] + 1))
        first = least(greatest(iy, 0), size)
        return Task(image, start, stop, first, greatest(least(end, size), first))

    def _move(self, e: Block, source: Ptr, target: Ptr, pixels: Int) -> None:
        """Towards the front, by a row or more, or not at all: what is read has not been written over."""
        channels = self.expand.out_channels
        with e.loop(0, pixels) as pixel:
            read, written = source + pixel.index * channels, target + pixel.index * channels
            each_channel(
                e, channels, self.depthwise.lanes, lambda c, lanes: (written + c).store((read + c).load(lanes))
            )

    def _expand(self, e: Block, task: Task, first: Int, rolled: Ptr) -> None:
        """The rows of the first result from `first` on that a task sees."""
        k, width = self.expand, e.number("in_x")
        x = e.pointer("x") + (task.image * e.number("in_y") + first) * (width * k.pixel_stride)
        band = Band(x, (task.last - first) * width, rolled, rolled, weights=EXPAND)
        write_product(e, k, band, (e.whole(0), e.whole(k.panels)))


def _pixel(e: Block, task: Task) -> Int:
    """The first output pixel of a task."""
    return (task.image * e.number("out_y") + task.start) * e.number("out_x")


@dataclass(frozen=True)
class ExpandedDepthwiseKernel(ExpandedKernel):
    pointers: ClassVar[tuple[str, ...]] = (*READ, "out", "scratch")
    numbers = (*NUMBERS, "rolled_elements")

    @property
    def plans(self) -> tuple[Plan, ...]:
        return self.expand, self.depthwise

    def write_band(self, e: Block, task: Task, rows: Rows, _: Ptr) -> None:
        k = self.depthwise
        out = Pixels(e.pointer("out"), k.filters).after(_pixel(e, task))
        write_rows(e, k, rows, (e.whole(0), e.whole(k.blocks)), out)


@dataclass(frozen=True)
class ExpandedSummedKernel(ExpandedDepthwiseKernel):
    """The sums of each row beside it."""

    pointers = (*ExpandedDepthwiseKernel.pointers, "sums")
    writes = ("out", "sums")


@dataclass(frozen=True)
class ExpandedFusedKernel(ExpandedKernel):
    pointers = (*READ, *POINTERS, "scratch")
    # fetch_next: elements of the input that are fetched for each pixel of the result; 0: none
    numbers = (*NUMBERS, "rolled_elements", "fetch_next")

    pointwise: PointwisePlan

    @property
    def plans(self) -> tuple[Plan, ...]:
        return self.expand, self.depthwise, self.pointwise

    def write_band(self, e: Block, task: Task, rows: Rows, end: Ptr) -> None:
        d, p, scratch = self.depthwise, self.pointwise, end
        write_rows(e, d, rows, (e.whole(0), e.whole(d.blocks)), Pixels(scratch, p.pixel_stride))
        offset, width, row = _pixel(e, task) * p.out_channels, e.number("out_x"), e.number("in_x")
        fetch_next = e.number("fetch_next")
        unseen = e.pointer("x") + (task.image * e.number("in_y") + task.last) * (row * self.expand.pixel_stride)
        ahead = Ahead(unseen, (task.last < e.number("in_y")).pick(fetch_next, 0), fetch_next > 0)
        pixels = (task.stop - task.start) * width
        band = Band(scratch, pixels, e.pointer("out") + offset, e.pointer("residual") + offset, ahead)
        write_product(e, p, band, (e.whole(0), e.whole(p.panels)))
