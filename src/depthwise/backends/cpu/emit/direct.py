"""Depthwise convolution of contiguous images as they lie: vectors are made of neighbouring columns of one plane.

    for n, o in images, filters:
        for z in planes, one or two at a time, y in tiles of `rows` rows:
            for x in tiles of `lanes` columns:
                sum[p, r] = bias[o]
                for iz, iy, kx, and each plane p, row r and kz, ky of the kernel for which iz, iy is under z + p, y + r:
                    ix = x·stride + kx·dilation - padding
                    sum[p, r] += input[n, o // multiplier, iz, iy, ix] · splat(weight[kz, ky, kx, o])
                out[n, o, z + p, y + r, x] = activation(sum[p, r])

Rows outside the image read zeros. The first and the last tile of a row reach columns outside: these are masked or, in
strided and dilated kernels, the nearest columns inside are read, and moved by some lanes while zeros come in. At stride
2 every other column of two vectors is taken, at 3 every third of three; what is put together so from three and more all
filters of a channel go over in turn. Tiles overlap where planes, rows or columns do not fill them. Domain:
`plan.direct.runs_direct`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

from ..plan.direct import DirectPlan
from ..plan.sizes import seen
from .activations import activated
from .ir import Block, Int, Ptr, Vec, ceil_div, greatest, least, select
from .kernel import VIEW, OnePlanKernel

_Side = Literal["left", "inside", "right"]


@dataclass(frozen=True)
class DirectKernel(OnePlanKernel):
    """Tasks: the rows of all planes of the result, or of all groups of planes that are done together."""

    kind = "dw_f32"
    pointers = ("x", "zeros", "depthwise_weight", "depthwise_bias", "out")
    numbers = (*VIEW, "batch", "fetch_planes")

    plan: DirectPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k = self.plan
        height = e.number("out_y")
        groups = ceil_div(e.number("out_z"), k.planes)
        # Of the filters, each, or the first of each channel.
        firsts = k.filters // k.filters_together
        rows = e.number("batch") * firsts * groups * height
        start, stop = thread * rows // threads, (thread + 1) * rows // threads
        apart = k.rows_apart
        with e.loop(start // height, ceil_div(stop, height)) as group:
            first = greatest(start - group.index * height, 0)
            count = least(stop - group.index * height, height) - first
            image, z = group.index // groups, least(group.index % groups * k.planes, e.number("out_z") - k.planes)
            place = image // firsts, image % firsts * k.filters_together, z
            with e.loop(0, least(count, apart)) as residue:
                top, own = first + residue.index, ceil_div(count - residue.index, apart)
                with e.either(own >= k.rows) as (tiled, single):
                    with tiled, e.loop(0, own, k.rows) as y:
                        _write_tile(e, k, place, top + least(y.index, own - k.rows) * apart, k.rows)
                    with single, e.loop(0, own) as y:
                        _write_tile(e, k, place, top + y.index * apart, 1)


@dataclass(frozen=True, slots=True)
class _Tile:
    """Input rows, each with the sum, kz and ky of each use; the result's rows, in the order of sums; and the weights.

    weights: where they are few enough to stay in registers from vector to vector
    """

    inputs: list[tuple[Ptr, list[tuple[int, int, int]]]]
    outputs: list[Ptr]
    o: Int
    weights: dict[tuple[int, int, int], Vec] | None


def _write_tile(e: Block, k: DirectPlan, place: tuple[Int, Int, Int], y: Int, rows: int) -> None:
    """`rows` rows of each of `k.planes` planes from z, y on, `k.rows_apart` from one to the next."""
    n, o, z = place
    lanes, width, height = k.lanes, e.number("out_x"), e.number("out_y")
    out = e.pointer("out") + ((n * k.filters + o) * e.number("out_c") + (z * height + y) * width)
    if k.fetches:
        _fetch_next_planes(e, k, place, y, rows, out)
    tile = _Tile(
        inputs=_inputs(e, k, place, y, rows),
        outputs=[out + (height * p + r * k.rows_apart) * width for p in range(k.planes) for r in range(rows)],
        o=o,
        weights=_weights(e, k, o) if k.weights_stay else None,
    )
    left, right = k.edges
    last = width - lanes
    start = 0
    if left:
        _write_columns(e, k, tile, e.whole(0), "left")
        start = lanes
    with e.loop(start, last if right else width, lanes) as x:
        _write_columns(e, k, tile, least(x.index, last - -(-right // k.stride[2])), "inside")
    if right:
        _write_columns(e, k, tile, last, "right")


def _inputs(
    e: Block, k: DirectPlan, place: tuple[Int, Int, Int], y: Int, rows: int
) -> list[tuple[Ptr, list[tuple[int, int, int]]]]:
    n, o, z = place
    image = e.pointer("x") + (n * e.number("x_n") + o // k.multiplier * e.number("x_c"))
    first_z, first_y = z * k.stride[0] - e.number("pad_z"), y * k.stride[1] - e.number("pad_y")
    users: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for p, r, kz, ky in product(range(k.planes), range(rows), range(k.kernel[0]), range(k.kernel[1])):
        below = p * k.stride[0] + kz * k.dilation[0], r * k.rows_apart * k.stride[1] + ky * k.dilation[1]
        users.setdefault(below, []).append((p * rows + r, kz, ky))
    inputs = []
    for (z_below, y_below), uses in sorted(users.items()):
        iz, iy = first_z + z_below, first_y + y_below
        inside = iz.is_index_of(e.number("in_z")) & iy.is_index_of(e.number("in_y"))
        row = select(inside, image + (iz * e.number("x_z") + iy * e.number("x_y")), e.pointer("zeros"))
        inputs.append((row, uses))
    return inputs


def _weights(e: Block, k: DirectPlan, o: Int) -> dict[tuple[int, int, int], Vec]:
    """The weight of every tap in all lanes."""
    weight = e.pointer("depthwise_weight") + o
    places = product(range(k.kernel[0]), range(k.kernel[1]), range(k.kernel[2]))
    return {place: e.splat(weight + tap * k.tap_stride, k.lanes) for tap, place in enumerate(places)}


def _write_columns(e: Block, k: DirectPlan, tile: _Tile, x: Int, side: _Side) -> None:
    if k.shares:
        _write_filters(e, k, tile, x, side)
        return
    sums = [e.splat(e.pointer("depthwise_bias") + tile.o, k.lanes)] * len(tile.outputs)
    left, _ = k.edges
    weights = tile.weights or _weights(e, k, tile.o)
    for row, uses in tile.inputs:
        start = row + x * k.stride[2]
        for kx in range(k.kernel[2]):
            vector = _load(e, k, start, kx * k.dilation[2] - left, side)
            for i, kz, ky in uses:
                sums[i] = vector.fma(weights[kz, ky, kx], sums[i])
    for out, vector in zip(tile.outputs, sums, strict=True):
        (out + x).store(activated(vector, k.activation))


def _write_filters(e: Block, k: DirectPlan, tile: _Tile, x: Int, side: _Side) -> None:
    """The columns of all filters of a channel, which see the same vectors."""
    left, _ = k.edges
    seen_by = [
        (
            _load(e, k, row + x * k.stride[2], kx * k.dilation[2] - left, side),
            (kz * k.kernel[1] + ky) * k.kernel[2] + kx,
        )
        for row, uses in tile.inputs
        for kx in range(k.kernel[2])
        for _, kz, ky in uses
    ]
    (out,), plane = tile.outputs, e.number("out_c")
    with e.loop(0, k.multiplier) as each:
        o = tile.o + each.index
        total = e.splat(e.pointer("depthwise_bias") + o, k.lanes)
        for vector, tap in seen_by:
            total = vector.fma(e.splat(e.pointer("depthwise_weight") + (o + tap * k.tap_stride), k.lanes), total)
        (out + (x + each.index * plane)).store(activated(total, k.activation))


def _fetch_next_planes(e: Block, k: DirectPlan, place: tuple[Int, Int, Int], y: Int, rows: int, out: Ptr) -> None:
    """Fetch the same rows of the input planes that come next, and the place of their results.

    Not at stride 1, where rows follow one another: the hardware sees those itself.
    """
    n, o, z = place
    with e.when(e.number("fetch_planes") > 0):
        y_stride, width = e.number("x_y"), e.number("out_x")
        channel = o // k.multiplier + (1 if k.rank < 3 else 0)
        start = e.pointer("x") + (n * e.number("x_n") + channel * e.number("x_c") + y * k.stride[1] * y_stride)
        if k.rank > 2:
            deepest = (z + k.planes) * k.stride[0] + ((k.kernel[0] - 1) * k.dilation[0] - e.number("pad_z"))
            start = start + deepest * e.number("x_z")
        out = out + e.number("out_y") * width * k.planes
        count = seen(k.kernel[1], k.stride[1], k.dilation[1])
        belows: list[int | Int] = list(range(count))
        if count < k.stride[1]:
            # Rows between taps nobody reads; those of taps lie so far below one that is no padding.
            padding = e.number("pad_y") * (k.stride[1] - 1)
            belows = [(padding + ky * k.dilation[1]) % k.stride[1] for ky in range(count)]
        with e.loop(0, width, k.lanes) as x:
            for p, r in product(range(k.planes), range(rows)):
                (out + ((e.number("out_y") * p + r * k.rows_apart) * width + x.index)).prefetch(2)
                for below in belows:
                    row = y_stride * (r * k.rows_apart * k.stride[1] + below) + e.number("x_z") * (p * k.stride[0])
                    for line in range(k.stride[2]):
                        (start + (row + x.index * k.stride[2] + line * k.lanes)).prefetch(2)


def _load(e: Block, k: DirectPlan, place: Ptr, offset: int, side: _Side) -> Vec:
    """The columns `offset` + lane·stride from `place`, the column of tap 0 for a first output without padding.

    On the left the image begins at `place`, on the right it ends as `k.edges` says before the last column that the tile
    reaches; columns outside are zeros.
    """
    (left, right), lanes, stride = k.edges, k.lanes, k.stride[2]
    columns = [lane * stride + offset for lane in range(lanes)]
    begin, end = columns[0], columns[-1]
    if side == "left":
        begin = 0
    if side == "right":
        end = (lanes - 1) * stride + (k.kernel[2] - 1) * k.dilation[2] - left - right
    inside = [begin <= column <= end for column in columns]
    if stride == k.dilation[1] == 1:
        # Loads under a mask touch the lines of the rows before and after: at hand here, but not where rows are apart.
        return (place + columns[0]).load_where(inside)
    low, high = max(columns[0], begin), min(columns[-1], end) - (lanes - 1)
    if stride > 1:
        vector, sources = gathered(place, columns, _starts(k, columns, low, high, side)), list(range(lanes))
    else:
        # One vector inside the image has all that is needed.
        low = min(low, high) if side == "right" else max(low, high)
        vector, sources = (place + low).load(lanes), [column - low for column in columns]
    if all(inside):
        return vector
    moved = [source if is_inside else lanes for source, is_inside in zip(sources, inside, strict=True)]
    return vector.merged(e.constant(0.0, lanes), moved)


def _starts(k: DirectPlan, columns: list[int], low: int, high: int, side: _Side) -> list[int]:
    """Where vectors begin that hold these columns, all of them from `low` to the vector from `high`."""
    if k.stride[2] == 2 or side != "inside":
        return [*range(low, high, k.lanes), high]
    # The same vectors for all taps.
    left, _ = k.edges
    last = (k.lanes - 1) * (k.stride[2] - 1) + (k.kernel[2] - 1) * k.dilation[2] - left
    starts = [*range(-left, last, k.lanes), last]
    return [start for start in starts if start <= columns[-1] and start + k.lanes > columns[0]]


def gathered(place: Ptr, columns: list[int], starts: list[int]) -> Vec:
    """Each column from `place` in a lane, out of vectors that start there, in order; those outside may be any."""
    lanes, behind = len(columns), starts[0] + len(columns)
    vector = (place + starts[0]).load(lanes)
    lies = [min(max(column - starts[0], 0), lanes - 1) for column in columns]
    if len(starts) == 1:
        return vector.permuted(lies)
    for start in starts[1:]:
        # Those behind this vector too are yet to come.
        there = [min(lanes + column - start, 2 * lanes - 1) for column in columns]
        sources = [lie if column < behind else other for lie, column, other in zip(lies, columns, there, strict=True)]
        vector = vector.merged((place + start).load(lanes), sources)
        lies, behind = list(range(lanes)), start + lanes
    return vector
