"""The gradient of depthwise weights, of channels-last pixels or of planes that come to pixels in boxes.

    for slot in runs of boxes:
        for box in slot, o in blocks of `lanes` filters:
            for kz, and tiles ky kx of `tap_rows` x `tap_columns` taps:
                sum[ky, kx] = 0
                for z y x in box whose input iz, iy, ix = place · stride - padding + tap · dilation is in the image:
                    sum[ky, kx] += gradient[z, y, x, o] · input[iz, iy, ix, o // multiplier]
                sums[slot, o, kz, ky, kx] += sum[ky, kx]
    weight_gradient[o, tap] = 0 + sums[0, o, tap] + sums[1, o, tap] + ...          (a stage of its own)

The sums of a tile stay in registers while a box lies in L2. Rows and columns outside the image are left out by the
loops' bounds; columns that some taps of a tile have inside are looked at one by one, and rows that some have inside
read zeros. What is added to what goes by boxes and slots, never by threads. The last block of filters and the last tile
of a row of taps overlap those before, in sums of their own. Domain: any window, any multiplier; lanes <= filters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from itertools import product
from math import prod
from operator import add

from ..plan.constants import Plan
from ..plan.weight_gradient import COLUMNS, WeightGradientPlan
from .boxes import BOXES, Box, box_count, box_of, first_pixel, pack_input, packed_rows, planes_of, planes_to_pixels
from .depthwise import Rows, first_filter, image_rows
from .inputs import inputs_of
from .ir import Block, Bool, Int, Ptr, Vec, ceil_div, greatest, least, select
from .kernel import VIEW, Kernel, OnePlanKernel


@dataclass(frozen=True)
class WeightGradientKernel(OnePlanKernel):
    """Tasks: slots of boxes, and in each groups of blocks of filters."""

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
            blocks = group * k.blocks // groups, (group + 1) * k.blocks // groups
            first = slot * boxes // slots
            with e.loop(first, (slot + 1) * boxes // slots) as index, e.loop(*blocks) as block:
                sums = e.pointer("sums") + (slot * k.blocks + block.index) * (k.block_vectors * k.lanes)
                _write_box(
                    e, k, box_of(e, index.index), first_filter(k, block.index), scratch, sums, index.index > first
                )


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
    """One block of filters of a box.

    rows:     its input, by the output plane
    gradient: of its first pixel; the next is `distance` elements further on
    """

    o: Int
    rows: Callable[[Int], Rows]
    gradient: Ptr
    distance: int


def _pixels(e: Block, k: WeightGradientPlan, box: Box, o: Int, scratch: Ptr) -> _Pixels:
    if not k.planar:
        height, columns = box.y_stop - box.y_start, (box.x_start, box.x_stop)
        gradient = e.pointer("gradient") + (first_pixel(e, box) * k.filters + o)
        return _Pixels(o, lambda z: image_rows(e, k, (box.n, z, box.y_start), height, columns), gradient, k.filters)
    covered = pack_input(e, k, box, o, scratch)
    gradient = scratch + e.number("in_scratch")
    planes_to_pixels(e, planes_of(e, e.pointer("gradient"), box, k.filters, o, k.lanes), box.pixels, gradient, k.lanes)
    return _Pixels(o, lambda z: packed_rows(e, k, box, covered, scratch, z), gradient, k.lanes)


def _write_box(e: Block, k: WeightGradientPlan, box: Box, o: Int, scratch: Ptr, sums: Ptr, is_further: Bool) -> None:
    """Add one block of filters of a box to its sums; is_further: there are such already."""
    pixels = _pixels(e, k, box, o, scratch)

    def put(vector: Vec, index: Int) -> None:
        place = sums + index * k.lanes
        place.store(vector + select(is_further, place, e.zeros(k.lanes)).load(k.lanes))

    with e.loop(0, prod(k.tiles)) as tile:
        for tap, vector in enumerate(_sums_of_taps(e, k, box, pixels, _first_tap(k, tile.index))):
            put(vector, tile.index * k.tile_taps + tap)
    if k.bias:
        put(_sum_of_gradients(e, k, box, pixels), e.whole(k.block_vectors - 1))


def _sum_of_gradients(e: Block, k: WeightGradientPlan, box: Box, pixels: _Pixels) -> Vec:
    def gradient(pixel: Int) -> Vec:
        return (pixels.gradient + pixel * pixels.distance).load(k.lanes)

    whole = box.pixels // COLUMNS * COLUMNS
    with e.loop(0, whole, COLUMNS, carried=[e.zeros(k.lanes).load(k.lanes)] * COLUMNS) as pixel:
        pixel.values = [value + gradient(pixel.index + i) for i, value in enumerate(pixel.values)]
    with e.loop(whole, box.pixels, carried=[reduce(add, pixel.values)]) as last:
        last.values = [last.values[0] + gradient(last.index)]
    return last.values[0]


def _sums_of_taps(e: Block, k: WeightGradientPlan, box: Box, pixels: _Pixels, tap: tuple[Int, Int, Int]) -> list[Vec]:
    """Of the tile of taps from `tap` on, over a box."""
    kz, ky, kx = tap
    columns = _columns(e, k, box, kx)
    height, width = box.y_stop - box.y_start, box.x_stop - box.x_start
    zeros = [e.zeros(k.lanes).load(k.lanes)] * (k.sets * k.tile_taps)
    with e.loop(*_inside(e, k, 0, kz, (box.z_start, box.z_stop)), carried=zeros) as z:
        rows = pixels.rows(z.index)
        plane = pixels.gradient + (z.index - box.z_start) * height * width * pixels.distance
        inside = (box.y_start, box.y_stop)
        # Of one row of taps those outside are left out here, else each by itself.
        with e.loop(*(_inside(e, k, 1, ky, inside) if k.tap_rows == 1 else inside), carried=z.values) as y:
            gradient = plane + ((y.index - box.y_start) * width - box.x_start) * pixels.distance
            row = _Row(pixels, rows.x_stride, _inputs(e, k, rows, box, (kz, ky), y.index), gradient, kx)
            y.values = _write_row(e, k, row, columns, y.values)
        z.values = y.values
    return [reduce(add, z.values[i :: k.tile_taps]) for i in range(k.tile_taps)]


def _inputs(e: Block, k: WeightGradientPlan, rows: Rows, box: Box, tap: tuple[Int, Int], y: Int) -> list[Ptr]:
    """Input column 0 under each row of a tile of taps; one outside the image reads zeros."""
    kz, ky = tap
    plane = rows.tap + kz * k.dilation[0] * rows.z_stride
    inputs = []
    for row in range(k.tap_rows):
        below = (y - box.y_start) * k.stride[1] + (ky + row) * k.dilation[1]
        pointer = plane + below * rows.y_stride
        if k.tap_rows > 1:
            pointer = select((rows.y + below).is_index_of(e.number("in_y")), pointer, e.pointer("zeros"))
        inputs.append(pointer)
    return inputs


def _inside(e: Block, k: WeightGradientPlan, axis: int, tap: Int, outputs: tuple[Int, Int]) -> tuple[Int, Int]:
    """The outputs, of [first, last), whose input under a tap lies inside the image."""
    if axis < 3 - k.rank:
        return outputs
    shift, stride = e.number(f"pad_{'zyx'[axis]}") - tap * k.dilation[axis], k.stride[axis]
    first = least(greatest(outputs[0], ceil_div(greatest(shift, 0), stride)), outputs[1])
    last = ceil_div(greatest(shift + e.number(f"in_{'zyx'[axis]}"), 0), stride)
    return first, greatest(least(outputs[1], last), first)


def _columns(e: Block, k: WeightGradientPlan, box: Box, kx: Int) -> tuple[Int, Int, Int, Int, Int]:
    """Where columns begin that some taps have inside, that all have, single ones of these, some again, and the end."""
    outputs = box.x_start, box.x_stop
    left, right = (_inside(e, k, 2, tap, outputs) for tap in (kx, kx + (k.tap_columns - 1)))
    start, stop = right[0], greatest(left[1], right[0])
    first = least(greatest(left[0], start), stop)
    last = least(greatest(right[1], first), stop)
    return start, first, first + (last - first) // COLUMNS * COLUMNS, last, stop


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of outputs: column 0 of its inputs, for each row of taps, and of its gradients; the tile's first column."""

    pixels: _Pixels
    x_stride: int | Int
    inputs: list[Ptr]
    gradient: Ptr
    kx: Int


