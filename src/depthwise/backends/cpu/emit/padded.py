"""Depthwise convolution of planes whose rows are first copied with their padding: lanes are columns.

    for n, c in images, channels:
        for band in bands of rows of the result, and segments of their columns:
            for row in input rows under the band, phase of the columns of taps:
                scratch[row, phase, j] = input[n, c, row, j·stride + phase - padding], or 0 outside the image
            for o in filters of the channel, `together` at a time:
                for y in tiles of `rows` rows, x in tiles of `vectors` vectors:
                    sum[r, v] = bias[o]
                    for ky, kx:
                        phase, before = kx·dilation % stride, kx·dilation // stride
                        sum[r, v] += scratch[row of y + r and ky, phase, x + v + before] · splat(weight[ky, kx, o])
                    out[n, o, y + r, x + v] = activation(sum[r, v])

Of channels-last pixels each number is copied by itself, and so is each result. No tap looks at a border, and the loops
over taps are loops: windows may be of any size. Rows and vectors that do not fill a tile overlap.
Domain: `plan.padded.runs_padded`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..plan.padded import PaddedPlan
from .activations import activated
from .direct import gathered
from .ir import Block, Int, Ptr, Vec, ceil_div, greatest, least
from .kernel import VIEW, OnePlanKernel


@dataclass(frozen=True)
class PaddedKernel(OnePlanKernel):
    """Tasks: the planes of all channels, in each every band, and in each of these every segment."""

    kind = "dw_f32_padded"
    pointers = ("x", "depthwise_weight", "depthwise_bias", "scratch", "out")
    numbers = (*VIEW, "batch", "bands", "segments", "row_elements", "scratch_elements")

    plan: PaddedPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k, bands, segments = self.plan, e.number("bands"), e.number("segments")
        height, width = e.number("out_y"), e.number("out_x")
        tasks = e.number("batch") * k.channels * bands * segments
        scratch = e.pointer("scratch") + thread * e.number("scratch_elements")
        with e.loop(thread * tasks // threads, (thread + 1) * tasks // threads) as task:
            whole, segment = task.index // segments, task.index % segments
            plane, band = whole // bands, whole % bands
            n, c = plane // k.channels, plane % k.channels
            piece = _Piece(
                *(band * height // bands, (band + 1) * height // bands),
                *(segment * width // segments, (segment + 1) * width // segments),
            )
            _pad_rows(e, k, e.pointer("x") + (n * e.number("x_n") + c * e.number("x_c")), piece, scratch)
            with e.loop(0, k.multiplier, k.together) as each:
                o = c * k.multiplier + each.index
                out = e.pointer("out") + _place(e, k, n, o)
                with (
                    e.loop(piece.top, piece.bottom, k.rows) as y,
                    e.loop(piece.left, piece.right, k.vectors * k.lanes) as x,
                ):
                    _write_tile(e, k, (o, y.index, x.index), piece, scratch, out)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows [top, bottom) and columns [left, right) of the result."""

    top: Int
    bottom: Int
    left: Int
    right: Int


def _place(e: Block, k: PaddedPlan, n: Int, o: Int) -> Int:
    """Of a filter's first result."""
    if k.pixels:
        return n * (e.number("out_y") * e.number("out_x") * k.filters) + o
    return (n * k.filters + o) * e.number("out_c")


def _pad_rows(e: Block, k: PaddedPlan, plane: Ptr, piece: _Piece, scratch: Ptr) -> None:
    """The input rows under a piece, each phase of their columns by itself, zeros where there are none."""
    (_, s, stride), length = k.stride, e.number("row_elements")
    top, size = piece.top * s - e.number("pad_y"), e.number("in_x")
    count = (piece.bottom - piece.top - 1) * s + ((k.kernel[1] - 1) * k.dilation[1] + 1)
    before = e.number("pad_x") - piece.left * stride
    with e.loop(0, count) as row:
        iy = top + row.index
        is_inside, source = iy.is_index_of(e.number("in_y")), plane + iy * e.number("x_y")
        for phase in sorted({kx * k.dilation[2] % stride for kx in range(k.kernel[2])}):
            target, shift = scratch + (row.index * stride + phase) * length, before - phase
            with e.loop(0, length // k.lanes * k.lanes, k.lanes) as j:
                (target + j.index).store(e.constant(0.0, k.lanes))
            # Column j·stride - shift is one of the image.
            start = ceil_div(greatest(shift, 0), stride)
            stop = is_inside.pick(least(ceil_div(greatest(size + shift, 0), stride), length - k.lanes), 0)
            if not k.pixels:
                whole = greatest(start, stop - (stop - start) % k.lanes)
                with e.loop(start, whole, k.lanes) as j:
                    (target + j.index).store(_columns(k, source + (j.index * stride - shift)))
                start = whole
            with e.loop(start, stop) as j:
                (target + j.index).store((source + (j.index * stride - shift) * e.number("x_x")).load(1))


def _columns(k: PaddedPlan, place: Ptr) -> Vec:
    """`lanes` columns from a place on, a stride apart."""
    stride, last = k.stride[2], (k.lanes - 1) * (k.stride[2] - 1)
    return gathered(place, [lane * stride for lane in range(k.lanes)], [*range(0, last, k.lanes), last])


def _write_tile(e: Block, k: PaddedPlan, place: tuple[Int, Int, Int], piece: _Piece, scratch: Ptr, out: Ptr) -> None:
    (o, y, x), (_, s, stride), length = place, k.stride, e.number("row_elements")
    rows = [least(y + r, piece.bottom - 1) for r in range(k.rows)]
    columns = [least(x + v * k.lanes, piece.right - k.lanes) for v in range(k.vectors)]
    inputs = [
        scratch + ((row - piece.top) * (s * stride) * length + (column - piece.left))
        for row in rows
        for column in columns
    ]
    filters = range(k.together)
    biases = [e.splat(e.pointer("depthwise_bias") + (o + f), k.lanes) for f in filters]
    with e.loop(0, k.kernel[1], carried=[bias for _ in inputs for bias in biases]) as ky:
        with e.loop(0, k.kernel[2], carried=ky.values) as kx:
            column = kx.index * k.dilation[2]
            tap = (ky.index * (k.dilation[1] * stride) + column % stride) * length + column // stride
            weight = e.pointer("depthwise_weight") + (o + (ky.index * k.kernel[2] + kx.index) * k.tap_stride)
            weights = [e.splat(weight + f, k.lanes) for f in filters]
            for i, start in enumerate(inputs):
                vector = (start + tap).load(k.lanes)
                for f in filters:
                    index = i * k.together + f
                    kx.values[index] = vector.fma(weights[f], kx.values[index])
        ky.values = kx.values
    sums = iter(ky.values)
    for row in rows:
        for column in columns:
            pixel = row * e.number("out_x") + column
            for f in filters:
                result = activated(next(sums), k.activation)
                if not k.pixels:
                    (out + (f * e.number("out_c") + pixel)).store(result)
                    continue
                for lane in range(k.lanes):
                    (out + (pixel * k.filters + (lane * k.filters + f))).store(result.permuted([lane]))
