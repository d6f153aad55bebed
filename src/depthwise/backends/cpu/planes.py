"""Depthwise convolution of contiguous images as they lie: vectors are made of neighbouring columns of one plane.

    for n, o in images, filters:
        for z in planes, y in tiles of `rows` rows:
            for x in tiles of `lanes` columns:
                sum[r] = bias[o]
                for iz, iy, kx, and each row r and kz, ky of the kernel for which iz, iy is under z, y + r:
                    ix = x·stride + kx·dilation - padding
                    sum[r] += input[n, o // multiplier, iz, iy, ix] · splat(weight[kz, ky, kx, o])
                out[n, o, z, y + r, x] = activation(sum[r])

Rows outside the image read zeros. The first and the last tile of a row reach columns outside: these are masked or, in
strided and dilated kernels, the nearest columns inside are read, and moved by some lanes while zeros come in. At stride
2 every other column of two vectors is taken. Tiles overlap where rows or columns do not fill them. Domain:
`plan.runs_direct`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

from .activations import activated
from .ir import Block, Int, Ptr, Vec, ceil_div, greatest, least, select
from .plan import DepthwiseKernel

_Side = Literal["left", "inside", "right"]


def write_planes(e: Block, k: DepthwiseKernel, thread: Int, threads: Int) -> None:
    """Tasks: the rows of all planes of the result."""
    depth, height = e.number("out_z"), e.number("out_y")
    rows = e.number("batch") * k.filters * depth * height
    start, stop = thread * rows // threads, (thread + 1) * rows // threads
    apart = k.rows_apart
    with e.loop(start // height, ceil_div(stop, height)) as plane:
        first = greatest(start - plane.index * height, 0)
        count = least(stop - plane.index * height, height) - first
        image, z = plane.index // depth, plane.index % depth
        place = image // k.filters, image % k.filters, z
        with e.loop(0, least(count, apart)) as residue:
            top, own = first + residue.index, ceil_div(count - residue.index, apart)
            with e.either(own >= k.columns[0]) as (tiled, single):
                with tiled, e.loop(0, own, k.columns[0]) as y:
                    _write_tile(e, k, place, top + least(y.index, own - k.columns[0]) * apart, k.columns[0])
                with single, e.loop(0, own) as y:
                    _write_tile(e, k, place, top + y.index * apart, 1)


@dataclass(frozen=True, slots=True)
class _Tile:
    """Input rows by (kz, iy), each with the pairs (r, ky) that use it; the result's rows; and the filter's weights.

    weights: where they are few enough to stay in registers from vector to vector
    """

    inputs: dict[tuple[int, int], tuple[Ptr, list[tuple[int, int]]]]
    outputs: list[Ptr]
    o: Int
    weights: dict[tuple[int, int, int], Vec] | None


def _write_tile(e: Block, k: DepthwiseKernel, place: tuple[Int, Int, Int], y: Int, rows: int) -> None:
    """`rows` rows of one plane from y on, `k.rows_apart` from one to the next."""
    n, o, z = place
    lanes, width, height = k.lanes, e.number("out_x"), e.number("out_y")
    plane = (n * k.filters + o) * e.number("out_z") + z
    out = e.pointer("depthwise_out") + (plane * height + y) * width
    tile = _Tile(
        inputs=_inputs(e, k, place, y, rows),
        outputs=[out + width * (r * k.rows_apart) for r in range(rows)],
        o=o,
        weights=_weights(e, k, o) if k.rows_unrolled else None,
    )
    left, right = k.edges or (0, 0)
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
    e: Block, k: DepthwiseKernel, place: tuple[Int, Int, Int], y: Int, rows: int
) -> dict[tuple[int, int], tuple[Ptr, list[tuple[int, int]]]]:
    n, o, z = place
    image = e.pointer("x") + (n * e.number("x_n") + o // k.multiplier * e.number("x_c"))
    first_z, first_y = z * k.stride[0] - e.number("pad_z"), y * k.stride[1] - e.number("pad_y")
    users: dict[int, list[tuple[int, int]]] = {}
    for r in range(rows):
        for ky in range(k.kernel[1]):
            users.setdefault(r * k.rows_apart * k.stride[1] + ky * k.dilation[1], []).append((r, ky))
    inputs = {}
    for kz in range(k.kernel[0]):
        iz = first_z + kz * k.dilation[0]
        for below in sorted(users):
            iy = first_y + below
            inside = iz.is_index_of(e.number("in_z")) & iy.is_index_of(e.number("in_y"))
            row = select(inside, image + (iz * e.number("x_z") + iy * e.number("x_y")), e.pointer("zeros"))
            inputs[kz, below] = row, users[below]
    return inputs


def _weights(e: Block, k: DepthwiseKernel, o: Int) -> dict[tuple[int, int, int], Vec]:
    """The weight of every tap in all lanes."""
    weight = e.pointer("depthwise_weight") + o
    places = product(range(k.kernel[0]), range(k.kernel[1]), range(k.kernel[2]))
    return {place: e.splat(weight + tap * k.tap_stride, k.lanes) for tap, place in enumerate(places)}


def _write_columns(e: Block, k: DepthwiseKernel, tile: _Tile, x: Int, side: _Side) -> None:
    if k.fetches:
        _fetch_next_plane(e, k, tile, x)
    sums = [e.splat(e.pointer("depthwise_bias") + tile.o, k.lanes)] * len(tile.outputs)
    left, _ = k.edges or (0, 0)
    weights = tile.weights or _weights(e, k, tile.o)
    for (kz, _), (row, users) in tile.inputs.items():
        start = row + x * k.stride[2]
        for kx in range(k.kernel[2]):
            vector = _load(e, k, start, kx * k.dilation[2] - left, side)
            for r, ky in users:
                sums[r] = vector.fma(weights[kz, ky, kx], sums[r])
    for out, vector in zip(tile.outputs, sums, strict=True):
        (out + x).store(activated(vector, k.activation))


def _fetch_next_plane(e: Block, k: DepthwiseKernel, tile: _Tile, x: Int) -> None:
    """Fetch the same columns of the next input plane, and the place of its result.

    8x256x33x33, 3x3, took 19 to 47 % less time with dilation 2, 8 to 47 % with 6, 8x128x56x56 at stride 2 11 to 39 %;
    at stride 1, where nothing is fetched, it would take 3 to 14 % more (AMD EPYC, Zen 4, 1 thread, 2026-11-27).
    """
    in_plane = e.number("x_z") if k.rank > 2 else e.number("x_c")
    out_plane = e.number("out_y") * e.number("out_x")
    with e.when(e.number("fetch_in") > 0):
        for r, out in enumerate(tile.outputs):
            (out + (x + out_plane)).prefetch(2)
            for y in range(k.stride[1]):
                place = k.kernel[0] - 1, (r * k.rows_apart) * k.stride[1] + y * k.dilation[1]
                for line in range(k.stride[2] if place in tile.inputs else 0):
                    (tile.inputs[place][0] + (x * k.stride[2] + in_plane + line * k.lanes)).prefetch(2)


def _load(e: Block, k: DepthwiseKernel, place: Ptr, offset: int, side: _Side) -> Vec:
    """The columns `offset` + lane·stride from `place`, the column of tap 0 for a first output without padding.

    On the left the image begins at `place`, on the right it ends as `k.edges` says before the last column that the tile
    reaches; columns outside are zeros.
    """
    (left, right), lanes, stride = k.edges or (0, 0), k.lanes, k.stride[2]
    columns = [lane * stride + offset for lane in range(lanes)]
    begin, end = columns[0], columns[-1]
    if side == "left":
        begin = 0
    if side == "right":
        end = (lanes - 1) * stride + (k.kernel[2] - 1) * k.dilation[2] - left - right
    inside = [begin <= column <= end for column in columns]
    if stride == k.dilation[1] == 1:
        # Loads under a mask touch the lines of the rows before and after: at hand here, but not where rows are apart
        # (8x256x33x33, 3x3 with dilation 6, took 50 % more time so, AMD EPYC, Zen 4, 1 thread, 2026-11-28).
        return (place + columns[0]).load_where(inside)
    # The first and the last vector inside the image; at stride 1 they are one, or one of them has all that is needed.
    low, high = max(columns[0], begin), min(columns[-1], end) - (lanes - 1)
    if stride == 1:
        low = high = min(low, high) if side == "right" else max(low, high)
    sources = [column - low if column - low < lanes else lanes + column - high for column in columns]
    vector = (place + low).load(lanes)
    if stride > 1:
        known = [source if is_inside else 0 for source, is_inside in zip(sources, inside, strict=True)]
        vector, sources = vector.merged((place + high).load(lanes), known), list(range(lanes))
    if all(inside):
        return vector
    moved = [source if is_inside else lanes for source, is_inside in zip(sources, inside, strict=True)]
    return vector.merged(e.constant(0.0, lanes), moved)
