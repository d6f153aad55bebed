"""Dense convolution of channels-last pixels, or of planes: a matrix product whose terms are read where they lie.

    for panel in panels of `vectors` vectors of output channels:
        for slab in slabs of input channels:
            for m in tiles of `rows` pixels, one of `heights`:
                sum[i, j] = bias[j] if this is the first slab else 0
                for kz, ky, kx in taps whose input pixels are inside the image:
                    for c in slab:
                        sum[i, j] += splat(input[pixel m + i under the tap, c]) · weight[panel, slab, tap, c, j]
                sum[i, j] += kept[m, i, j] unless this is the first slab
                kept[m, i, j] = sum[i, j], or after the last slab
                out[m + i, j] = activation(sum[i, j] + residual[m + i, j])

The weights of a slab stay in cache while all tiles of a band are done; each is summed by itself, and so are taps of
many inputs, as rounding grows with the number of terms in a row. Few weights are one slab, tiles of pixels are then
the outer loop, and the result is written in the order it lies in. A tile whose pixels are neighbours in one row, and
see no column outside the image, reads its input at constant distances; in others each pixel has a pointer of its own
for each tap, to zeros where the tap is outside. Of planes the loop over c is the outermost.
Domain: any window; lanes <= outputs of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from operator import and_

from ..plan.dense import DensePlan
from ..plan.sizes import LINE_ELEMENTS
from .ir import Block, Bool, Int, Ptr, Vec, least, select
from .kernel import VIEW, OnePlanKernel
from .product import POINTERS, Panel, Tile, each_panel, each_tile, put
from .tile import valid
from .window import Bounds, Pixel, Tap, each_tap

CUT = ("units", "unit_pixels", "run_units", "run_sums", "bands", "panel_chunks", "scratch_elements")
# The next slab's weights are fetched by so many tiles, a share by each; there are that many where it matters.
SHARES = 2


@dataclass(frozen=True)
class DenseKernel(OnePlanKernel):
    """Tasks: chunks of panels, and in each every band."""

    kind = "conv_f32"
    pointers = ("x", "zeros", *POINTERS, "scratch")
    numbers = (*VIEW, *CUT)

    plan: DensePlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k, units = self.plan, e.number("units")
        bands, parts = e.number("bands"), e.number("panel_chunks")
        tasks = bands * parts
        kept = e.pointer("scratch") + thread * e.number("scratch_elements")
        with e.loop(thread * tasks // threads, (thread + 1) * tasks // threads) as task:
            part, band = task.index // bands, task.index % bands
            first, last = band * units // bands, (band + 1) * units // bands
            panels = part * k.panels // parts, (part + 1) * k.panels // parts
            _write_band(e, k, (first, last), panels, kept)


@dataclass(frozen=True, slots=True)
class _Slab:
    """Some input channels of a panel's group.

    first, count: which of the group's
    weight:  those of the panel for them
    number:  of the slab
    ahead:   elements from a weight to one of the next slab that is fetched meanwhile, or None
    """

    first: int | Int
    count: int | Int
    weight: Ptr
    number: Int
    ahead: Int | None = None


def _write_band(e: Block, k: DensePlan, units: tuple[Int, Int], panels: tuple[Int, Int], kept: Ptr) -> None:
    if k.pixels_first:

        def write_pixels(window: _Window, _: Ptr) -> None:
            each_panel(e, k, panels, lambda panel: _write_tile(e, k, window, panel, _whole(e, k, panel), kept))

        _each_window(e, k, units, kept, write_pixels)
        return

    def write_panel(panel: Panel) -> None:
        with e.loop(0, k.slabs) as number:
            slab = _slab(e, k, panel, number.index)
            _each_window(e, k, units, kept, lambda window, own: _write_tile(e, k, window, panel, slab, own))

    each_panel(e, k, panels, write_panel)


def _whole(e: Block, k: DensePlan, panel: Panel) -> _Slab:
    return _Slab(0, k.group_inputs, panel.weight, e.whole(0))


def _slab(e: Block, k: DensePlan, panel: Panel, number: Int) -> _Slab:
    if k.slabs == 1:
        return _whole(e, k, panel)
    first = number * k.slab
    count = k.slab if k.group_inputs % k.slab == 0 else least(k.group_inputs - first, k.slab)
    return _Slab(first, count, panel.weight + first * (k.taps * panel.vectors * k.lanes), number)


@dataclass(frozen=True, slots=True)
class _Window:
    """A tile, the first of whose pixels is z y x of an image."""

    tile: Tile
    image: Int
    z: Int
    y: Int
    x: Int


def _each_window(
    e: Block, k: DensePlan, units: tuple[Int, Int], kept: Ptr, write: Callable[[_Window, Ptr], None]
) -> None:
    """The tiles of each run of units, and where their sums are kept."""
    first, last = units
    together, pixels = e.number("run_units"), e.number("unit_pixels")
    with e.loop(first, last, together) as unit:
        start = unit.index * pixels
        stop = least(unit.index + together, last) * pixels
        own = kept + (unit.index - first) // together * e.number("run_sums")
        row = _row(e, k, unit.index) if k.by_rows else None

        def write_own(tile: Tile) -> None:
            tile = replace(tile, m=start + tile.m)
            image, z, y = row or _row(e, k, tile.m // e.number("out_x"))
            x = tile.m - start if row else tile.m % e.number("out_x")
            write(_Window(tile, image, z, y, x), own + tile.begin * k.tile_elements)

        each_tile(k.heights, stop - start, write_own)


def _row(e: Block, k: DensePlan, row: Int) -> tuple[Int, Int, Int]:
    """Image, z and y of a row of the batch."""
    y, plane = (row % e.number("out_y"), row // e.number("out_y")) if k.rank > 1 else (e.whole(0), row)
    z, image = (plane % e.number("out_z"), plane // e.number("out_z")) if k.rank > 2 else (e.whole(0), plane)
    return image, z, y


def _write_tile(e: Block, k: DensePlan, window: _Window, panel: Panel, slab: _Slab, kept: Ptr) -> None:
    tile, vectors = window.tile, panel.vectors
    if k.fetches:
        share = tile.begin // tile.rows % SHARES * (_fetched_lines(k, vectors) * LINE_ELEMENTS)
        slab = replace(slab, ahead=share + slab.count * (k.taps * vectors * k.lanes))
    places = [tile.m * k.out_channels + column for column in panel.columns]
    results = [e.pointer("out") + place for place in places]
    residuals = [e.pointer("residual") + place for place in places] if k.residual else []
    bias = [(panel.bias + j * k.lanes).load(k.lanes) for j in range(vectors)]
    if k.slabs > 1:
        is_first, zero = slab.number.equals(0), e.constant(0.0, k.lanes)
        bias = [one.like(select(is_first, one, zero).value) for one in bias]
    sums = bias * tile.rows

    def finish(sums: list[Vec]) -> None:
        put(k, sums, tile.rows, results, residuals)

    def keep(sums: list[Vec]) -> None:
        for index, vector in enumerate(sums):
            (kept + index * k.lanes).store(vector)

    def added(sums: list[Vec]) -> list[Vec]:
        return [vector + (kept + index * k.lanes).load(k.lanes) for index, vector in enumerate(sums)]

    def store(sums: list[Vec]) -> None:
        if k.slabs == 1:
            finish(sums)
            return
        with e.either(slab.number.equals(0)) as (first, later):
            with first:
                keep(sums)
            with later, e.either(slab.number.equals(k.slabs - 1)) as (last, between):
                with last:
                    finish(added(sums))
                with between:
                    keep(added(sums))

    with e.either(_is_inside(e, k, window)) as (yes, no):
        with yes:
            store(_sums_inside(e, k, window, panel, slab, sums))
        with no:
            store(_sums_at_border(e, k, window, panel, slab, sums))


def _fetched_lines(k: DensePlan, vectors: int) -> int:
    """Of those that a term reads, the share that one tile fetches."""
    return -(-vectors * k.lanes // (LINE_ELEMENTS * SHARES))


def _is_inside(e: Block, k: DensePlan, window: _Window) -> Bool:
    """Whether a tile's pixels are neighbours in one row, and see nothing outside the image."""
    reach = [(extent - 1) * dilation for extent, dilation in zip(k.kernel, k.dilation, strict=True)]
    reach[2] += (window.tile.rows - 1) * k.stride[2]
    places = Pixel(e, k, window.image, window.z, window.y, window.x).places
    inside = [
        (place >= 0) & (place + reach[axis] < e.number(f"in_{'zyx'[axis]}"))
        for axis, place in enumerate(places)
        if axis > 2 - k.rank
    ]
    if not k.by_rows:
        inside.append(window.x + window.tile.rows <= e.number("out_x"))
    return reduce(and_, inside)


