"""Depthwise convolution of channels-last pixels.

    for some rows y of one plane:
        for some blocks of `lanes` filters:
            for x in tiles of `columns` output columns:          (a strip: all rows, then the next tile)
                for y in rows:
                    for o in blocks:
                        out[y, x + i·apart, o] = activation(sums of the tile)      (tile.py)

Columns are neighbours, or lie a dilation `apart` where they share more inputs so. Down a strip two of three input rows
are still in L1 from the row above; `strip_blocks` is chosen so that they, and the weights, fit there. The last tile of
a row and the last block of filters overlap the ones before them, so that nothing is masked and there is no remainder
code: what is computed twice has the same bits. Domain: any window, any multiplier; lanes <= filters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from operator import and_
from typing import ClassVar, Protocol, Self

from ..plan.constants import Plan
from ..plan.depthwise import TAPS_AT_ONCE, DepthwisePlan, usual_edges
from ..plan.filters import PixelFilters
from ..plan.sizes import seen
from . import row_sums
from .activations import activated
from .ir import Block, Bool, Int, Ptr, Vec, ceil_div, greatest, least
from .kernel import VIEW, Kernel
from .tile import ANY_EDGES, Edges, Strip, Taps, rows_of, sums, sums_of_rows, valid

POINTERS = ("x", "zeros", "depthwise_weight", "depthwise_bias")
# Beside those of a view: how units of rows are cut, and fetched ahead.
UNITS = ("rows", "segments", "plane_rows", "strip_rows")
FETCHED = ("fetch_rows", "fetch_planes", "fetch_blocks")

# Lines that a tile asks for at most: behind more its own loads would wait, which ask for as many themselves.
MOST_FETCHED = 64


@dataclass(frozen=True, slots=True)
class Rows:
    """Output rows of one plane that follow one another, and the columns [start, stop) that are asked for.

    count:  how many rows
    z, y:   input place of tap 0 of the first row, outside the image where padding is
    tap:    pointer to column 0 of the input row under that tap; it may lie outside the image and is then not read
    z_stride, y_stride, x_stride: elements to the next input plane, row and column
    packed: the input holds one block of filters, lane by lane; else pixels of all input channels
    sums:   where those of the first row go, or None
    """

    count: Int
    z: Int
    y: Int
    tap: Ptr
    z_stride: Int
    y_stride: Int
    x_stride: int | Int
    start: Int
    stop: Int
    packed: bool = False
    sums: Ptr | None = None


class Place(Protocol):
    """Where results go: the place of a pixel, and of those after it."""

    def after(self, pixels: Int) -> Self:
        """The place of the pixel so many further on."""

    def put(self, tile: list[Vec], o: Int, apart: int) -> None:
        """Store a block of filters from o on, of pixels `apart` pixels apart."""


@dataclass(frozen=True, slots=True)
class Pixels(Place):
    """Channels-last pixels: where filter 0 of a pixel goes, and elements from one pixel to the next."""

    start: Ptr
    stride: int

    def after(self, pixels: Int) -> Pixels:
        return Pixels(self.start + pixels * self.stride, self.stride)

    def put(self, tile: list[Vec], o: Int, apart: int) -> None:
        start = self.start + o
        for i, vector in enumerate(tile):
            (start + i * apart * self.stride).store(vector)


@dataclass(frozen=True)
class DepthwiseKernel(Kernel):
    """Channels-last pixels. Tasks: chunks of blocks, and in each every unit.

    out_stride: elements from one pixel of the result to the next
    """

    pointers: ClassVar[tuple[str, ...]] = (*POINTERS, "out")
    numbers = (*VIEW, *UNITS, *FETCHED, "chunks")

    depthwise: DepthwisePlan
    out_stride: int

    @property
    def label(self) -> str:
        return f"dw_f32_{self.depthwise.name}_o{self.out_stride}"

    @property
    def plans(self) -> tuple[Plan, ...]:
        return (self.depthwise,)

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k = self.depthwise
        chunks, units = e.number("chunks"), e.number("rows") * e.number("segments")
        tasks = chunks * units
        start, stop = thread * tasks // threads, (thread + 1) * tasks // threads
        with e.loop(start // units, ceil_div(stop, units)) as chunk:
            begun = chunk.index * units
            first, last = greatest(start - begun, 0), least(stop - begun, units)
            blocks = chunk.index * k.blocks // chunks, (chunk.index + 1) * k.blocks // chunks
            out = Pixels(e.pointer("out"), self.out_stride).after(first_pixel(e, k, first))
            write_units(e, k, (first, last), blocks, out)


@dataclass(frozen=True)
class SummedDepthwiseKernel(DepthwiseKernel):
    """The sums of each row beside it; units are rows."""

    pointers = (*DepthwiseKernel.pointers, "sums")
    writes = ("out", "sums")


def first_pixel(e: Block, k: DepthwisePlan, unit: Int) -> Int:
    """Index, over the whole batch, of the first output pixel of a unit: a segment of a row."""
    width, segments = e.number("out_x"), e.number("segments")
    return _row_in_turn(e, k, unit // segments) * width + unit % segments * width // segments


def _row_in_turn(e: Block, k: DepthwisePlan, turn: Int) -> Int:
    """Index, over the whole batch, of the output row whose turn it is: some rows of all planes go before others.

    Where the planes that a window sees do not fit in L2, they would come from beyond it for each plane of results.
    """
    if k.rank < 3:
        return turn
    height, depth, rows = e.number("out_y"), e.number("out_z"), e.number("plane_rows")
    y, z, band = turn % rows, turn // rows % depth, turn // rows // depth
    bands = height // rows
    return (band // bands * depth + z) * height + band % bands * rows + y


def first_filter(k: PixelFilters, block: Int) -> Int:
    """The first filter of a block; the last block overlaps the one before it where filters do not fill it."""
    return least(block * k.lanes, k.filters - k.lanes)


def write_units(e: Block, k: DepthwisePlan, units: tuple[Int, Int], blocks: tuple[Int, Int], out: Place) -> None:
    """The units [first, last), `strip_rows` rows at a time; `out` is the place of the first pixel."""
    first, last = units
    height = e.number("out_y" if k.rank < 3 else "plane_rows")
    segments, most = e.number("segments"), e.number("strip_rows")
    origin = first_pixel(e, k, first)
    # Whole rows of one plane go together; a piece of a row goes alone.
    together = (segments <= 1).pick(height, 1)
    with e.loop(first // together, ceil_div(last, together)) as run:
        start, stop = greatest(first, run.index * together), least(last, (run.index + 1) * together)
        with e.loop(start, stop, most) as unit:
            rows = _rows_from(e, k, unit.index, least(stop - unit.index, most))
            write_rows(e, k, rows, blocks, out.after(first_pixel(e, k, unit.index) - origin))


def _rows_from(e: Block, k: DepthwisePlan, unit: Int, count: Int) -> Rows:
    """`count` rows of a channels-last input, from a unit on."""
    width, segments = e.number("out_x"), e.number("segments")
    row, segment = _row_in_turn(e, k, unit // segments), unit % segments
    y, plane = row % e.number("out_y"), row // e.number("out_y")
    z, n = plane % e.number("out_z"), plane // e.number("out_z")
    columns = segment * width // segments, (segment + 1) * width // segments
    rows = image_rows(e, k, (n, z, y), count, columns)
    return replace(rows, sums=e.pointer("sums") + row * k.sum_elements) if k.summed else rows


def first_unseen(e: Block, k: DepthwisePlan, unit: Int) -> Ptr:
    """The first input pixel that a unit reads and the one before it does not."""
    rows = _rows_from(e, k, unit, e.whole(1))
    overlap = max(0, (k.kernel[1] - 1) * k.dilation[1] + 1 - k.stride[1])
    return rows.tap + (rows.y_stride * overlap + (rows.start * k.stride[2] - e.number("pad_x")) * rows.x_stride)


def image_rows(e: Block, k: PixelFilters, place: tuple[Int, Int, Int], count: Int, columns: tuple[Int, Int]) -> Rows:
    """The columns [start, stop) of `count` output rows from n z y on, from a channels-last input."""
    n, z, y = place
    iz, iy = z * k.stride[0] - e.number("pad_z"), y * k.stride[1] - e.number("pad_y")
    z_stride, y_stride = e.number("x_z"), e.number("x_y")
    return Rows(
        count=count,
        z=iz,
        y=iy,
        tap=e.pointer("x") + (n * e.number("x_n") + iz * z_stride + iy * y_stride),
        z_stride=z_stride,
        y_stride=y_stride,
        x_stride=e.number("x_x") if k.pixel_stride is None else k.pixel_stride,
        start=columns[0],
        stop=columns[1],
    )


def write_rows(e: Block, k: DepthwisePlan, rows: Rows, blocks: tuple[Int, Int], out: Place) -> None:
    """The blocks [first, last) of some rows; `out` is the place of the first row's column `start`."""
    width, apart = rows.stop - rows.start, k.dilation[2]
    if rows.sums is not None:
        row_sums.clear(e, k, rows.sums, rows.count, blocks)
    if not k.dilated_columns:
        _write_columns(e, k, rows, blocks, out, (e.whole(0), 1))
        return
    # A row may have too few columns that see the same inputs.
    with e.either(width >= k.dilated_columns[-1] * apart) as (many, few):
        with many, e.loop(0, apart) as first:
            _write_columns(e, k, rows, blocks, out, (first.index, apart))
        with few:
            _write_columns(e, k, rows, blocks, out, (e.whole(0), 1))


