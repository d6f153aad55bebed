"""Contiguous images, one plane per channel: tiles of them become pixels on the way in, and planes on the way out.

    for box in pieces of one output plane, of some rows or of some columns of one row:
        for o in blocks of `lanes` filters:
            scratch[iz, iy, ix, lane] = input[(o + lane) // multiplier, iz, iy, ix] for all that the box's windows cover
            result[pixel, o + lane] = the rows of the box, as channels-last ones, from scratch
        out[o + lane, pixel] = result[pixel, o + lane]

A box's input is packed for one block of filters at a time, so it fits in L1 or L2, whatever the number of channels. An
input whose pixels lie together already (a sequence seen through `transpose`) is read as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from .depthwise import Row, first_filter, image_row, write_row
from .ir import Block, Int, Ptr, Vec, ceil_div, greatest, least
from .plan import DepthwiseKernel

# boxes: of one output plane, and box_pixels the most that one has; in_scratch: elements that a packed box may need
SLOTS = ("batch", "boxes", "box_pixels", "in_scratch", "scratch", "scratch_elements")


@dataclass(frozen=True, slots=True)
class Box:
    """The output rows [y_start, y_stop), columns [x_start, x_stop), of plane z of image n."""

    n: Int
    z: Int
    y_start: Int
    y_stop: Int
    x_start: Int
    x_stop: Int

    @property
    def pixels(self) -> Int:
        return (self.y_stop - self.y_start) * (self.x_stop - self.x_start)


def box_of(e: Block, index: Int) -> Box:
    """Boxes are numbered along x, y, z, then n; where rows are cut, `segments` > 1, a box is part of one row."""
    boxes, segments = e.number("boxes"), e.number("segments")
    height, width = e.number("out_y"), e.number("out_x")
    bands = boxes // segments
    piece, plane = index % boxes, index // boxes
    segment, band = piece % segments, piece // segments
    return Box(
        n=plane // e.number("out_z"),
        z=plane % e.number("out_z"),
        y_start=band * height // bands,
        y_stop=(band + 1) * height // bands,
        x_start=segment * width // segments,
        x_stop=(segment + 1) * width // segments,
    )


def box_count(e: Block) -> Int:
    return e.number("batch") * e.number("out_z") * e.number("boxes")


def write_planar_depthwise(e: Block, k: DepthwiseKernel, thread: Int, threads: Int) -> None:
    """Tasks: blocks of filters, and in each every box."""
    boxes = box_count(e)
    tasks = boxes * k.blocks
    scratch = e.pointer("scratch") + thread * e.number("scratch_elements")
    result = scratch + e.number("in_scratch")
    with e.loop(thread * tasks // threads, (thread + 1) * tasks // threads) as task:
        block, box = task.index // boxes, box_of(e, task.index % boxes)
        o = first_filter(k, block)
        write_box(e, k, box, o, scratch, result, k.lanes)
        planes = planes_of(e, e.pointer("depthwise_out"), box, k.filters, o, k.lanes)
        pixels_to_planes(e, result, k.lanes, box.pixels, planes)


def planes_of(e: Block, base: Ptr, box: Box, channels: int, o: Int, lanes: int) -> list[Ptr]:
    """Where the box begins in the planes from `o` of a contiguous tensor of the output's spatial size."""
    height, width = e.number("out_y"), e.number("out_x")
    place = (box.z * height + box.y_start) * width + box.x_start
    plane = e.number("out_z") * height * width
    return [base + ((box.n * channels + o + lane) * plane + place) for lane in range(lanes)]


def write_box(e: Block, k: DepthwiseKernel, box: Box, o: Int, scratch: Ptr, out: Ptr, out_stride: int) -> None:
    """The block of filters from `o` of a box, to pixels `out_stride` apart."""
    if k.planar:
        _write_packed(e, k, box, o, scratch, out, out_stride)
        return
    with e.loop(box.y_start, box.y_stop) as y:
        row = image_row(e, k, (box.n, box.z, y.index), (box.x_start, box.x_stop))
        pixel = (y.index - box.y_start) * (box.x_stop - box.x_start)
        write_row(e, k, row, o, out + pixel * out_stride, out_stride)