def _sums_inside(e: Block, k: DensePlan, window: _Window, panel: Panel, slab: _Slab, sums: list[Vec]) -> list[Vec]:
    start = Pixel(e, k, window.image, window.z, window.y, window.x).pointer(panel.first_input + slab.first)
    taps: list[Bounds] = [(0, extent) for extent in (k.kernel if k.row_terms == 1 else (*k.kernel[:2], 1))]
    count = k.row_terms if k.planar or k.row_terms > 1 else slab.count

    def products(tap: Tap, sums: list[Vec]) -> list[Vec]:
        first = start + tap.distance(e, k)

        def places(term: Int) -> list[Ptr]:
            base = first + term
            return [base + i * k.stride[2] * k.pixel_stride for i in range(window.tile.rows)]

        weight = slab.weight + tap.term(k, slab.count) * (panel.vectors * k.lanes)
        return _products(e, k, places, (weight, slab.ahead), count, sums)

    return each_tap(e, k, taps, sums, products)


def _sums_at_border(e: Block, k: DensePlan, window: _Window, panel: Panel, slab: _Slab, sums: list[Vec]) -> list[Vec]:
    first = Pixel(e, k, window.image, window.z, window.y, window.x)
    taps: list[Bounds] = [(0, extent) for extent in k.kernel]
    if k.by_rows:
        # All see the same rows of the image, and none beside it is looked at.
        pixels = [replace(first, x=first.x + i) for i in range(window.tile.rows)]
        for axis in range(3 - k.rank, 2):
            taps[axis] = valid(first.places[axis], e.number(f"in_{'zyx'[axis]}"), k, axis)
    else:
        pixels = [first]
        while len(pixels) < window.tile.rows:
            pixels.append(pixels[-1].next())
    starts = [pixel.pointer(panel.first_input + slab.first) for pixel in pixels]
    checked = range(2 if k.by_rows else 3 - k.rank, 3)

    def products(tap: Tap, sums: list[Vec]) -> list[Vec]:
        distance, weight = tap.distance(e, k), slab.weight + tap.term(k, slab.count) * (panel.vectors * k.lanes)
        seen = [
            select(pixel.sees(tap, checked), start + distance, e.pointer("zeros"))
            for pixel, start in zip(pixels, starts, strict=True)
        ]
        count = 1 if k.planar else slab.count
        return _products(e, k, lambda term: [pixel + term for pixel in seen], (weight, slab.ahead), count, sums)

    return each_tap(e, k, taps, sums, products)


def _products(
    e: Block,
    k: DensePlan,
    places: Callable[[Int], list[Ptr]],
    weights: tuple[Ptr, Int | None],
    count: int | Int,
    sums: list[Vec],
) -> list[Vec]:
    """The sums plus `count` products of what lies from each pixel on and rows of weights.

    places: where each pixel has its input for a term
    weights: the first row, and how far ahead others are fetched
    """
    weight, ahead = weights

    # A term a turn: of more, weights would be loaded so early that sums leave their registers.
    with e.loop(0, count, carried=sums) as term:
        pixels = places(term.index)
        vectors = len(sums) // len(pixels)
        row = weight + term.index * (vectors * k.lanes)
        if ahead is not None:
            for line in range(_fetched_lines(k, vectors)):
                (row + ahead + line * LINE_ELEMENTS).prefetch(2)
        columns = [(row + j * k.lanes).load(k.lanes) for j in range(vectors)]
        for i, pixel in enumerate(pixels):
            value = e.splat(pixel, k.lanes)
            for j, column in enumerate(columns):
                term.values[i * vectors + j] = value.fma(column, term.values[i * vectors + j])
    return term.values