def _write_columns(
    e: Block,
    k: DepthwisePlan,
    rows: Rows,
    blocks: tuple[Int, Int],
    out: Place,
    columns_from: tuple[Int, int],
) -> None:
    """The columns first, first + apart, ... from `start` on."""
    (first, apart), (block, last) = columns_from, blocks
    width = rows.stop - rows.start
    count = ceil_div(width - first, apart)
    cases, otherwise = _tiles(k, count, apart)
    widest = cases[0][1]

    def write_tiles(columns: int) -> None:
        with e.loop(block, last, k.strip_blocks) as chunk, e.loop(0, ceil_div(count, columns)) as tile:
            some = chunk.index, least(chunk.index + k.strip_blocks, last)
            begin = least(tile.index * columns, count - columns)
            column = first + begin * apart
            ix = (rows.start + column) * k.stride[2] - e.number("pad_x")

            def write(edges: Edges) -> None:
                strip = Strip(ix, columns, apart, edges, rows.x_stride, rows.packed, tile.index * columns - begin)
                _write_strip(e, k, rows, strip, some, out.after(column))

            if columns > 1 and k.evenly:
                write(Edges(*usual_edges((k.kernel[2] - 1) * k.dilation[2]), checked=True))
            # Narrow tiles of long rows would be much code for few cases.
            elif columns > 1 and (columns == widest or k.kernel[2] <= min(k.taps, TAPS_AT_ONCE)):
                _by_edges(e, k, ix, (columns, apart), write)
            else:
                write(ANY_EDGES)

    e.choose(cases, otherwise, write_tiles)


