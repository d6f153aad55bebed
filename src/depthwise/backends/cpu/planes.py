"""Depthwise convolution of contiguous images as they lie: vectors are made of neighbouring columns of one plane.

    for n, o in images, filters:
        for z in planes, y in tiles of `rows` rows:
            for x in tiles of `lanes` columns:
                sum[r] = bias[o]
                for iz, iy, kx, and each row r and kz, ky of the kernel for which iz, iy is under z, y + r:
                    ix = x + kx·dilation - padding
                    sum[r] += input[n, o // multiplier, iz, iy, ix] · splat(weight[kz, ky, kx, o])
                out[n, o, z, y + r, x] = activation(sum[r])

Rows outside the image read zeros. The first and the last tile of a row reach columns outside: there the nearest vector
inside is moved by some lanes, and zeros come in. Tiles overlap where rows or columns do not fill them. Domain:
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
    left, right = _edges(k)
    last = width - lanes
    start = 0
    if left:
        _write_columns(e, k, tile, e.whole(0), "left")
        start = lanes
    with e.loop(start, last if right else width, lanes) as x:
        _write_columns(e, k, tile, least(x.index, last - right), "inside")
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
    return {place: e.splat(weight + tap * k.filters, k.lanes) for tap, place in enumerate(places)}


def _write_columns(e: Block, k: DepthwiseKernel, tile: _Tile, x: Int, side: _Side) -> None:
    sums = [e.splat(e.pointer("depthwise_bias") + tile.o, k.lanes)] * len(tile.outputs)
    left, _ = _edges(k)
    weights = tile.weights or _weights(e, k, tile.o)
    for (kz, _), (row, users) in tile.inputs.items():
        for kx in range(k.kernel[2]):
            vector = _load(e, k, row + x, kx * k.dilation[2] - left, side)
            for r, ky in users:
                sums[r] = vector.fma(weights[kz, ky, kx], sums[r])
    for out, vector in zip(tile.outputs, sums, strict=True):
        (out + x).store(activated(vector, k.activation))


def _edges(k: DepthwiseKernel) -> tuple[int, int]:
    if k.edges is None:
        raise ValueError(f"{k.name} does not read planes as they lie")
    return k.edges


def _load(e: Block, k: DepthwiseKernel, place: Ptr, offset: int, side: _Side) -> Vec:
    """The vector `offset` columns from `place`, which is itself inside the image with all its lanes."""
    if side == "inside" or (offset >= 0 if side == "left" else offset <= 0):
        return (place + offset).load(k.lanes)
    zero = k.lanes
    moved = [lane + offset if 0 <= lane + offset < k.lanes else zero for lane in range(k.lanes)]
    return place.load(k.lanes).merged(e.constant(0.0, k.lanes), moved)
