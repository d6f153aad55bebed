"""Contiguous images, one plane per channel: tiles of them become pixels on the way in, and planes on the way out.

    for box in pieces of an image: some planes, some rows of one plane or some columns of one row:
        for o in blocks of `lanes` filters:
            scratch[iz, iy, ix, lane] = input[(o + lane) // multiplier, iz, iy, ix] for all that the box's windows cover
            result[pixel, o + lane] = the rows of the box, as channels-last ones, from scratch
        out[o + lane, pixel] = result[pixel, o + lane]

A box's input is packed for one block of filters at a time, so it fits in L1 or L2, whatever the number of channels. An
input whose pixels lie together already (a sequence seen through `transpose`) is read as it is, and its result need not
pass through scratch either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

from ..plan.constants import Plan
from ..plan.depthwise import DepthwisePlan
from ..plan.filters import PixelFilters
from .depthwise import FETCHED, POINTERS, Pixels, Place, Rows, first_filter, image_rows, write_rows
from .inputs import inputs_of
from .ir import Block, Int, Ptr, Vec, ceil_div, greatest, least
from .kernel import VIEW, Kernel

# z_bands: runs of output planes; boxes: of each of them; box_pixels: the most that one has; in_scratch: elements that a
# packed box may need
BOXES = ("batch", "segments", "z_bands", "boxes", "box_pixels", "in_scratch", "scratch_elements")


@dataclass(frozen=True, slots=True)
class Box:
    """The planes [z_start, z_stop), rows [y_start, y_stop) and columns [x_start, x_stop) of image n's output.

    Its pixels follow one another in a plane of the output: it is several planes, or rows of one, or a part of one row.
    """

    n: Int
    z_start: Int
    z_stop: Int
    y_start: Int
    y_stop: Int
    x_start: Int
    x_stop: Int

    @property
    def pixels(self) -> Int:
        return (self.z_stop - self.z_start) * (self.y_stop - self.y_start) * (self.x_stop - self.x_start)


def box_of(e: Block, index: Int) -> Box:
    """Boxes are numbered along x, y, z, then n; where rows are cut, `segments` > 1, a box is part of one row."""
    boxes, segments, z_bands = e.number("boxes"), e.number("segments"), e.number("z_bands")
    depth, height, width = e.number("out_z"), e.number("out_y"), e.number("out_x")
    bands = boxes // segments
    piece, run = index % boxes, index // boxes
    segment, band, z_band = piece % segments, piece // segments, run % z_bands
    return Box(
        n=run // z_bands,
        z_start=z_band * depth // z_bands,
        z_stop=(z_band + 1) * depth // z_bands,
        y_start=band * height // bands,
        y_stop=(band + 1) * height // bands,
        x_start=segment * width // segments,
        x_stop=(segment + 1) * width // segments,
    )


def box_count(e: Block) -> Int:
    return e.number("batch") * e.number("z_bands") * e.number("boxes")


@dataclass(frozen=True)
class BoxedDepthwiseKernel(Kernel):
    """Tasks: blocks of filters, and in each every box; of pixels that lie together, boxes, and in each every block."""

    pointers = (*POINTERS, "scratch", "out")
    numbers = (*VIEW, *FETCHED, *BOXES)

    depthwise: DepthwisePlan

    @property
    def label(self) -> str:
        return f"dw_f32_{self.depthwise.name}_to_planes"

    @property
    def plans(self) -> tuple[Plan, ...]:
        return (self.depthwise,)

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k = self.depthwise
        boxes = box_count(e)
        tasks = boxes * k.blocks
        scratch = e.pointer("scratch") + thread * e.number("scratch_elements")
        result = scratch + e.number("in_scratch")
        with e.loop(thread * tasks // threads, (thread + 1) * tasks // threads) as task:
            by_block = task.index // boxes, task.index % boxes
            by_box = task.index % k.blocks, task.index // k.blocks
            block, index = by_block if k.planar else by_box
            box = box_of(e, index)
            o = first_filter(k, block)
            planes = planes_of(e, e.pointer("out"), box, k.filters, o, k.lanes)
            if k.to_planes:
                write_box(e, k, box, block, scratch, Planes(planes))
            else:
                write_box(e, k, box, block, scratch, Pixels(result - o, k.lanes))
                pixels_to_planes(e, result, k.lanes, box.pixels, planes)


@dataclass(frozen=True)
class PackedDepthwiseKernel(BoxedDepthwiseKernel):
    """Channels-last pixels that come to scratch block by block. Tasks: boxes, and in each every block of filters."""

    @property
    def label(self) -> str:
        return f"dw_f32_{self.depthwise.name}_packed"

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k = self.depthwise
        tasks = box_count(e) * k.blocks
        scratch = e.pointer("scratch") + thread * e.number("scratch_elements")
        with e.loop(thread * tasks // threads, (thread + 1) * tasks // threads) as task:
            box, block = box_of(e, task.index // k.blocks), task.index % k.blocks
            out = Pixels(e.pointer("out"), k.filters).after(first_pixel(e, box))
            write_box(e, k, box, block, scratch, out, packs=True)


def first_pixel(e: Block, box: Box) -> Int:
    """Index, over the whole batch, of the box's first output pixel."""
    height, width = e.number("out_y"), e.number("out_x")
    return ((box.n * e.number("out_z") + box.z_start) * height + box.y_start) * width + box.x_start


