"""The gradient of pointwise weights, of channels-last pixels: a matrix product over pixels in each group.

    for slot in runs of pixels, piece in slot:
        for p in piece, o in tiles of `rows` output channels, c in panels of `vectors` vectors of input channels:
            gradients[o, p, i] = gradient[p, o + i]
            inputs[c, p, j] = input[p, c + j]                               (both in scratch memory)
        for c in panels, o in tiles:
            sum[i, j] = 0
            for p in piece:
                sum[i, j] += splat(gradients[o, p, i]) · inputs[c, p, j]
            sums[slot, o, c] += sum
    weight_gradient[o, c] = sums[0, o, c] + sums[1, o, c] + ...             (a stage of its own)

What is added to what goes by slots and pieces, never by threads. The last tile of a group and the last vector of a
group overlap those before, in sums of their own. Domain: lanes <= inputs of a group, rows <= outputs of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
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
            o, sums = _first_output(k, tile.index), e.pointer("sums") + tile.index * k.tile_elements
            with e.loop(0, k.panels) as panel:
                for j in range(k.vectors):
                    out = e.pointer("weight_gradient") + _input(k, panel.index, j)
                    for row in range(k.rows):
                        own = sums + ((panel.index * k.rows + row) * k.vectors + j) * k.lanes
                        (out + (o + row) * k.group_inputs).store(_total(e, k, own, k.lanes))
            if k.bias:
                own = sums + (k.tile_elements - k.rows)
                (e.pointer("bias_gradient") + o).store(_total(e, k, own, k.rows))


def _total(e: Block, k: PointwiseGradientPlan, sums: Ptr, lanes: int) -> Vec:
    """What lies at `sums`, of all slots."""
    with e.loop(1, e.number("slots"), carried=[sums.load(lanes)]) as slot:
        own = sums + slot.index * (k.tiles * k.tile_elements)
        slot.values = [slot.values[0] + own.load(lanes)]
    return slot.values[0]


def _first_output(k: PointwiseGradientPlan, tile: Int) -> Int:
    group, index = tile // k.group_tiles, tile % k.group_tiles
    return group * k.group_outputs + least(index * k.rows, k.group_outputs - k.rows)


def _input(k: PointwiseGradientPlan, panel: Int, vector: int) -> Int:
    """The first input channel, within its group, of a vector."""
    return least((panel * k.vectors + vector) * k.lanes, k.group_inputs - k.lanes)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Pixels from `first` on; is_further: there are sums of some before them."""

    first: Int
    count: Int
    scratch: Ptr
    is_further: Bool


def _write_piece(e: Block, k: PointwiseGradientPlan, piece: _Piece, tiles: tuple[Int, Int], sums: Ptr) -> None:
    start, stop = tiles
    width = k.vectors * k.lanes
    gradients = piece.scratch + e.number("pieces") * (k.panels * width)
    _pack_gradients(e, k, piece, tiles, gradients)
    if k.bias:
        with e.loop(start, stop) as tile:
            total = _sum_of_gradients(e, k, piece, gradients + (tile.index - start) * piece.count * k.rows)
            _put(e, total, sums + (tile.index * k.tile_elements + (k.tile_elements - k.rows)), piece.is_further)
    with e.loop(start // k.group_tiles, ceil_div(stop, k.group_tiles)) as group:
        _pack_inputs(e, k, piece, group.index)
        begin, end = group.index * k.group_tiles, (group.index + 1) * k.group_tiles
        with e.loop(0, k.panels) as panel, e.loop(greatest(begin, start), least(end, stop)) as tile:
            own = gradients + (tile.index - start) * piece.count * k.rows
            out = sums + (tile.index * k.tile_elements + panel.index * (k.rows * width))
            inputs = piece.scratch + panel.index * piece.count * width
            for i, vector in enumerate(_product(e, k, piece.count, own, inputs)):
                _put(e, vector, out + i * k.lanes, piece.is_further)


def _pack_gradients(e: Block, k: PointwiseGradientPlan, piece: _Piece, tiles: tuple[Int, Int], out: Ptr) -> None:
    """Bring the gradients of each tile's output channels together; they are read in the order they lie in."""
    with e.loop(0, piece.count) as pixel, e.loop(*tiles) as tile:
        place = (piece.first + pixel.index) * k.out_channels + _first_output(k, tile.index)
        own = out + ((tile.index - tiles[0]) * piece.count + pixel.index) * k.rows
        own.store((e.pointer("gradient") + place).load(k.rows))


def _pack_inputs(e: Block, k: PointwiseGradientPlan, piece: _Piece, group: Int) -> None:
    """The same of each panel's input channels."""
    width = k.vectors * k.lanes
    with e.loop(0, piece.count) as pixel, e.loop(0, k.panels) as panel:
        start = e.pointer("x") + ((piece.first + pixel.index) * k.in_channels + group * k.group_inputs)
        own = piece.scratch + (panel.index * piece.count + pixel.index) * width
        for j in range(k.vectors):
            (own + j * k.lanes).store((start + _input(k, panel.index, j)).load(k.lanes))


def _sum_of_gradients(e: Block, k: PointwiseGradientPlan, piece: _Piece, gradients: Ptr) -> Vec:
    """Of one tile's output channels."""

    def gradient(pixel: Int) -> Vec:
        return (gradients + pixel * k.rows).load(k.rows)

    whole = piece.count // _SUMS * _SUMS
    with e.loop(0, whole, _SUMS, carried=[e.zeros(k.rows).load(k.rows)] * _SUMS) as pixel:
        pixel.values = [value + gradient(pixel.index + i) for i, value in enumerate(pixel.values)]
    with e.loop(whole, piece.count, carried=[reduce(add, pixel.values)]) as last:
        last.values = [last.values[0] + gradient(last.index)]
    return last.values[0]


def _product(e: Block, k: PointwiseGradientPlan, count: Int, gradients: Ptr, inputs: Ptr) -> list[Vec]:
    """The sums of one tile over the pixels of a piece."""
    zeros = [e.zeros(k.lanes).load(k.lanes)] * (k.rows * k.vectors)
    with e.loop(0, count, carried=zeros) as pixel:
        place = inputs + pixel.index * (k.vectors * k.lanes)
        columns = [(place + j * k.lanes).load(k.lanes) for j in range(k.vectors)]
        for i in range(k.rows):
            factor = e.splat(gradients + (pixel.index * k.rows + i), k.lanes)
            for j in range(k.vectors):
                own = i * k.vectors + j
                pixel.values[own] = factor.fma(columns[j], pixel.values[own])
    return pixel.values


def _put(e: Block, vector: Vec, place: Ptr, is_further: Bool) -> None:
    """Add a vector to the sums at a place, or begin them."""
    place.store(vector + select(is_further, place, e.zeros(vector.lanes)).load(vector.lanes))
