"""The gradient of pointwise weights, of channels-last pixels: a matrix product over pixels in each group.

    for slot in runs of pixels, piece in slot:
        for c in panels of `vectors` vectors of columns, o in tiles of `rows` rows:
            sum[i, j] = 0
            for p in piece:
                sum[i, j] += splat(rows[p, o + i]) · columns[p, c + j]
            sums[slot, o, c] += sum
    weight_gradient[o, c] = sums[0, o, c] + sums[1, o, c] + ...             (a stage of its own)

Rows are output channels of the gradient, and columns input channels of the input, or, turned, the other way round. What
many tiles or panels use of a piece is brought together in scratch memory first. What is added to what goes by slots and
pieces, never by threads. The last tile of a group and the last vector of a group overlap those before, in sums of their
own. Domain: lanes <= columns of a group, rows <= rows of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import product
from operator import add

from ..plan.pointwise_gradient import PointwiseGradientPlan
from .ir import Block, Bool, Int, Ptr, Vec, ceil_div, greatest, least, select
from .kernel import OnePlanKernel

# Sums of gradients side by side, which cover the latency of an addition.
_SUMS = 4


@dataclass(frozen=True)
class PointwiseGradientKernel(OnePlanKernel):
    """Tasks: slots of pixels, and in each chunks of rows of tiles."""

    kind = "pw_weight_gradient_f32"
    pointers = ("x", "gradient", "sums", "scratch")
    numbers = ("pixels", "slots", "pieces", "tile_chunks", "scratch_elements")
    writes = ("sums",)

    plan: PointwiseGradientPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k = self.plan
        pixels, slots, chunks, most = (e.number(name) for name in ("pixels", "slots", "tile_chunks", "pieces"))
        tasks = slots * chunks
        scratch = e.pointer("scratch") + thread * e.number("scratch_elements")
        with e.loop(thread * tasks // threads, (thread + 1) * tasks // threads) as task:
            slot, chunk = task.index // chunks, task.index % chunks
            tiles = chunk * k.tiles // chunks, (chunk + 1) * k.tiles // chunks
            sums = e.pointer("sums") + slot * (k.tiles * k.tile_elements)
            first, last = slot * pixels // slots, (slot + 1) * pixels // slots
            with e.loop(first, last, most) as pixel:
                piece = _Piece(pixel.index, least(last - pixel.index, most), scratch, pixel.index > first)
                _write_piece(e, k, piece, tiles, sums)


@dataclass(frozen=True)
class PointwiseSumsKernel(OnePlanKernel):
    """The sums of all slots, in torch's order. Tasks: rows of tiles."""

    kind = "pw_weight_sums_f32"
    pointers = ("sums", "weight_gradient", "bias_gradient")
    numbers = ("slots",)
    writes = ("weight_gradient", "bias_gradient")

    plan: PointwiseGradientPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k = self.plan
        with e.loop(thread * k.tiles // threads, (thread + 1) * k.tiles // threads) as tile:
            row, sums = _first_row(k, tile.index), e.pointer("sums") + tile.index * k.tile_elements
            group = tile.index // k.group_tiles
            with e.loop(0, k.panels) as panel:
                for j, i in product(range(k.vectors), range(k.rows)):
                    own = sums + ((panel.index * k.rows + i) * k.vectors + j) * k.lanes
                    total, column = _total(e, k, own, k.lanes), _column(k, panel.index, j)
                    if k.turned:
                        first = (group * k.group_columns + column) * k.group_inputs + (row + i - group * k.group_rows)
                        for lane in range(k.lanes):
                            place = e.pointer("weight_gradient") + (first + lane * k.group_inputs)
                            place.store(total.permuted([lane]))
                    else:
                        (e.pointer("weight_gradient") + ((row + i) * k.group_inputs + column)).store(total)
            if k.bias:
                own = sums + (k.tile_elements - k.rows)
                (e.pointer("bias_gradient") + row).store(_total(e, k, own, k.rows))


def _total(e: Block, k: PointwiseGradientPlan, sums: Ptr, lanes: int) -> Vec:
    """What lies at `sums`, of all slots."""
    with e.loop(1, e.number("slots"), carried=[sums.load(lanes)]) as slot:
        own = sums + slot.index * (k.tiles * k.tile_elements)
        slot.values = [slot.values[0] + own.load(lanes)]
    return slot.values[0]


def _first_row(k: PointwiseGradientPlan, tile: Int) -> Int:
    group, index = tile // k.group_tiles, tile % k.group_tiles
    return group * k.group_rows + least(index * k.rows, k.group_rows - k.rows)


def _column(k: PointwiseGradientPlan, panel: Int, vector: int) -> Int:
    """The first column, within its group, of a vector."""
    return least((panel * k.vectors + vector) * k.lanes, k.group_columns - k.lanes)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Pixels from `first` on; is_further: there are sums of some before them."""

    first: Int
    count: Int
    scratch: Ptr
    is_further: Bool


@dataclass(frozen=True, slots=True)
class _Numbers:
    """What a piece's pixels have of some rows or columns.

    places: of the first pixel's, one for each vector; those of the next lie `apart` elements further on
    """

    places: list[Ptr]
    apart: int | Int

    def of(self, pixel: Int) -> list[Ptr]:
        return [place + pixel * self.apart for place in self.places]


def _write_piece(e: Block, k: PointwiseGradientPlan, piece: _Piece, tiles: tuple[Int, Int], sums: Ptr) -> None:
    start, stop = tiles
    width = k.vectors * k.lanes
    if k.packs_rows:
        _pack_rows(e, k, piece, tiles)
    if k.bias:
        with e.loop(start, stop) as tile:
            total = _sum_of_rows(e, k, piece, _rows(e, k, piece, tile.index, start))
            _put(e, total, sums + (tile.index * k.tile_elements + (k.tile_elements - k.rows)), piece.is_further)
    with e.loop(start // k.group_tiles, ceil_div(stop, k.group_tiles)) as group:
        if k.packs_columns:
            _pack_columns(e, k, piece, group.index)
        begin, end = group.index * k.group_tiles, (group.index + 1) * k.group_tiles
        first, last = greatest(begin, start), least(end, stop)
        for panels, fetches in (((0, k.fetching_panels), k.fetches), ((k.fetching_panels, k.panels), False)):
            with e.loop(*panels) as panel, e.loop(first, last) as tile:
                out = sums + (tile.index * k.tile_elements + panel.index * (k.rows * width))
                rows = _rows(e, k, piece, tile.index, start)
                columns = _columns(e, k, piece, group.index, panel.index)
                place = (panel.index * (last - first) + (tile.index - first)) * piece.count
                fetched = _next_piece(e, k, piece, place, last - first) if fetches else []
                for i, vector in enumerate(_product(e, k, piece.count, rows, columns, fetched)):
                    _put(e, vector, out + i * k.lanes, piece.is_further)


def _packed_rows(e: Block, k: PointwiseGradientPlan, piece: _Piece) -> Ptr:
    """Behind the columns."""
    return piece.scratch + e.number("pieces") * (k.panels * k.vectors * k.lanes * k.packs_columns)


def _rows(e: Block, k: PointwiseGradientPlan, piece: _Piece, tile: Int, first: Int) -> _Numbers:
    """Those of a tile; `first` is the thread's first one."""
    if k.packs_rows:
        return _Numbers([_packed_rows(e, k, piece) + (tile - first) * piece.count * k.rows], k.rows)
    place = e.pointer("x" if k.turned else "gradient") + (piece.first * k.row_channels + _first_row(k, tile))
    return _Numbers([place], k.row_channels)


def _columns(e: Block, k: PointwiseGradientPlan, piece: _Piece, group: Int, panel: Int) -> _Numbers:
    if k.packs_columns:
        width = k.vectors * k.lanes
        place = piece.scratch + panel * piece.count * width
        return _Numbers([place + j * k.lanes for j in range(k.vectors)], width)
    start = e.pointer("gradient" if k.turned else "x") + (piece.first * k.column_channels + group * k.group_columns)
    return _Numbers([start + _column(k, panel, j) for j in range(k.vectors)], k.column_channels)


def _pack_rows(e: Block, k: PointwiseGradientPlan, piece: _Piece, tiles: tuple[Int, Int]) -> None:
    """Bring the rows of each tile together; they are read in the order they lie in."""
    source, out = e.pointer("x" if k.turned else "gradient"), _packed_rows(e, k, piece)
    with e.loop(0, piece.count) as pixel, e.loop(*tiles) as tile:
        place = (piece.first + pixel.index) * k.row_channels + _first_row(k, tile.index)
        own = out + ((tile.index - tiles[0]) * piece.count + pixel.index) * k.rows
        own.store((source + place).load(k.rows))


def _pack_columns(e: Block, k: PointwiseGradientPlan, piece: _Piece, group: Int) -> None:
    """The same of each panel's columns."""
    source, width = e.pointer("gradient" if k.turned else "x"), k.vectors * k.lanes
    with e.loop(0, piece.count) as pixel, e.loop(0, k.panels) as panel:
        start = source + ((piece.first + pixel.index) * k.column_channels + group * k.group_columns)
        own = piece.scratch + (panel.index * piece.count + pixel.index) * width
        for j in range(k.vectors):
            (own + j * k.lanes).store((start + _column(k, panel.index, j)).load(k.lanes))


def _sum_of_rows(e: Block, k: PointwiseGradientPlan, piece: _Piece, rows: _Numbers) -> Vec:
    """Of one tile, over the pixels of a piece."""

    def row(pixel: Int) -> Vec:
        return rows.of(pixel)[0].load(k.rows)

    whole = piece.count // _SUMS * _SUMS
    with e.loop(0, whole, _SUMS, carried=[e.zeros(k.rows).load(k.rows)] * _SUMS) as pixel:
        pixel.values = [value + row(pixel.index + i) for i, value in enumerate(pixel.values)]
    with e.loop(whole, piece.count, carried=[reduce(add, pixel.values)]) as last:
        last.values = [last.values[0] + row(last.index)]
    return last.values[0]


def _next_piece(e: Block, k: PointwiseGradientPlan, piece: _Piece, place: Int, tiles: Int) -> list[_Numbers]:
    """What the next piece has of both sides from `place` on, of as many places as the fetching panels have pixels."""
    following, runs = piece.first + piece.count, tiles * k.fetching_panels
    found = []
    for name, channels in (("x", k.in_channels), ("gradient", k.out_channels)):
        step = ceil_div(e.whole(channels), runs)
        found.append(_Numbers([e.pointer(name) + (following * channels + place * step)], step))
    return found


def _product(
    e: Block, k: PointwiseGradientPlan, count: Int, rows: _Numbers, columns: _Numbers, fetched: list[_Numbers]
) -> list[Vec]:
    """The sums of one tile over the pixels of a piece; what is fetched is asked for meanwhile, pixel by pixel."""
    zeros = [e.zeros(k.lanes).load(k.lanes)] * (k.rows * k.vectors)
    with e.loop(0, count, carried=zeros) as pixel:
        for numbers in fetched:
            for place in numbers.of(pixel.index):
                place.prefetch(2)
        (first,) = rows.of(pixel.index)
        vectors = [place.load(k.lanes) for place in columns.of(pixel.index)]
        for i in range(k.rows):
            factor = e.splat(first + i, k.lanes)
            for j, vector in enumerate(vectors):
                own = i * k.vectors + j
                pixel.values[own] = factor.fma(vector, pixel.values[own])
    return pixel.values


def _put(e: Block, vector: Vec, place: Ptr, is_further: Bool) -> None:
    """Add a vector to the sums at a place, or begin them."""
    place.store(vector + select(is_further, place, e.zeros(vector.lanes)).load(vector.lanes))
