"""The gradient of a strided depthwise convolution's input, of channels-last pixels or planes that come to pixels.

    for box of the input, iz iy in box:
        for u in tiles of `units` outputs, o in blocks of `lanes` filters:
            sum[i] = 0                                               (of the columns ix = u·stride - padding + i)
            for kz, ky whose output z, y = (place + padding - tap·dilation) / stride is whole and in the result:
                for kx, x likewise:
                    sum[i] += gradient[z, y, x, o] · weight[kz, ky, kx, o]
            input_gradient[iz, iy, ix, o] = sum[i]

Which taps reach a place goes by its phase, (place + padding) % stride: that of rows is worked out as they come, that of
columns is known in the code, since tiles begin with phase 0. So every line of the result is written once. Beyond L2 a
tile asks for the next one's gradients, and for the place of its result. A tile that reaches beside the gradient or the
box reads zeros there, and stores what is inside. Columns of strides that no tile holds are done one by one. Domain: any
window of multiplier 1; lanes <= filters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd

from ..plan.input_gradient import InputGradientPlan, phase_of
from .boxes import BOXES, Box, box_count, box_of, first_pixel, pixels_to_planes, planes_of, planes_to_pixels
from .depthwise import Pixels, first_filter
from .ir import Block, Int, Ptr, Vec, ceil_div, greatest, least, select
from .kernel import VIEW, OnePlanKernel


@dataclass(frozen=True)
class InputGradientKernel(OnePlanKernel):
    """Tasks: boxes of pixels, or of planes blocks of filters and in each every box.

    `x` is the gradient of the result; in_* are its extents, out_* those of the input.
    """

    kind = "dw_input_gradient_f32"
    pointers = ("x", "depthwise_weight", "scratch", "out")
    numbers = (*VIEW, *BOXES)

    plan: InputGradientPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k, boxes = self.plan, box_count(e)
        tasks = boxes * k.blocks if k.planar else boxes
        scratch = e.pointer("scratch") + thread * e.number("scratch_elements")
        with e.loop(thread * tasks // threads, (thread + 1) * tasks // threads) as task:
            if k.planar:
                _write_planes(e, k, box_of(e, task.index % boxes), task.index // boxes, scratch)
            else:
                box = box_of(e, task.index)
                out = Pixels(e.pointer("out") + first_pixel(e, box) * k.filters, k.filters)
                _write_box(e, k, box, (e.whole(0), e.whole(k.blocks)), _image(e, k, box), out)


def _write_planes(e: Block, k: InputGradientPlan, box: Box, block: Int, scratch: Ptr) -> None:
    o, result = first_filter(k, block), scratch + e.number("in_scratch")
    _write_box(e, k, box, (block, block + 1), _packed(e, k, box, o, scratch), Pixels(result - o, k.lanes))
    planes = planes_of(e, e.pointer("out"), box, k.filters, o, k.lanes)
    pixels_to_planes(e, result, k.lanes, box.pixels, planes)


@dataclass(frozen=True, slots=True)
class _Source:
    """The gradient of the result, or a part of it that was brought to scratch for one block of filters.

    start: where z y x are 0, which may lie outside
    """

    start: Ptr
    z_stride: Int
    y_stride: Int
    x_stride: int | Int


def _image(e: Block, k: InputGradientPlan, box: Box) -> _Source:
    start = e.pointer("x") + box.n * e.number("x_n")
    x_stride = e.number("x_x") if k.pixel_stride is None else k.pixel_stride
    return _Source(start, e.number("x_z"), e.number("x_y"), x_stride)


def _packed(e: Block, k: InputGradientPlan, box: Box, o: Int, scratch: Ptr) -> _Source:
    """Bring what reaches a box to scratch, pixel by pixel, the channels of one block of filters together."""
    (z, depth), (y, height), (x, width) = (
        _reaching(e, k, axis, bounds)
        for axis, bounds in enumerate(((box.z_start, box.z_stop), (box.y_start, box.y_stop), (box.x_start, box.x_stop)))
    )
    place = e.pointer("x") + (box.n * e.number("x_n") + x)
    channels = [place + (o + lane) * e.number("x_c") for lane in range(k.lanes)]
    with e.loop(0, depth) as plane, e.loop(0, height) as row:
        offset = (z + plane.index) * e.number("x_z") + (y + row.index) * e.number("x_y")
        line = scratch + (plane.index * height + row.index) * width * k.lanes
        planes_to_pixels(e, [channel + offset for channel in channels], width, line, k.lanes)
    z_stride, y_stride = height * width * k.lanes, width * k.lanes
    return _Source(scratch - (z * z_stride + y * y_stride + x * k.lanes), z_stride, y_stride, k.lanes)


def _reaching(e: Block, k: InputGradientPlan, axis: int, places: tuple[Int, Int]) -> tuple[Int, Int]:
    """First output that reaches one of the places [start, stop) along an axis, and how many there may be."""
    padding, size = e.number(f"pad_{'zyx'[axis]}"), e.number(f"in_{'zyx'[axis]}")
    reach, stride = (k.kernel[axis] - 1) * k.dilation[axis], k.stride[axis]
    first = least(greatest(places[0] + (padding - reach), 0) // stride, size)
    stop = least(greatest(places[1] - 1 + padding, 0) // stride + 1, size)
    return first, greatest(stop - first, 0)


@dataclass(frozen=True, slots=True)
class _Reach:
    """The taps that reach a place along an axis: tap, tap + step, ... from output, output - back, ...

    turns: which of them are in the kernel and come from outputs that there are
    """

    tap: Int
    step: int
    output: Int
    back: int
    turns: tuple[Int, Int]


def _reach(e: Block, k: InputGradientPlan, axis: int, place: Int) -> _Reach:
    stride, dilation, kernel = k.stride[axis], k.dilation[axis], k.kernel[axis]
    shared = gcd(stride, dilation)
    step, back = stride // shared, dilation // shared
    shifted = place + e.number(f"pad_{'zyx'[axis]}")
    phase, whole = shifted % stride, shifted // stride
    # dilation · tap = phase, modulo the stride: both divided by what they have in common.
    tap = phase // shared * pow(back, -1, step) % step if step > 1 else e.whole(0)
    output = whole - (tap * dilation - phase) // stride
    count = ceil_div(greatest(kernel - tap, 0), step)
    if shared > 1:
        count = (phase % shared).equals(0).pick(count, 0)
    first = ceil_div(greatest(output - (e.number(f"in_{'zyx'[axis]}") - 1), 0), back)
    last = least(count, greatest(output + back, 0) // back)
    return _Reach(tap, step, output, back, (first, last))


def _write_box(e: Block, k: InputGradientPlan, box: Box, blocks: tuple[Int, Int], source: _Source, out: Pixels) -> None:
    """Some blocks of filters of a box; `out` is the place of its first pixel."""
    height, width = box.y_stop - box.y_start, box.x_stop - box.x_start
    with e.loop(box.z_start, box.z_stop) as z, e.loop(box.y_start, box.y_stop) as y:
        rows = _reach(e, k, 0, z.index), _reach(e, k, 1, y.index)
        line = out.after(((z.index - box.z_start) * height + (y.index - box.y_start)) * width)
        if k.units:
            _write_tiles(e, k, box, blocks, _Line(source, *rows, line))
        else:
            _write_single(e, k, box, blocks, _Line(source, *rows, line))


@dataclass(frozen=True, slots=True)
class _Line:
    """A row of the input: what reaches it, and where the gradient of its first column goes."""

    source: _Source
    z: _Reach
    y: _Reach
    out: Pixels


_Row = Callable[[Ptr, Ptr, list[Vec]], list[Vec]]


def _sums(e: Block, k: InputGradientPlan, line: _Line, o: Int, count: int, row: _Row) -> list[Vec]:
    """`count` sums over all rows that reach a line; `row` adds one: its gradients, of column 0, and its weights."""
    source, weight = line.source, e.pointer("depthwise_weight") + o
    values = [e.zeros(k.lanes).load(k.lanes)] * count

    def plane(start: Ptr, weight: Ptr, values: list[Vec]) -> list[Vec]:
        with e.loop(*line.y.turns, carried=values) as y:
            tap, output = line.y.tap + y.index * line.y.step, line.y.output - y.index * line.y.back
            y.values = row(start + output * source.y_stride, weight + tap * (k.kernel[2] * k.tap_stride), y.values)
        return y.values

    if k.rank < 3:
        return plane(source.start + o * int(not k.planar), weight, values)
    with e.loop(*line.z.turns, carried=values) as z:
        tap, output = line.z.tap + z.index * line.z.step, line.z.output - z.index * line.z.back
        start = source.start + (output * source.z_stride + o * int(not k.planar))
        z.values = plane(start, weight + tap * (k.kernel[1] * k.kernel[2] * k.tap_stride), z.values)
    return z.values


def _write_tiles(e: Block, k: InputGradientPlan, box: Box, blocks: tuple[Int, Int], line: _Line) -> None:
    stride, padding, count = k.stride[2], e.number("pad_x"), k.units * k.stride[2]
    positions = sorted(_users(k, k.kernel[2]))
    low, high = (positions[0], positions[-1]) if positions else (0, 0)
    with e.loop((box.x_start + padding) // stride, (box.x_stop - 1 + padding) // stride + 1, k.units) as tile:
        u, ix = tile.index, tile.index * stride - padding
        inside = (u + low >= 0) & (u + high < e.number("in_x")) & (ix >= box.x_start) & (ix + count <= box.x_stop)

        def write(*, checked: bool, u: Int = u, ix: Int = ix) -> None:
            with e.loop(*blocks) as block:
                o = first_filter(k, block.index)
                values = _sums(e, k, line, o, count, lambda *row: _add_row(e, k, line, u, *row, checked=checked))
                place = line.out.start + ((ix - box.x_start) * line.out.stride + o)
                if k.fetches and not checked:
                    for i in range(count):
                        (place + (count + i) * line.out.stride).prefetch(2)
                for i, value in enumerate(values):
                    if checked:
                        with e.when((ix + i - box.x_start).is_index_of(box.x_stop - box.x_start)):
                            (place + i * line.out.stride).store(value)
                    else:
                        (place + i * line.out.stride).store(value)

        with e.either(inside) as (plain, at_edge):
            with plain:
                write(checked=False)
            with at_edge:
                write(checked=True)


def _users(k: InputGradientPlan, taps: int) -> dict[int, list[tuple[int, int]]]:
    """Outputs, counted from a tile's first, each with the columns of the tile that it reaches and by which tap.

    taps: as if the kernel's row had so many
    """
    users: dict[int, list[tuple[int, int]]] = {}
    for phase in range(k.stride[2]):
        found = phase_of(phase, taps, k.stride[2], k.dilation[2])
        for turn, tap in enumerate(range(found.first, taps, found.step) if found else ()):
            for unit in range(k.units):
                output = unit + found.offset - turn * found.back if found else 0
                users.setdefault(output, []).append((unit * k.stride[2] + phase, tap))
    return users


def _add_row(
    e: Block, k: InputGradientPlan, line: _Line, u: Int, row: Ptr, weight: Ptr, values: list[Vec], *, checked: bool
) -> list[Vec]:
    """`values` plus the products of one row of the kernel, `taps` at a time."""
    # A whole number of strides later come as many outputs further back.
    back = k.taps * k.dilation[2] // k.stride[2]

    def some(first: Int, taps: int, values: list[Vec]) -> list[Vec]:
        values, base = list(values), u - first * back
        weights = weight + first * (k.taps * k.tap_stride)
        own = [(weights + tap * k.tap_stride).load(k.lanes) for tap in range(taps)]
        for output, users in sorted(_users(k, taps).items()):
            pixel = row + (base + output) * line.source.x_stride
            if checked:
                pixel = select((base + output).is_index_of(e.number("in_x")), pixel, e.zeros(k.lanes))
            elif k.fetches and 0 <= output < k.units:
                (pixel + k.units * line.source.x_stride).prefetch(1)
            vector = pixel.load(k.lanes)
            for i, tap in users:
                values[i] = vector.fma(own[tap], values[i])
        return values

    whole, rest = divmod(k.kernel[2], k.taps)
    if whole == 1:
        values = some(e.whole(0), k.taps, values)
    else:
        with e.loop(0, whole, carried=values) as chunk:
            chunk.values = some(chunk.index, k.taps, chunk.values)
        values = chunk.values
    return some(e.whole(whole), rest, values) if rest else values


def _write_single(e: Block, k: InputGradientPlan, box: Box, blocks: tuple[Int, Int], line: _Line) -> None:
    with e.loop(box.x_start, box.x_stop) as ix:
        column = _reach(e, k, 2, ix.index)

        def add(row: Ptr, weight: Ptr, values: list[Vec], column: _Reach = column) -> list[Vec]:
            with e.loop(*column.turns, carried=values) as x:
                tap, output = column.tap + x.index * column.step, column.output - x.index * column.back
                pixel, own = row + output * line.source.x_stride, weight + tap * k.tap_stride
                x.values = [pixel.load(k.lanes).fma(own.load(k.lanes), x.values[0])]
            return x.values

        with e.loop(*blocks) as block:
            o = first_filter(k, block.index)
            (value,) = _sums(e, k, line, o, 1, add)
            (line.out.start + ((ix.index - box.x_start) * line.out.stride + o)).store(value)