def _write_row(
    e: Block, k: WeightGradientPlan, row: _Row, columns: tuple[Int, Int, Int, Int, Int], sums: list[Vec]
) -> list[Vec]:
    start, first, single, last, stop = columns
    for begin, end, count, checked in (
        (start, first, 1, True),
        (first, single, COLUMNS, False),
        (single, last, 1, False),
        (last, stop, 1, True),
    ):
        with e.loop(begin, end, count, carried=sums) as x:
            x.values = _write_columns(e, k, row, x.index, count, x.values, checked=checked)
        sums = x.values
    return sums


def _write_columns(
    e: Block, k: WeightGradientPlan, row: _Row, x: Int, count: int, sums: list[Vec], *, checked: bool
) -> list[Vec]:
    """`sums` plus the products of `count` columns, each input loaded once for all taps that it is under."""
    sums, o, stride, dilation = list(sums), row.pixels.o, k.stride[2], k.dilation[2]
    gradient = row.gradient + x * row.pixels.distance
    gradients = [(gradient + i * row.pixels.distance).load(k.lanes) for i in range(count)]
    users: dict[int, list[tuple[int, int]]] = {}
    for i, tap in product(range(count), range(k.tap_columns)):
        users.setdefault(i * stride + tap * dilation, []).append((i, tap))
    ix = x * stride + (row.kx * dilation - e.number("pad_x"))
    inputs = inputs_of(e, k, o, packed=k.planar)
    fetches = k.fetches and not checked
    # Where the next block's vector ends: it may begin in a line that this one ends in.
    ahead = 2 * k.lanes - 1
    if fetches:
        for i in range(count):
            (gradient + (i * row.pixels.distance + ahead)).prefetch(2)
    for ky, start in enumerate(row.inputs):
        base = start + (ix * row.x_stride + inputs.first)
        for position in sorted(users):
            pixel = base + position * row.x_stride
            # Each line once: rows and columns that tiles before did not see.
            if fetches and ky >= k.kernel[1] - k.stride[1] and position >= k.kernel[2] - stride:
                (pixel + ahead).prefetch(2)
            if checked:
                pixel = select((ix + position).is_index_of(e.number("in_x")), pixel, e.zeros(k.lanes + 1))
            vector = inputs.load(pixel)
            for i, tap in users[position]:
                own = i % k.sets * k.tile_taps + ky * k.tap_columns + tap
                sums[own] = gradients[i].fma(vector, sums[own])
    return sums
