"""Depthwise convolution of contiguous planes whose windows are patches side by side: lanes are columns of the input.

    for n, o in images, filters:
        for kz, ky:
            scratch[kz, ky, lane] = weight[kz, ky, lane % stride, o], or 0 where the kernel has no such column
        for z, y of the result, x in tiles of `patches`:
            for kz, ky whose input row iz, iy lies inside the image:
                for v in vectors of the row of input columns from x·stride on:
                    sum[v] += input[n, o // multiplier, iz, iy, x·stride + v·lanes + lane] · scratch[kz, ky]
            out[n, o, z, y, x + i] = activation(bias[o] + the sum of the `stride` lanes of patch i, over all sum[v])

Nothing is transposed, and every input is read once. Tiles overlap where they do not fill a row. Domain:
`plan.patches.runs_patches`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..plan.patches import PatchPlan
from .activations import activated
from .ir import Block, Int, Ptr, Vec, ceil_div, greatest, least
from .kernel import VIEW, OnePlanKernel
from .tile import valid


@dataclass(frozen=True)
class PatchKernel(OnePlanKernel):
    """Tasks: the rows of all planes of the result."""

    kind = "dw_f32_patches"
    pointers = ("x", "depthwise_weight", "depthwise_bias", "scratch", "out")
    numbers = (*VIEW, "batch", "scratch_elements")

    plan: PatchPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k = self.plan
        height = e.number("out_z") * e.number("out_y")
        rows = e.number("batch") * k.filters * height
        start, stop = thread * rows // threads, (thread + 1) * rows // threads
        scratch = e.pointer("scratch") + thread * e.number("scratch_elements")
        with e.loop(start // height, ceil_div(stop, height)) as image:
            n, o = image.index // k.filters, image.index % k.filters
            _lay_out_weights(e, k, o, scratch)
            first = greatest(start - image.index * height, 0)
            with e.loop(first, least(stop - image.index * height, height)) as row:
                z, y = row.index // e.number("out_y"), row.index % e.number("out_y")
                plane = e.pointer("x") + (n * e.number("x_n") + o // k.multiplier * e.number("x_c"))
                out = e.pointer("out") + (image.index * e.number("out_c") + row.index * e.number("out_x"))
                _write_row(e, k, (z, y, o), plane, scratch, out)


def _lay_out_weights(e: Block, k: PatchPlan, o: Int, scratch: Ptr) -> None:
    """A vector for each row of the kernel."""
    taps = [min(lane % k.stride[2], k.kernel[2]) for lane in range(k.lanes)]
    with e.loop(0, k.rows) as row:
        first = e.pointer("depthwise_weight") + (row.index * (k.kernel[2] * k.tap_stride) + o)
        ones = [e.splat(first + tap * k.tap_stride, k.lanes) for tap in range(k.kernel[2])]
        weights = e.constant(0.0, k.lanes)
        for tap, one in enumerate(ones):
            weights = weights.merged(one, [lane + k.lanes * (taps[lane] == tap) for lane in range(k.lanes)])
        (scratch + row.index * k.lanes).store(weights)


def _write_row(e: Block, k: PatchPlan, place: tuple[Int, Int, Int], plane: Ptr, scratch: Ptr, out: Ptr) -> None:
    z, y, o = place
    iz, iy = z * k.stride[0] - e.number("pad_z"), y * k.stride[1] - e.number("pad_y")
    kz, ky = valid(iz, e.number("in_z"), k, 0), valid(iy, e.number("in_y"), k, 1)
    first = plane + (iz * e.number("x_z") + iy * e.number("x_y"))
    steps = e.number("x_z") * k.dilation[0], e.number("x_y") * k.dilation[1]
    width, last = e.number("out_x"), e.number("out_x") - k.patches
    with e.loop(0, width, k.patches) as tile:
        x = least(tile.index, last)
        sums = [e.constant(0.0, k.lanes)] * k.vectors
        with e.loop(*kz, carried=sums) as in_z:
            with e.loop(*ky, carried=in_z.values) as in_y:
                row = first + (in_z.index * steps[0] + in_y.index * steps[1] + x * k.stride[2])
                weights = (scratch + (in_z.index * k.kernel[1] + in_y.index) * k.lanes).load(k.lanes)
                in_y.values = [_load(k, row + v * k.lanes).fma(weights, in_y.values[v]) for v in range(k.vectors)]
            in_z.values = in_y.values
        bias = e.splat(e.pointer("depthwise_bias") + o, k.patches)
        (out + x).store(activated(_added_up(in_z.values, k.stride[2]) + bias, k.activation))


def _load(k: PatchPlan, place: Ptr) -> Vec:
    """What no tap sees is not read: times zero it might be no number."""
    return place.load_where([lane % k.stride[2] < k.kernel[2] for lane in range(k.lanes)])


def _added_up(vectors: list[Vec], lanes_each: int) -> Vec:
    """The sums of so many neighbouring lanes each, one vector after another."""
    while lanes_each > 1:
        pairs = zip(vectors[::2], vectors[1::2], strict=True) if len(vectors) > 1 else [(vectors[0], None)]
        vectors, lanes_each = [_halved(*pair) for pair in pairs], lanes_each // 2
    return vectors[0]


def _halved(one: Vec, other: Vec | None) -> Vec:
    """The sum of each even lane and the next one, of one vector or of two."""
    count = one.lanes * (1 if other is None else 2)
    even, odd = range(0, count, 2), range(1, count, 2)
    second = one if other is None else other
    return one.merged(second, even) + one.merged(second, odd)
