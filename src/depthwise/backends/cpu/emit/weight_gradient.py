"""The gradient of depthwise weights, of channels-last pixels or of planes that come to pixels in boxes.

    for slot in runs of boxes:
        for box in slot, o in bundles of blocks of `lanes` filters:
            for kz, and tiles ky kx of `tap_rows` x `tap_columns` taps:
                sum[ky, kx] = 0
                for z y x in box whose input iz, iy, ix = place · stride - padding + tap · dilation is in the image:
                    sum[ky, kx] += gradient[z, y, x, o] · input[iz, iy, ix, o // multiplier]
                sums[slot, o, kz, ky, kx] += sum[ky, kx]
    weight_gradient[o, tap] = 0 + sums[0, o, tap] + sums[1, o, tap] + ...          (a stage of its own)

The sums of a tile stay in registers while a box lies in L2 (tap_sums.py). What is added to what goes by boxes and
slots, never by threads. The last block of filters and the last tile of a row of taps overlap those before, in sums of
their own. Domain: any window, any multiplier; lanes <= filters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from math import prod
from operator import add

from ..plan.constants import Plan
from ..plan.weight_gradient import COLUMNS, WeightGradientPlan
from .boxes import BOXES, Box, box_count, box_of, first_pixel, pack_input, packed_rows, planes_of, planes_to_pixels
from .depthwise import Rows, first_filter, image_rows
from .inputs import Inputs, inputs_of
from .ir import Block, Bool, Int, Ptr, Vec, least, select
from .kernel import VIEW, Kernel, OnePlanKernel
from .tap_sums import Tile, outputs_inside, write_plane


@dataclass(frozen=True)
class WeightGradientKernel(OnePlanKernel):
    """Tasks: slots of boxes, and in each groups of bundles of blocks of filters."""

    kind = "dw_weight_gradient_f32"
    pointers = ("x", "zeros", "gradient", "sums", "scratch")
    numbers = (*VIEW, *BOXES, "slots", "groups")
    writes = ("sums",)

    plan: WeightGradientPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k = self.plan
        boxes, slots, groups = box_count(e), e.number("slots"), e.number("groups")
        tasks = slots * groups
        scratch = e.pointer("scratch") + thread * e.number("scratch_elements")
        with e.loop(thread * tasks // threads, (thread + 1) * tasks // threads) as task:
            slot, group = task.index // groups, task.index % groups
            bundles = group * k.bundles // groups, (group + 1) * k.bundles // groups
            first = slot * boxes // slots
            with e.loop(first, (slot + 1) * boxes // slots) as index, e.loop(*bundles) as bundle:
                block = bundle.index * k.vectors
                sums = e.pointer("sums") + (slot * k.blocks + block) * (k.block_vectors * k.lanes)
                _write_box(e, k, box_of(e, index.index), block, scratch, sums, index.index > first)


@dataclass(frozen=True)
class WeightSumsKernel(Kernel):
    """The sums of all slots, in torch's order. Tasks: blocks of filters."""

    pointers = ("sums", "weight_gradient", "bias_gradient")
    numbers = ("slots",)
    writes = ("weight_gradient", "bias_gradient")

    plan: WeightGradientPlan

    @property
    def label(self) -> str:
        k = self.plan
        taps = f"{'x'.join(map(str, k.kernel))}t{k.tap_rows}x{k.tap_columns}{'b' * k.bias}"
        return f"dw_weight_sums_f32_c{k.filters}v{k.lanes}k{taps}"

    @property
    def plans(self) -> tuple[Plan, ...]:
        return (self.plan,)

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k = self.plan
        area = prod(k.kernel)
        with e.loop(thread * k.blocks // threads, (thread + 1) * k.blocks // threads) as block:
            o, sums = first_filter(k, block.index), e.pointer("sums") + block.index * (k.block_vectors * k.lanes)
            with e.loop(0, prod(k.tiles)) as tile:
                kz, ky, kx = _first_tap(k, tile.index)
                tap = (kz * k.kernel[1] + ky) * k.kernel[2] + kx
                for row, column in product(range(k.tap_rows), range(k.tap_columns)):
                    own = tile.index * k.tile_taps + (row * k.tap_columns + column)
                    total = _total(e, k, sums + own * k.lanes)
                    out = e.pointer("weight_gradient") + (o * area + tap + (row * k.kernel[2] + column))
                    for lane in range(k.lanes):
                        (out + lane * area).store(total.permuted([lane]))
            if k.bias:
                (e.pointer("bias_gradient") + o).store(_total(e, k, sums + (k.block_vectors - 1) * k.lanes))


def _total(e: Block, k: WeightGradientPlan, sums: Ptr) -> Vec:
    """What lies at `sums`, of all slots."""
    with e.loop(1, e.number("slots"), carried=[sums.load(k.lanes)]) as slot:
        own = sums + slot.index * (k.blocks * k.block_vectors * k.lanes)
        slot.values = [slot.values[0] + own.load(k.lanes)]
    return slot.values[0]


def _first_tap(k: WeightGradientPlan, tile: Int) -> tuple[Int, Int, Int]:
    _, rows, columns = k.tiles
    ky, kx = tile // columns % rows * k.tap_rows, least(tile % columns * k.tap_columns, k.kernel[2] - k.tap_columns)
    return tile // (rows * columns), ky, kx


@dataclass(frozen=True, slots=True)
class _Pixels:
    """A bundle of blocks of filters of a box.

    rows:      its input, by the output plane
    inputs:    how those of each block are read
    gradients: of its first pixel, for each block; the next are `distance` elements further on
    """

    rows: Callable[[Int], Rows]
    inputs: list[Inputs]
    gradients: list[Ptr]
    distance: int


def _pixels(e: Block, k: WeightGradientPlan, box: Box, block: Int, scratch: Ptr) -> _Pixels:
    filters = [first_filter(k, block + i) for i in range(k.vectors)]
    inputs = [inputs_of(e, k, o, packed=k.planar) for o in filters]
    if not k.planar:
        height, columns = box.y_stop - box.y_start, (box.x_start, box.x_stop)
        gradient = e.pointer("gradient") + first_pixel(e, box) * k.filters
        gradients = [gradient + o for o in filters]
        return _Pixels(
            lambda z: image_rows(e, k, (box.n, z, box.y_start), height, columns), inputs, gradients, k.filters
        )
    (o,) = filters
    covered = pack_input(e, k, box, o, scratch)
    gradient = scratch + e.number("in_scratch")
    planes_to_pixels(e, planes_of(e, e.pointer("gradient"), box, k.filters, o, k.lanes), box.pixels, gradient, k.lanes)
    return _Pixels(lambda z: packed_rows(e, k, box, covered, scratch, z), inputs, [gradient], k.lanes)


def _tile(k: WeightGradientPlan, box: Box, pixels: _Pixels, z: Int, tap: tuple[Int, Int, Int]) -> Tile:
    """A tile of taps over plane z of the box."""
    kz, ky, kx = tap
    rows = pixels.rows(z)
    rows = replace(rows, tap=rows.tap + kz * k.dilation[0] * rows.z_stride)
    plane = (box.y_stop - box.y_start) * (box.x_stop - box.x_start)
    gradients = [first + (z - box.z_start) * plane * pixels.distance for first in pixels.gradients]
    return Tile(box, ky, kx, rows, pixels.inputs, gradients, pixels.distance)


def _write_box(
    e: Block, k: WeightGradientPlan, box: Box, block: Int, scratch: Ptr, sums: Ptr, is_further: Bool
) -> None:
    """Add the bundle from `block` on of a box to its sums; is_further: there are such already."""
    pixels = _pixels(e, k, box, block, scratch)

    def put(vector: Vec, own: int, index: int | Int) -> None:
        place = sums + (own * k.block_vectors + index) * k.lanes
        place.store(vector + select(is_further, place, e.zeros(k.lanes)).load(k.lanes))

    with e.loop(0, prod(k.tiles)) as tile:
        tap = _first_tap(k, tile.index)
        zeros = [e.zeros(k.lanes).load(k.lanes)] * (k.vectors * k.sets * k.tile_taps)
        with e.loop(*outputs_inside(e, k, 0, tap[0], (box.z_start, box.z_stop)), carried=zeros) as z:
            z.values = write_plane(e, k, _tile(k, box, pixels, z.index, tap), z.values)
        for own, i in product(range(k.vectors), range(k.tile_taps)):
            sets = z.values[own * k.sets * k.tile_taps :][: k.sets * k.tile_taps]
            put(reduce(add, sets[i :: k.tile_taps]), own, tile.index * k.tile_taps + i)
    if k.bias:
        for own, first in enumerate(pixels.gradients):
            put(_sum_of_gradients(e, k, box, first, pixels.distance), own, k.block_vectors - 1)


def _sum_of_gradients(e: Block, k: WeightGradientPlan, box: Box, first: Ptr, distance: int) -> Vec:
    """Of one block of filters."""

    def gradient(pixel: Int) -> Vec:
        return (first + pixel * distance).load(k.lanes)

    whole = box.pixels // COLUMNS * COLUMNS
    with e.loop(0, whole, COLUMNS, carried=[e.zeros(k.lanes).load(k.lanes)] * COLUMNS) as pixel:
        pixel.values = [value + gradient(pixel.index + i) for i, value in enumerate(pixel.values)]
    with e.loop(whole, box.pixels, carried=[reduce(add, pixel.values)]) as last:
        last.values = [last.values[0] + gradient(last.index)]
    return last.values[0]