def _tiles(k: DepthwisePlan, count: Int, apart: int) -> tuple[list[tuple[Bool, int]], int]:
    """How many columns a tile may have for `count` of them, each with when it has, and how many it has otherwise."""

    def fits(columns: int, share: int) -> Bool:
        """Whether at most 1/share of the columns is done twice."""
        return (count >= columns) & ((ceil_div(count, columns) * columns - count) * share <= count)

    if k.evenly:
        # The fewest that are done in all, by the widest tiles that do so few.
        done = [ceil_div(count, columns) * columns for columns in k.columns]
        return [
            (reduce(and_, (done[i] <= others for others in done[i + 1 :]), count >= columns), columns)
            for i, columns in enumerate(k.columns)
        ], 1
    if apart > 1:
        return [(fits(columns, 6), columns) for columns in k.dilated_columns[:-1]], k.dilated_columns[-1]
    widest, *others = k.columns
    return [(fits(widest, 4) if others else count >= widest, widest), *((count >= n, n) for n in others)], 1


def _by_edges(e: Block, k: DepthwisePlan, ix: Int, tile: tuple[int, int], write: Callable[[Edges], None]) -> None:
    """Write a strip for each way in which a tile may lie over the image's edges."""
    columns, apart = tile
    reach = (k.kernel[2] - 1) * k.dilation[2]
    size, last = e.number("in_x"), ix + ((columns - 1) * apart * k.stride[2] + reach)
    # Those of "same" padding, of the inputs that a tile reads.
    left, right = (-(-outside // apart) * apart for outside in usual_edges(reach))
    starts_inside, ends_inside = ix >= 0, last < size
    cases = [(starts_inside & ends_inside, Edges())]
    if reach > 0 and k.kernel[2] <= k.taps:
        starts_before = (ix >= -left) & (ix < apart - left)
        ends_after = (last >= size + (right - apart)) & (last < size + right)
        cases += [
            (starts_before & ends_inside, Edges(left, 0)),
            (starts_inside & ends_after, Edges(0, right)),
            (starts_before & ends_after, Edges(left, right)),
        ]
    e.choose(cases, ANY_EDGES, write)


def _write_strip(e: Block, k: DepthwisePlan, rows: Rows, strip: Strip, blocks: tuple[Int, Int], out: Place) -> None:
    width = rows.stop - rows.start
    z = valid(rows.z, e.number("in_z"), k, 0) if k.rank > 2 else (e.whole(0), e.whole(1))
    apart = k.rows_apart
    with e.loop(0, least(rows.count, apart)) as first, e.loop(first.index, rows.count, apart) as row:
        y = valid(rows.y + row.index * k.stride[1], e.number("in_y"), k, 1) if k.rank > 1 else (e.whole(0), e.whole(1))
        start = rows.tap + row.index * k.stride[1] * rows.y_stride
        taps = Taps(start, z, y, rows.z_stride * k.dilation[0], rows.y_stride * k.dilation[1])
        place = out.after(row.index * width)

        written_out = rows_of(e, k, strip, taps) if k.rows_unrolled and strip.edges != ANY_EDGES else None
        with e.loop(*blocks) as block:
            o = first_filter(k, block.index)
            if k.fetches and strip.edges != ANY_EDGES:
                if k.rank == 1:
                    _fetch_blocks_ahead(e, k, strip, start, o)
                else:
                    planes, further = _ahead(e, k)
                    later = out.after((row.index + further * apart + planes * e.number("out_y")) * width)
                    _fetch_rows_ahead(e, k, rows, strip, start + o // k.multiplier, later, o)
            tile = sums(e, k, strip, taps, o) if written_out is None else sums_of_rows(e, k, strip, written_out, o)
            results = [activated(vector, k.activation) for vector in tile]
            place.put(results, o, strip.apart)
            if rows.sums is not None:
                sums_of_row = rows.sums + (row.index * k.sum_elements + block.index * k.lanes)
                row_sums.add(e, sums_of_row, results, strip.seen)


def _ahead(e: Block, k: DepthwisePlan) -> tuple[Int, Int]:
    """How many planes and rows of results lie between the one that is done and the one that is fetched for."""
    return e.whole(0) if k.rank < 3 else e.number("fetch_planes"), e.number("fetch_rows")


def _fetch_rows_ahead(e: Block, k: DepthwisePlan, rows: Rows, strip: Strip, start: Ptr, out: Place, o: Int) -> None:
    """Fetch what a row further down, or in the next plane, reads first: the hardware sees such short runs too late.

    Where the result of that row will lie too: a store waits until its line has come. Of a volume's planes only the last
    is new.
    """
    planes, further = _ahead(e, k)
    if k.rank > 2:
        start = start + rows.z_stride * (planes * k.stride[0] + (k.kernel[0] - 1) * k.dilation[0])
    with e.when(planes + further > 0):
        lowest = further * (k.stride[1] * k.rows_apart) + (k.kernel[1] - 1) * k.dilation[1]

        def fetch(y: int, columns: Sequence[int]) -> None:
            line = start + (rows.y_stride * (lowest - y) + strip.ix * strip.x_stride)
            for i, x in product(range(strip.columns), columns):
                (line + (x + i * k.stride[2]) * strip.apart * strip.x_stride).prefetch(2)

        _each_seen(k, strip, fetch)
        if k.fetches_out and isinstance(out, Pixels):
            for column in range(strip.columns):
                (out.start + (o + column * strip.apart * out.stride)).prefetch(2)


def _fetch_blocks_ahead(e: Block, k: DepthwisePlan, strip: Strip, start: Ptr, o: Int) -> None:
    """Fetch what the block of filters `fetch_blocks` further on reads first: pixels of a sequence lie far apart."""
    ahead = e.number("fetch_blocks")
    with e.when(ahead > 0):
        rightmost = strip.ix + (k.kernel[2] - 1) * k.dilation[2]
        line = start + (o + ahead * k.lanes) // k.multiplier + rightmost * strip.x_stride

        def fetch(_: int, columns: Sequence[int]) -> None:
            for i, x in product(range(strip.columns), columns):
                (line + (i * k.stride[2] - x) * strip.apart * strip.x_stride).prefetch(2)

        _each_seen(k, strip, fetch)


def _each_seen(k: DepthwisePlan, strip: Strip, fetch: Callable[[int, Sequence[int]], None]) -> None:
    """`fetch` what a tile sees first: how far up from its last row, and how far from the first input of each output.

    Of `stride` neighbours these are as many as there are taps at most: inputs between taps nobody reads.
    """
    (up, before), rows, columns = k.stride[1:], *(seen(k.kernel[i], k.stride[i], k.dilation[i]) for i in (1, 2))
    if rows * columns * strip.columns <= MOST_FETCHED:
        for y in sorted(t * k.dilation[1] % up for t in range(rows)):
            fetch(y, sorted(t * k.dilation[2] % before for t in range(columns)))
