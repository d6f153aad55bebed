"""Depthwise convolution of planes whose rows are first copied with their padding: lanes are columns.

    for n, c in images, channels:
        for band in bands of rows of the result:
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
    """Tasks: the planes of all channels, and in each every band."""

    kind = "dw_f32_padded"
    pointers = ("x", "depthwise_weight", "depthwise_bias", "scratch", "out")
    numbers = (*VIEW, "batch", "bands", "row_elements", "scratch_elements")

    plan: PaddedPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k, bands, height = self.plan, e.number("bands"), e.number("out_y")
        tasks = e.number("batch") * k.channels * bands
        scratch = e.pointer("scratch") + thread * e.number("scratch_elements")
        with e.loop(thread * tasks // threads, (thread + 1) * tasks // threads) as task:
            plane, band = task.index // bands, task.index % bands
            n, c = plane // k.channels, plane % k.channels
            first, last = band * height // bands, (band + 1) * height // bands
            _pad_rows(e, k, e.pointer("x") + (n * e.number("x_n") + c * e.number("x_c")), (first, last), scratch)
            with e.loop(0, k.multiplier, k.together) as each:
                o = c * k.multiplier + each.index
                image = (
                    n * (height * e.number("out_x") * k.filters) if k.pixels else n * (e.number("out_c") * k.filters)
                )
                out = e.pointer("out") + (image + (o if k.pixels else o * e.number("out_c")))
                with e.loop(first, last, k.rows) as y, e.loop(0, e.number("out_x"), k.vectors * k.lanes) as x:
                    _write_tile(e, k, (o, y.index, x.index), (first, last), scratch, out)


def _pad_rows(e: Block, k: PaddedPlan, plane: Ptr, band: tuple[Int, Int], scratch: Ptr) -> None:
    """The input rows under a band, each phase of their columns by itself, zeros where there are none."""
    (first, last), (_, s, stride), length = band, k.stride, e.number("row_elements")
    top, size = first * s - e.number("pad_y"), e.number("in_x")
    count = (last - first - 1) * s + ((k.kernel[1] - 1) * k.dilation[1] + 1)
    with e.loop(0, count) as row:
        iy = top + row.index
        is_inside, source = iy.is_index_of(e.number("in_y")), plane + iy * e.number("x_y")
        for phase in sorted({kx * k.dilation[2] % stride for kx in range(k.kernel[2])}):
            target, shift = scratch + (row.index * stride + phase) * length, e.number("pad_x") - phase
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


def _write_tile(
    e: Block, k: PaddedPlan, place: tuple[Int, Int, Int], band: tuple[Int, Int], scratch: Ptr, out: Ptr
) -> None:
    (o, y, x), (first, last), (_, s, stride) = place, band, k.stride
    length, width = e.number("row_elements"), e.number("out_x")
    rows = [least(y + r, last - 1) for r in range(k.rows)]
    columns = [least(x + v * k.lanes, width - k.lanes) for v in range(k.vectors)]
    inputs = [scratch + ((row - first) * (s * stride) * length + column) for row in rows for column in columns]
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
            pixel = row * width + column
            for f in filters:
                result = activated(next(sums), k.activation)
                if not k.pixels:
                    (out + (f * e.number("out_c") + pixel)).store(result)
                    continue
                for lane in range(k.lanes):
                    (out + (pixel * k.filters + (lane * k.filters + f))).store(result.permuted([lane]))
