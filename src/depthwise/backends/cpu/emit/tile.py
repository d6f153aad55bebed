"""One tile of a depthwise convolution: columns of a row, neighbours or a dilation apart, of one block of filters.

    sum[i] = bias[o]
    for kz, ky whose input row iz, iy lies inside the image:
        for kx in range(kernel_width):
            ix = x·stride - padding + i·apart·stride + kx·dilation
            sum[i] += input[iz, iy, ix, o // multiplier] · weight[kz, ky, kx, o]

What is outside the image counts as zero and is not read. Kernel rows outside are left out by the loops' bounds or,
where the rows are written out, read zeros. Columns outside are left out in the code where `Edges` is sure of them, and
else looked at, and read zeros; a long kernel is cut into taps that all columns have inside, some have, and none has.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..plan.dense import DensePlan
from ..plan.depthwise import DepthwisePlan
from ..plan.patches import PatchPlan
from ..plan.pool import PoolPlan
from .inputs import Inputs, inputs_of
from .ir import Block, Bool, Int, Ptr, Vec, ceil_div, greatest, least, select


@dataclass(frozen=True, slots=True)
class Edges:
    """How many input columns of a tile lie outside the image, on the left and on the right.

    checked: at most so many do, and whether one does is looked at before it is read
    """

    left: int = 0
    right: int = 0
    checked: bool = False


# Of more columns than any window reaches over.
ANY_EDGES = Edges(1 << 80, 1 << 80, checked=True)


@dataclass(frozen=True, slots=True)
class Strip:
    """The columns of a tile, whatever the row.

    ix:      input column of the first output at tap 0
    columns: how many output columns
    apart:   from one output column to the next
    x_stride: elements from one input column to the next
    packed:  the input holds one block of filters, lane by lane; else pixels of all input channels
    seen:    how many columns the tile before it has too
    """

    ix: Int
    columns: int
    apart: int
    edges: Edges
    x_stride: int | Int
    packed: bool
    seen: Int


@dataclass(frozen=True, slots=True)
class Taps:
    """The kernel rows of one output row that fall inside the image, as loops find them.

    start: pointer to input column 0 of the row under tap 0 0, which may lie outside the image
    z, y:  the taps [start, stop) of each axis
    z_step, y_step: elements to the input row of the next tap
    """

    start: Ptr
    z: tuple[Int, Int]
    y: tuple[Int, Int]
    z_step: int | Int
    y_step: int | Int


def rows_of(e: Block, k: DepthwisePlan, strip: Strip, taps: Taps) -> list[Ptr]:
    """Pointers to input column 0 under every kernel row, where these are written out; one outside reads zeros."""
    if k.rank == 1:
        return [taps.start]
    zeros = e.pointer("zeros") - strip.ix * strip.x_stride
    inside = [(taps.y[0] <= ky) & (taps.y[1] > ky) for ky in range(k.kernel[1])]
    return [select(is_inside, taps.start + ky * taps.y_step, zeros) for ky, is_inside in enumerate(inside)]


def valid(first: Int, size: Int, k: DepthwisePlan | DensePlan | PatchPlan | PoolPlan, axis: int) -> tuple[Int, Int]:
    """The taps [start, stop) of an axis that fall inside the image where tap 0 falls on `first`."""
    return _from(first, k, axis), least(_from(first - size, k, axis), k.kernel[axis])


def _from(first: Int, k: DepthwisePlan | DensePlan | PatchPlan | PoolPlan, axis: int) -> Int:
    """The first tap at or after place 0 where tap 0 falls on `first`."""
    return ceil_div(greatest(0 - first, 0), k.dilation[axis])


def sums(e: Block, k: DepthwisePlan, strip: Strip, taps: Taps, o: Int) -> list[Vec]:
    """The sums of one tile, by loops over the rows of the kernel."""
    area, width = k.kernel[1] * k.kernel[2] * k.tap_stride, k.kernel[2] * k.tap_stride
    inputs = inputs_of(e, k, o, packed=strip.packed)
    start, weight = taps.start + inputs.first, e.pointer("depthwise_weight") + o

    def plane(start: Ptr, weight: Ptr, values: list[Vec]) -> list[Vec]:
        with e.loop(*taps.y, carried=values) as ky:
            place = start + ky.index * taps.y_step, weight + ky.index * width, inputs
            ky.values = _row(e, k, strip, place, ky.values)
        return ky.values

    if k.rank < 3:
        return plane(start, weight, _bias(e, k, strip, o))
    with e.loop(*taps.z, carried=_bias(e, k, strip, o)) as kz:
        kz.values = plane(start + kz.index * taps.z_step, weight + kz.index * area, kz.values)
    return kz.values


def sums_of_rows(e: Block, k: DepthwisePlan, strip: Strip, rows: list[Ptr], o: Int) -> list[Vec]:
    """The sums of one tile, every row of the kernel written out."""
    values, weight = _bias(e, k, strip, o), e.pointer("depthwise_weight") + o
    inputs = inputs_of(e, k, o, packed=strip.packed)
    for ky, row in enumerate(rows):
        place = row + inputs.first, weight + ky * k.kernel[2] * k.tap_stride, inputs
        values = _row(e, k, strip, place, values)
    return values


def _bias(e: Block, k: DepthwisePlan, strip: Strip, o: Int) -> list[Vec]:
    return [(e.pointer("depthwise_bias") + o).load(k.lanes)] * strip.columns


_Place = tuple[Ptr, Ptr, Inputs]


def _row(e: Block, k: DepthwisePlan, strip: Strip, place: _Place, values: list[Vec]) -> list[Vec]:
    """`values` plus the products of one kernel row."""
    width = k.kernel[2]
    if width <= k.taps:
        last = (strip.columns - 1) * strip.apart * k.stride[2] + (width - 1) * k.dilation[2] - strip.edges.right
        inside, checked = (strip.edges.left, last), strip.edges.checked
        return _chunk(e, k, strip, place, (e.whole(0), width), values, checked=checked, inside=inside)
    if not strip.edges.checked:
        whole = width // k.taps * k.taps
        values = _along(e, k, strip, place, (e.whole(0), e.whole(whole)), k.taps, values)
        return _chunk(e, k, strip, place, (e.whole(whole), width - whole), values) if width > whole else values
    inner, outer = _spans(e, k, strip)
    middle = inner[0] + (inner[1] - inner[0]) // k.taps * k.taps
    # Of neighbouring taps each reaches one column more, or fewer, until all are inside.
    steps, step, exists = strip.columns - 1, k.dilation[2], inner[0] < inner[1]
    regular = steps > 0 and strip.apart * k.stride[2] == step
    before = (exists & (inner[0] - outer[0] >= steps)) if regular else None
    after = (exists & (outer[1] - inner[1] >= steps)) if regular else None
    if before is not None:
        values = _stairs(e, k, strip, place, (inner[0] - steps, before), (steps * step, 2 * steps * step), values)
    checked_until = inner[0] if before is None else before.pick(outer[0], inner[0])
    values = _along(e, k, strip, place, (outer[0], checked_until), 1, values, checked=True)
    values = _along(e, k, strip, place, (inner[0], middle), k.taps, values)
    values = _along(e, k, strip, place, (middle, inner[1]), 1, values)
    if after is not None:
        values = _stairs(e, k, strip, place, (inner[1], after), (0, (steps - 1) * step), values)
    checked_from = inner[1] if after is None else after.pick(outer[1], inner[1])
    return _along(e, k, strip, place, (checked_from, outer[1]), 1, values, checked=True)


def _stairs(
    e: Block,
    k: DepthwisePlan,
    strip: Strip,
    place: _Place,
    taps: tuple[Int, Bool],
    inside: tuple[int, int],
    values: list[Vec],
) -> list[Vec]:
    """Where taps[1] holds, `values` plus the products of the taps from taps[0] on that some columns have inside."""
    with e.loop(0, taps[1].pick(1, 0), carried=values) as once:
        once.values = _chunk(e, k, strip, place, (taps[0], strip.columns - 1), once.values, inside=inside)
    return once.values


def _along(
    e: Block,
    k: DepthwisePlan,
    strip: Strip,
    place: _Place,
    bounds: tuple[Int, Int],
    count: int,
    values: list[Vec],
    *,
    checked: bool = False,
) -> list[Vec]:
    """`values` plus the products of the taps [start, stop), `count` at a time."""
    with e.loop(*bounds, count, carried=values) as kx:
        kx.values = _chunk(e, k, strip, place, (kx.index, count), kx.values, checked=checked)
    return kx.values


def _spans(e: Block, k: DepthwisePlan, strip: Strip) -> tuple[tuple[Int, Int], tuple[Int, Int]]:
    """The taps [start, stop) that all columns of a tile have inside the image, and those that some have."""
    last, size = strip.ix + (strip.columns - 1) * strip.apart * k.stride[2], e.number("in_x")
    first_all, after_all = valid(strip.ix, size, k, 2)[0], valid(last, size, k, 2)[1]
    first_some, after_some = valid(last, size, k, 2)[0], valid(strip.ix, size, k, 2)[1]
    start = least(greatest(first_all, first_some), greatest(after_some, first_some))
    return (start, greatest(after_all, start)), (first_some, after_some)


def _chunk(
    e: Block,
    k: DepthwisePlan,
    strip: Strip,
    place: _Place,
    taps: tuple[Int, int],
    values: list[Vec],
    *,
    checked: bool = False,
    inside: tuple[int, int] | None = None,
) -> list[Vec]:
    """The taps [kx, kx + count), each input column loaded once for all the outputs it is in.

    inside: the first and last of these columns that the image surely has, counted from column 0 at tap kx; None: all
    checked: it may have others too, and none is sure where `inside` is None
    """
    (start, weight, inputs), (kx, count), values = place, taps, list(values)
    weights = [(weight + (kx + t) * k.tap_stride).load(k.lanes) for t in range(count)]
    stride, dilation = k.stride[2], k.dilation[2]
    users: dict[int, list[tuple[int, int]]] = {}
    for i in range(strip.columns):
        for t in range(count):
            users.setdefault(i * strip.apart * stride + t * dilation, []).append((i, t))
    first, last = inside or ((1, 0) if checked else (0, max(users)))
    ix = strip.ix + kx * dilation
    base = start + ix * strip.x_stride
    for position in sorted(users):
        is_inside = first <= position <= last
        if is_inside or checked:
            pixel = base + position * strip.x_stride
            if not is_inside:
                inside_image = (ix + position).is_index_of(e.number("in_x"))
                pixel = select(inside_image, pixel, e.zeros(k.lanes + 1))
            column = inputs.load(pixel)
            for i, t in users[position]:
                values[i] = column.fma(weights[t], values[i])
    return values
