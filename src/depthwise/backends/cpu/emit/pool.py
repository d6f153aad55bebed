"""The greatest number, or the mean, of each window of channels-last images.

    for y, x in pixels of the result:
        for some vectors of channels c:
            value[c] = -infinity, or 0
            for ky, kx in taps that are inside the image:
                value[c] = max(value[c], input[y·stride - padding + ky·dilation, ..., c]), or their sum
            out[y, x, c] = value[c], or value[c] / count

A window all inside the image has its taps written out where they are few. The last vector of a pixel overlaps the one
before it where channels do not fill it. Domain: any window; lanes <= channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import inf, prod
from operator import and_

from ..plan.pool import PoolPlan
from .ir import Block, Int, Ptr, Vec, ceil_div, greatest, least, select
from .kernel import VIEW, OnePlanKernel
from .tile import valid

AXES = "zyx"
# Taps that are written out one after another.
MOST_WRITTEN_OUT = 9

Bounds = tuple[int | Int, int | Int]


@dataclass(frozen=True)
class PoolKernel(OnePlanKernel):
    """Tasks: pixels of the result."""

    kind = "pool_f32"
    pointers = ("x", "out")
    numbers = (*VIEW, "pixels", *(f"{end}_{axis}" for end in ("first", "last") for axis in AXES))

    plan: PoolPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k, pixels, width = self.plan, e.number("pixels"), e.number("out_x")
        first, last = thread * pixels // threads, (thread + 1) * pixels // threads
        with e.loop(first // width, ceil_div(last, width)) as row:
            start = row.index * width
            image, z, y = _row(e, k, row.index)
            with e.loop(greatest(first - start, 0), least(last - start, width)) as x:
                out = e.pointer("out") + (start + x.index) * k.channels
                _write_pixel(e, k, (image, z, y, x.index), out)


def _row(e: Block, k: PoolPlan, row: Int) -> tuple[Int, Int, Int]:
    """Image, z and y of a row of the batch."""
    y, plane = (row % e.number("out_y"), row // e.number("out_y")) if k.rank > 1 else (e.whole(0), row)
    z, image = (plane % e.number("out_z"), plane // e.number("out_z")) if k.rank > 2 else (e.whole(0), plane)
    return image, z, y


def _write_pixel(e: Block, k: PoolPlan, pixel: tuple[Int, Int, Int, Int], out: Ptr) -> None:
    image, *places = pixel
    axes = range(3 - k.rank, 3)
    begin = [
        places[axis] * k.stride[axis] - e.number(f"pad_{AXES[axis]}") if axis in axes else places[axis]
        for axis in range(3)
    ]
    start = e.pointer("x") + image * e.number("x_n")
    taps: list[Bounds] = [(0, 1)] * 3
    for axis in axes:
        start = start + begin[axis] * e.number(f"x_{AXES[axis]}")
        taps[axis] = valid(begin[axis], e.number(f"in_{AXES[axis]}"), k, axis)
    count = reduce(Int.__mul__, (_counted(e, k, axis, begin[axis]) for axis in axes)) if k.averages else e.whole(1)
    with e.loop(0, k.pixel_vectors // k.vectors) as some:
        _write_vectors(e, k, (some.index * k.vectors, k.vectors), (start, taps), (out, count))
    if rest := k.pixel_vectors % k.vectors:
        _write_vectors(e, k, (e.whole(k.pixel_vectors - rest), rest), (start, taps), (out, count))


def _counted(e: Block, k: PoolPlan, axis: int, begin: Int) -> Int:
    """How many places of a window are counted along an axis."""
    first, last = e.number(f"first_{AXES[axis]}"), e.number(f"last_{AXES[axis]}")
    return least(begin + k.kernel[axis], last) - greatest(begin, first)


def _write_vectors(
    e: Block, k: PoolPlan, vectors: tuple[Int, int], window: tuple[Ptr, list[Bounds]], result: tuple[Ptr, Int]
) -> None:
    """Some vectors of a pixel, the first of which is vectors[0]."""
    (first, count), (start, taps), (out, counted) = vectors, window, result
    channels = [least((first + j) * k.lanes, k.channels - k.lanes) for j in range(count)]
    empty = [e.constant(0.0 if k.averages else -inf, k.lanes)] * count

    def put(values: list[Vec]) -> None:
        if k.averages:
            divisor = counted if k.divisor is None else e.whole(k.divisor)
            by = e.every(e.value(f"sitofp i64 {divisor.value} to float"), k.lanes)
            values = [value / by for value in values]
        for channel, value in zip(channels, values, strict=True):
            (out + channel).store(value)

    if prod(k.kernel) > MOST_WRITTEN_OUT:
        put(_pooled(e, k, start, channels, taps, empty))
        return
    ends = [end for axis in range(3 - k.rank, 3) for end in ((taps[axis][0], 0), (taps[axis][1], k.kernel[axis]))]
    with e.either(reduce(and_, (e.whole(tap).equals(wanted) for tap, wanted in ends))) as (yes, no):
        with yes:
            put(_pooled(e, k, start, channels, [(0, extent) for extent in k.kernel], empty))
        with no:
            put(_pooled(e, k, start, channels, taps, empty))


def _pooled(
    e: Block, k: PoolPlan, start: Ptr, channels: list[Int], taps: Sequence[Bounds], values: list[Vec]
) -> list[Vec]:
    """The values after the taps [start, stop) of each axis: in loops, or written out where these are constants."""

    def nest(axis: int, start: Ptr, values: list[Vec]) -> list[Vec]:
        if axis == 3:
            return [
                _joined(k, (start + channel).load(k.lanes), value)
                for channel, value in zip(channels, values, strict=True)
            ]
        first, stop = taps[axis]
        if isinstance(first, int) and isinstance(stop, int):
            for tap in range(first, stop):
                values = nest(axis + 1, start + step(axis, tap), values)
            return values
        with e.loop(first, stop, carried=values) as turn:
            turn.values = nest(axis + 1, start + step(axis, turn.index), turn.values)
        return turn.values

    def step(axis: int, tap: int | Int) -> int | Int:
        return 0 if axis < 3 - k.rank else e.number(f"x_{AXES[axis]}") * k.dilation[axis] * tap

    return nest(0, start, values)


def _joined(k: PoolPlan, one: Vec, value: Vec) -> Vec:
    """Their sum, or the greater; NaN where either is."""
    if k.averages:
        return value + one
    # Of two that cannot be compared the second is taken.
    return select(one.is_nan(), one, select(one.above(value), one, value))