def _write_packed(e: Block, k: DepthwiseKernel, box: Box, o: Int, scratch: Ptr, out: Ptr, out_stride: int) -> None:
    covered = _covered(e, k, box)
    planes = e.pointer("x") + box.n * e.number("x_n")
    inputs = [planes + (o + lane) // k.multiplier * e.number("x_c") for lane in range(k.lanes)]
    plane_elements = covered.height * covered.width * k.lanes
    with e.loop(0, k.kernel[0]) as kz:
        iz = covered.z + kz.index * k.dilation[0]
        with e.when(iz.is_index_of(e.number("in_z"))):
            offset = iz * e.number("x_z") + covered.y * e.number("x_y") + covered.x
            _pack(e, k, [plane + offset for plane in inputs], covered, scratch + kz.index * plane_elements)
    y_stride = covered.width * k.lanes
    with e.loop(box.y_start, box.y_stop) as y:
        iy = y.index * k.stride[1] - e.number("pad_y")
        row = Row(
            z=covered.z,
            y=iy,
            tap=scratch + ((iy - covered.y) * y_stride - covered.x * k.lanes),
            z_step=plane_elements,
            y_step=y_stride * k.dilation[1],
            x_stride=k.lanes,
            start=box.x_start,
            stop=box.x_stop,
            packed=True,
        )
        pixel = (y.index - box.y_start) * (box.x_stop - box.x_start)
        write_row(e, k, row, o, out + pixel * out_stride, out_stride)


@dataclass(frozen=True, slots=True)
class _Covered:
    """The part of the image under a box's windows: tap 0 of z, then the first row and column inside, and how many."""

    z: Int
    y: Int
    height: Int
    x: Int
    width: Int


def _covered(e: Block, k: DepthwiseKernel, box: Box) -> _Covered:
    y, y_stop = _span(k, 1, box.y_start, box.y_stop, e.number("pad_y"), e.number("in_y"))
    x, x_stop = _span(k, 2, box.x_start, box.x_stop, e.number("pad_x"), e.number("in_x"))
    # Whole rows follow one another in memory: they are packed as one.
    whole = e.number("segments") <= 1
    x, x_stop = whole.pick(0, x), whole.pick(e.number("in_x"), x_stop)
    return _Covered(box.z * k.stride[0] - e.number("pad_z"), y, greatest(y_stop - y, 0), x, greatest(x_stop - x, 0))


def _span(k: DepthwiseKernel, axis: int, start: Int, stop: Int, padding: Int, size: Int) -> tuple[Int, Int]:
    """The inputs [first, last) inside the image that the outputs [start, stop) see along an axis."""
    first = start * k.stride[axis] - padding
    last = (stop - 1) * k.stride[axis] - padding + ((k.kernel[axis] - 1) * k.dilation[axis] + 1)
    return least(greatest(first, 0), size), least(last, size)


def _pack(e: Block, k: DepthwiseKernel, planes: list[Ptr], covered: _Covered, scratch: Ptr) -> None:
    one = covered.width.equals(e.number("x_y"))
    lines = one.pick(1, covered.height)
    length = one.pick(covered.height * covered.width, covered.width)
    with e.loop(0, lines) as line:
        offset, packed = line.index * e.number("x_y"), scratch + line.index * length * k.lanes
        planes_to_pixels(e, [plane + offset for plane in planes], length, packed, k.lanes)


def planes_to_pixels(e: Block, planes: list[Ptr], count: Int, out: Ptr, stride: int) -> None:
    """out[pixel, lane] = planes[lane][pixel] for `count` pixels, `stride` elements apart."""
    lanes = len(planes)
    with e.either(count >= lanes) as (tiled, single):
        with tiled, e.loop(0, ceil_div(count, lanes)) as tile:
            pixel = least(tile.index * lanes, count - lanes)
            rows = transposed([(plane + pixel).load(lanes) for plane in planes])
            for i, row in enumerate(rows):
                (out + (pixel + i) * stride).store(row)
        with single, e.loop(0, count) as one:
            for lane, plane in enumerate(planes):
                (out + (one.index * stride + lane)).store((plane + one.index).load(1))


def pixels_to_planes(e: Block, pixels: Ptr, stride: int, count: Int, planes: list[Ptr]) -> None:
    """planes[lane][pixel] = pixels[pixel, lane] for `count` pixels, `stride` elements apart."""
    lanes = len(planes)
    with e.either(count >= lanes) as (tiled, single):
        with tiled, e.loop(0, ceil_div(count, lanes)) as tile:
            pixel = least(tile.index * lanes, count - lanes)
            source = pixels + pixel * stride
            rows = transposed([(source + i * stride).load(lanes) for i in range(lanes)])
            for plane, row in zip(planes, rows, strict=True):
                (plane + pixel).store(row)
        with single, e.loop(0, count) as one:
            for lane, plane in enumerate(planes):
                (plane + one.index).store((pixels + (one.index * stride + lane)).load(1))


def transposed(rows: list[Vec]) -> list[Vec]:
    """Lane j of row i in lane i of row j, for a square of lanes: halves are swapped, then quarters, ..."""
    lanes = len(rows)
    rows = list(rows)
    step = lanes // 2
    while step:
        low = [lane if not lane & step else lanes + lane - step for lane in range(lanes)]
        high = [lane + step if not lane & step else lanes + lane for lane in range(lanes)]
        for i in range(lanes):
            if not i & step:
                a, b = rows[i], rows[i + step]
                rows[i], rows[i + step] = a.merged(b, low), a.merged(b, high)
        step //= 2
    return rows
