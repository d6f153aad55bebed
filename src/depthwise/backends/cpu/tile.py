"""One tile of a depthwise convolution: some neighbouring columns of an output row, one block of filters.

    sum[i] = bias[o]
    for kz, ky whose input row iz, iy lies inside the image:
        for kx in range(kernel_width):
            ix = x·stride - padding + i·stride + kx·dilation
            sum[i] += input[iz, iy, ix, o // multiplier] · weight[kz, ky, kx, o]

What is outside the image counts as zero and is not read. Kernel rows outside are left out by the loops' bounds. Columns
outside are left out in the code where a tile lies as `Edges` says, and else read zeros; a long kernel is cut into taps
that all columns have inside, some have, and none has.
"""

from __future__ import annotations

from dataclasses import dataclass

from .ir import Block, Int, Ptr, Vec, ceil_div, greatest, least, select
from .plan import DepthwiseKernel


@dataclass(frozen=True, slots=True)
class Edges:
    """How many input columns of a tile lie outside the image, on the left and on the right.

    checked: any number may, and every read looks
    """

    left: int = 0
    right: int = 0
    checked: bool = False


@dataclass(frozen=True, slots=True)
class Strip:
    """The columns of a tile, whatever the row.

    ix:      input column of the first output at tap 0
    columns: how many output columns
    x_stride: elements from one input column to the next
    packed:  the input holds one block of filters, lane by lane; else pixels of all input channels
    """

    ix: Int
    columns: int
    edges: Edges
    x_stride: int | Int
    packed: bool


@dataclass(frozen=True, slots=True)
class Taps:
    """The kernel rows of one output row that fall inside the image.

    start: pointer to input column 0 of the row under tap 0 0, which may lie outside the image
    z, y:  the taps [start, stop) of each axis
    z_step, y_step: elements to the input row of the next tap
    """

    start: Ptr
    z: tuple[Int, Int]
    y: tuple[Int, Int]
    z_step: int | Int
    y_step: int | Int


def valid(first: Int, size: Int, k: DepthwiseKernel, axis: int) -> tuple[Int, Int]:
    """The taps [start, stop) of an axis that fall inside the image where tap 0 falls on `first`."""
    return _from(first, k, axis), least(_from(first - size, k, axis), k.kernel[axis])


def _from(first: Int, k: DepthwiseKernel, axis: int) -> Int:
    """The first tap at or after place 0 where tap 0 falls on `first`."""
    return ceil_div(greatest(0 - first, 0), k.dilation[axis])


def sums(e: Block, k: DepthwiseKernel, strip: Strip, taps: Taps, o: Int, *, whole: bool) -> list[Vec]:
    """The sums of one tile; `whole` where all kernel rows of a plane are inside, so that none is asked about."""
    bias = [(e.pointer("depthwise_bias") + o).load(k.lanes)] * strip.columns
    weight = e.pointer("depthwise_weight") + o
    start = taps.start if strip.packed else taps.start + o // k.multiplier
    if k.rank < 3:
        return _plane(e, k, strip, taps, (start, weight, o), bias, whole=whole)
    area = k.kernel[1] * k.kernel[2] * k.filters
    with e.loop(*taps.z, carried=bias) as kz:
        place = start + kz.index * taps.z_step, weight + kz.index * area, o
        kz.values = _plane(e, k, strip, taps, place, kz.values, whole=whole)
    return kz.values


_Place = tuple[Ptr, Ptr, Int]


def _plane(
    e: Block, k: DepthwiseKernel, strip: Strip, taps: Taps, place: _Place, values: list[Vec], *, whole: bool
) -> list[Vec]:
    """`values` plus the products of the kernel's rows in one plane."""
    (start, weight, o), width = place, k.kernel[2] * k.filters
    if whole:
        for ky in range(k.kernel[1]):
            values = _row(e, k, strip, (start + ky * taps.y_step, weight + ky * width, o), values)
        return values
    with e.loop(*taps.y, carried=values) as row:
        place = start + row.index * taps.y_step, weight + row.index * width, o
        row.values = _row(e, k, strip, place, row.values)
    return row.values


def _row(e: Block, k: DepthwiseKernel, strip: Strip, place: _Place, values: list[Vec]) -> list[Vec]:
    """`values` plus the products of one kernel row."""
    width = k.kernel[2]
    if width <= k.taps:
        return _chunk(e, k, strip, place, (e.whole(0), width), values, checked=strip.edges.checked)
    inner, outer = _spans(e, k, strip)
    middle = inner[0] + (inner[1] - inner[0]) // k.taps * k.taps
    for bounds, count, checked in (
        ((outer[0], inner[0]), 1, True),
        ((inner[0], middle), k.taps, False),
        ((middle, inner[1]), 1, False),
        ((inner[1], outer[1]), 1, True),
    ):
        with e.loop(*bounds, count, carried=values) as kx:
            kx.values = _chunk(e, k, strip, place, (kx.index, count), kx.values, checked=checked)
        values = kx.values
    return values


def _spans(e: Block, k: DepthwiseKernel, strip: Strip) -> tuple[tuple[Int, Int], tuple[Int, Int]]:
    """The taps [start, stop) that all columns of a tile have inside the image, and those that some have."""
    last, size = strip.ix + (strip.columns - 1) * k.stride[2], e.number("in_x")
    first_all, after_all = valid(strip.ix, size, k, 2)[0], valid(last, size, k, 2)[1]
    first_some, after_some = valid(last, size, k, 2)[0], valid(strip.ix, size, k, 2)[1]
    start = least(greatest(first_all, first_some), greatest(after_some, first_some))
    return (start, greatest(after_all, start)), (first_some, after_some)


def _chunk(
    e: Block,
    k: DepthwiseKernel,
    strip: Strip,
    place: _Place,
    taps: tuple[Int, int],
    values: list[Vec],
    *,
    checked: bool,
) -> list[Vec]:
    """The taps [kx, kx + count), each input column loaded once for all the outputs it is in."""
    (start, weight, o), (kx, count), values = place, taps, list(values)
    weights = [(weight + (kx + t) * k.filters).load(k.lanes) for t in range(count)]
    stride, dilation = k.stride[2], k.dilation[2]
    users: dict[int, list[tuple[int, int]]] = {}
    for i in range(strip.columns):
        for t in range(count):
            users.setdefault(i * stride + t * dilation, []).append((i, t))
    end = (strip.columns - 1) * stride + (k.kernel[2] - 1) * dilation - strip.edges.right
    for position in sorted(users):
        if strip.edges.left <= position <= end:
            column = _load(e, k, strip, start, (strip.ix + kx * dilation + position, o), checked=checked)
            for i, t in users[position]:
                values[i] = column.fma(weights[t], values[i])
    return values


def _load(e: Block, k: DepthwiseKernel, strip: Strip, start: Ptr, place: tuple[Int, Int], *, checked: bool) -> Vec:
    """The input of a block of filters at column ix; zeros where `checked` finds it outside the image."""
    (ix, o), lanes, multiplier = place, k.lanes, k.multiplier
    pixel = start + ix * strip.x_stride
    if checked:
        pixel = select(ix.is_index_of(e.number("in_x")), pixel, e.zeros(lanes + 1))
    if strip.packed or multiplier == 1:
        return pixel.load(lanes)
    if multiplier % lanes == 0:
        return e.splat(pixel, lanes)
    if lanes % multiplier == 0:
        return pixel.load(lanes // multiplier).permuted([lane // multiplier for lane in range(lanes)])
    return e.gather(pixel, [(o % multiplier + lane) // multiplier for lane in range(lanes)])