def planes_of(e: Block, base: Ptr, box: Box, channels: int, o: Int, lanes: int) -> list[Ptr]:
    """Where the box begins in the planes from `o` of a tensor of the output's spatial size."""
    height, width, plane = e.number("out_y"), e.number("out_x"), e.number("out_c")
    place = (box.z_start * height + box.y_start) * width + box.x_start
    return [base + ((box.n * channels + o + lane) * plane + place) for lane in range(lanes)]


@dataclass(frozen=True, slots=True)
class Planes(Place):
    """A plane for each filter of one block, to which tiles of neighbouring pixels are transposed in registers.

    starts: where the planes have pixel 0
    """

    starts: list[Ptr]
    pixel: int | Int = 0

    def after(self, pixels: Int) -> Planes:
        return Planes(self.starts, pixels + self.pixel)

    def put(self, tile: list[Vec], o: Int, apart: int) -> None:  # noqa: ARG002
        lanes = len(self.starts)
        if len(tile) < lanes:
            for i, (pixel, start) in enumerate(product(tile, self.starts)):
                (start + (self.pixel + i // lanes)).store(pixel.permuted([i % lanes]))
            return
        for i in range(0, len(tile), lanes):
            for start, row in zip(self.starts, transposed(tile[i : i + lanes]), strict=True):
                (start + (self.pixel + i)).store(row)


def write_box(
    e: Block, k: DepthwisePlan, box: Box, block: Int, scratch: Ptr, out: Place, *, packs: bool = False
) -> None:
    """One block of filters of a box; `out` is the place of its first pixel.

    packs: pixels are brought to scratch too
    """
    covered = pack_input(e, k, box, first_filter(k, block), scratch) if k.planar or packs else None
    height, width = box.y_stop - box.y_start, box.x_stop - box.x_start
    with e.loop(box.z_start, box.z_stop) as z:
        if covered is None:
            rows = image_rows(e, k, (box.n, z.index, box.y_start), height, (box.x_start, box.x_stop))
        else:
            rows = packed_rows(e, k, box, covered, scratch, z.index)
        pixel = (z.index - box.z_start) * height * width
        write_rows(e, k, rows, (block, block + 1), out.after(pixel))


@dataclass(frozen=True, slots=True)
class Covered:
    """The part of the image under a box's windows: the first plane, row and column inside, and how many of each."""

    z: Int
    depth: Int
    y: Int
    height: Int
    x: Int
    width: Int


def pack_input(e: Block, k: PixelFilters, box: Box, o: Int, scratch: Ptr) -> Covered:
    """Bring what the box's windows cover to scratch, pixel by pixel, the channels of one block of filters together."""
    covered = _covered(e, k, box)
    z_stride, y_stride, x_stride = e.number("x_z"), e.number("x_y"), _column_stride(e, k)
    # Whole rows that follow one another in memory are as good as one.
    joined = (covered.width * x_stride).equals(y_stride)
    rows, columns = (box.y_start, box.y_stop), (box.x_start, box.x_stop)
    if _may_skip(k, 1):
        joined = joined & ((rows[1] - rows[0]) * k.kernel[1] >= covered.height)
    if k.dilation[2] > 1:
        joined = joined & (_run(k, columns) * k.kernel[2] >= covered.width)
    lines = joined.pick(1, covered.height)
    length = joined.pick(covered.height * covered.width, covered.width)
    planes = (box.z_start, box.z_stop), (covered.z, covered.depth)
    bring = _bringing(e, k, box, o)
    with _each_seen(e, k, 0, *planes) as z, _each_seen(e, k, 1, rows, (covered.y, lines)) as line:
        offset = (covered.z + z) * z_stride + (covered.y + line) * y_stride + covered.x * x_stride
        place = (z * lines + line) * length * k.lanes
        with _runs(e, k, columns, covered, length) as (start, count):
            bring(offset + start * x_stride, count, scratch + (place + start * k.lanes))
    return covered


def _column_stride(e: Block, k: PixelFilters) -> int | Int:
    if k.planar:
        return 1
    return e.number("x_x") if k.pixel_stride is None else k.pixel_stride


def _bringing(e: Block, k: PixelFilters, box: Box, o: Int) -> Callable[[Int, Int, Ptr], None]:
    """What brings so many columns, from an offset into an image's planes on, to a place."""
    image = e.pointer("x") + box.n * e.number("x_n")
    if k.planar:
        channels = [image + (o + lane) // k.multiplier * e.number("x_c") for lane in range(k.lanes)]
        return lambda offset, count, place: planes_to_pixels(
            e, [channel + offset for channel in channels], count, place, k.lanes
        )
    inputs, x_stride = inputs_of(e, k, o, packed=False), _column_stride(e, k)

    def bring(offset: Int, count: Int, place: Ptr) -> None:
        first = image + (offset + inputs.first)
        with e.loop(0, count) as pixel:
            (place + pixel.index * k.lanes).store(inputs.load(first + pixel.index * x_stride))

    return bring


def _may_skip(k: PixelFilters, axis: int) -> bool:
    """Whether windows of neighbouring outputs may have planes or rows between them that nobody reads."""
    return k.dilation[axis] > 1 or k.stride[axis] > k.kernel[axis]


@contextmanager
def _each_seen(
    e: Block, k: PixelFilters, axis: int, outputs: tuple[Int, Int], covered: tuple[Int, Int]
) -> Iterator[Int]:
    """The planes or rows of covered = (first, count) that outputs = [start, stop) see, by their index in it.

    Tap by tap where that is fewer, else all there are.
    """
    (start, stop), (first, count) = outputs, covered
    if not _may_skip(k, axis):
        with e.loop(0, count) as each:
            yield each.index
        return
    taps, stride = k.kernel[axis], k.stride[axis]
    by_taps = (stop - start) * taps < count
    begun = by_taps.pick(start * stride - e.number(("pad_z", "pad_y")[axis]) - first, 0)
    with e.loop(0, by_taps.pick(taps, 1)) as tap, e.loop(0, by_taps.pick(stop - start, count)) as each:
        index = begun + tap.index * k.dilation[axis] + each.index * by_taps.pick(stride, 1)
        with e.when(index.is_index_of(count)):
            yield index


def _run(k: PixelFilters, outputs: tuple[Int, Int]) -> Int:
    """Columns from the first to the last that one tap sees for outputs [start, stop)."""
    return (outputs[1] - outputs[0] - 1) * k.stride[2] + 1


@contextmanager
def _runs(
    e: Block, k: PixelFilters, outputs: tuple[Int, Int], covered: Covered, length: Int
) -> Iterator[tuple[Int, Int]]:
    """Runs of columns, (start, count), that outputs see: tap by tap where that is fewer, else one of `length`."""
    if k.dilation[2] == 1:
        yield e.whole(0), length
        return
    run, width = _run(k, outputs), covered.width
    by_taps = run * k.kernel[2] < width
    begun = outputs[0] * k.stride[2] - e.number("pad_x") - covered.x
    with e.loop(0, by_taps.pick(k.kernel[2], 1)) as tap:
        start = begun + tap.index * k.dilation[2]
        inside = least(greatest(start, 0), width)
        count = greatest(least(start + run, width) - inside, 0)
        yield by_taps.pick(inside, 0), by_taps.pick(count, length)


def packed_rows(e: Block, k: PixelFilters, box: Box, covered: Covered, scratch: Ptr, z: Int) -> Rows:
    """The box's output rows in plane z, from scratch."""
    iz, iy = z * k.stride[0] - e.number("pad_z"), box.y_start * k.stride[1] - e.number("pad_y")
    y_stride = covered.width * k.lanes
    z_stride = covered.height * y_stride
    return Rows(
        count=box.y_stop - box.y_start,
        z=iz,
        y=iy,
        tap=scratch + ((iz - covered.z) * z_stride + (iy - covered.y) * y_stride - covered.x * k.lanes),
        z_stride=z_stride,
        y_stride=y_stride,
        x_stride=k.lanes,
        start=box.x_start,
        stop=box.x_stop,
        packed=True,
    )


def _covered(e: Block, k: PixelFilters, box: Box) -> Covered:
    z, depth = _span(k, 0, box.z_start, box.z_stop, e.number("pad_z"), e.number("in_z"))
    y, height = _span(k, 1, box.y_start, box.y_stop, e.number("pad_y"), e.number("in_y"))
    x, width = _span(k, 2, box.x_start, box.x_stop, e.number("pad_x"), e.number("in_x"))
    whole = e.number("segments") <= 1
    return Covered(z, depth, y, height, whole.pick(0, x), whole.pick(e.number("in_x"), width))


def _span(k: PixelFilters, axis: int, start: Int, stop: Int, padding: Int, size: Int) -> tuple[Int, Int]:
    """First input inside the image that the outputs [start, stop) see along an axis, and how many."""
    first = start * k.stride[axis] - padding
    last = (stop - 1) * k.stride[axis] - padding + ((k.kernel[axis] - 1) * k.dilation[axis] + 1)
    inside = least(greatest(first, 0), size)
    return inside, greatest(least(last, size) - inside, 0)


def planes_to_pixels(
    e: Block, planes: list[Ptr], count: Int, out: Ptr, stride: int, change: Callable[[Vec], Vec] = lambda row: row
) -> None:
    """out[pixel, lane] = planes[lane][pixel], changed, for `count` pixels, `stride` elements apart."""
    lanes = len(planes)
    with e.either(count >= lanes) as (tiled, single):
        with tiled, e.loop(0, ceil_div(count, lanes)) as tile:
            pixel = least(tile.index * lanes, count - lanes)
            rows = transposed([(plane + pixel).load(lanes) for plane in planes])
            for i, row in enumerate(rows):
                (out + (pixel + i) * stride).store(change(row))
        with single, e.loop(0, count) as one:
            for lane, plane in enumerate(planes):
                (out + (one.index * stride + lane)).store(change((plane + one.index).load(1)))


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
    """Lane j of row i in lane i of row j, for a square of 1, 2, 4, 8 or 16 lanes.

    Four neighbouring rows exchange single lanes, then pairs, inside every unit of four lanes; the units then change
    places. Each step is one cheap instruction on x86, which has no shuffle of two whole vectors that is.
    """
    lanes = len(rows)
    if lanes <= 2:
        return _exchanged(rows, 1) if lanes == 2 else rows
    quads = [_exchanged(_exchanged(rows[i : i + 4], 1), 2) for i in range(0, lanes, 4)]
    columns = [_units_transposed([quad[j] for quad in quads]) for j in range(4)]
    return [columns[i % 4][i // 4] for i in range(lanes)]


def _exchanged(rows: list[Vec], width: int) -> list[Vec]:
    """Lows, then highs, of each pair of rows `width` apart, taken in turn `width` lanes at a time in units of four."""
    lanes = rows[0].lanes
    unit = min(lanes, 4)
    low = [u + lane + row * lanes for u in range(0, lanes, unit) for lane in range(unit // 2) for row in (0, 1)]
    if width == 2:
        low = [u + lane + row * lanes for u in range(0, lanes, 4) for row in (0, 1) for lane in (0, 1)]
    high = [lane + unit // 2 for lane in low]
    pairs = [(rows[i], rows[i + width]) for i in range(len(rows)) if not i & width]
    return [half for a, b in pairs for half in (a.merged(b, low), a.merged(b, high))]


def _units_transposed(rows: list[Vec]) -> list[Vec]:
    """Unit j of four lanes of row i in unit i of row j."""
    if len(rows) == 1:
        return rows
    lanes = rows[0].lanes
    even, odd = ([lane for lane in range(2 * lanes) if lane // 4 % 2 == parity] for parity in (0, 1))
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    evens = _units_transposed([a.merged(b, even) for a, b in pairs])
    odds = _units_transposed([a.merged(b, odd) for a, b in pairs])
    return [row for pair in zip(evens, odds, strict=True) for row in pair]
