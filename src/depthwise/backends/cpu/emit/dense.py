"""Dense convolution of channels-last pixels, or of planes: a matrix product whose terms are read where they lie.

    for panel in panels of `vectors` vectors of output channels:
        for chunk in chunks of input channels:
            for m in tiles of `rows` pixels, one of `heights`:
                sum[i, j] = bias[j] if this is the first chunk else kept[m, i, j]
                for kz, ky, kx in taps whose input pixels are inside the image:
                    for c in chunk:
                        sum[i, j] += splat(input[pixel m + i under the tap, c]) · weight[panel, chunk, tap, c, j]
                kept[m, i, j] = sum[i, j], or after the last chunk
                out[m + i, j] = activation(sum[i, j] + residual[m + i, j])

The weights of a chunk stay in L1 while all tiles of a band are done. Few weights are one chunk, tiles of pixels are
then the outer loop, and the result is written in the order it lies in. A tile whose pixels are neighbours in one row,
and see no column outside the image, reads its input at constant distances; in others each pixel has a pointer of its
own for each tap, to zeros where the tap is outside. Of planes the loop over c is the outermost.
Domain: any window; lanes <= outputs of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import and_

from ..plan.dense import UNROLLED, DensePlan
from ..plan.sizes import LINE_ELEMENTS
from .ir import Block, Bool, Int, Ptr, Vec, least, select
from .kernel import VIEW, Kernel, Plan
from .product import POINTERS, Panel, Tile, each_panel, each_tile, put

CUT = ("units", "unit_pixels", "run_units", "run_sums", "bands", "panel_chunks", "scratch_elements")
# The next chunk's weights are fetched by so many tiles, a share by each; there are that many where it matters.
SHARES = 4
# Terms that are written out one after another; more are done in a loop.
MOST_WRITTEN_OUT = 32

Bounds = tuple[int | Int, int | Int]


@dataclass(frozen=True)
class DenseKernel(Kernel):
    """Tasks: chunks of panels, and in each every band."""

    pointers = ("x", "zeros", *POINTERS, "scratch")
    numbers = (*VIEW, *CUT)

    dense: DensePlan

    @property
    def label(self) -> str:
        return f"conv_f32_{self.dense.name}"

    @property
    def plans(self) -> tuple[Plan, ...]:
        return (self.dense,)

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k, units = self.dense, e.number("units")
        bands, parts = e.number("bands"), e.number("panel_chunks")
        tasks = bands * parts
        kept = e.pointer("scratch") + thread * e.number("scratch_elements")
        with e.loop(thread * tasks // threads, (thread + 1) * tasks // threads) as task:
            part, band = task.index // bands, task.index % bands
            first, last = band * units // bands, (band + 1) * units // bands
            panels = part * k.panels // parts, (part + 1) * k.panels // parts
            _write_band(e, k, (first, last), panels, kept)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some input channels of a panel's group.

    first, count: which of the group's
    weight:  those of the panel for them
    number:  of the chunk
    ahead:   elements from a weight to one of the next chunk that is fetched meanwhile, or None
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
        with e.loop(0, k.chunks) as number:
            chunk = _chunk(e, k, panel, number.index)
            _each_window(e, k, units, kept, lambda window, own: _write_tile(e, k, window, panel, chunk, own))

    each_panel(e, k, panels, write_panel)


def _whole(e: Block, k: DensePlan, panel: Panel) -> _Chunk:
    return _Chunk(0, k.group_inputs, panel.weight, e.whole(0))


def _chunk(e: Block, k: DensePlan, panel: Panel, number: Int) -> _Chunk:
    if k.chunks == 1:
        return _whole(e, k, panel)
    first = number * k.chunk
    count = k.chunk if k.group_inputs % k.chunk == 0 else least(k.group_inputs - first, k.chunk)
    return _Chunk(first, count, panel.weight + first * (k.taps * panel.vectors * k.lanes), number)


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


def _write_tile(e: Block, k: DensePlan, window: _Window, panel: Panel, chunk: _Chunk, kept: Ptr) -> None:
    tile, vectors = window.tile, panel.vectors
    if k.fetches:
        share = tile.begin // SHARES % SHARES * (_fetched_lines(k, vectors) * LINE_ELEMENTS)
        chunk = replace(chunk, ahead=share + chunk.count * (k.taps * vectors * k.lanes))
    places = [tile.m * k.out_channels + column for column in panel.columns]
    results = [e.pointer("out") + place for place in places]
    residuals = [e.pointer("residual") + place for place in places] if k.residual else []
    start, step = panel.bias, e.whole(0)
    if k.chunks > 1:
        is_first = chunk.number.equals(0)
        start, step = select(is_first, start, kept), is_first.pick(0, vectors * k.lanes)
    sums = [(start + (step * i + j * k.lanes)).load(k.lanes) for i in range(tile.rows) for j in range(vectors)]

    def finish(sums: list[Vec]) -> None:
        put(k, sums, tile.rows, results, residuals)

    def keep(sums: list[Vec]) -> None:
        for index, vector in enumerate(sums):
            (kept + index * k.lanes).store(vector)

    def store(sums: list[Vec]) -> None:
        if k.chunks == 1:
            finish(sums)
            return
        with e.either(chunk.number.equals(k.chunks - 1)) as (yes, no):
            with yes:
                finish(sums)
            with no:
                keep(sums)

    with e.either(_is_inside(e, k, window)) as (yes, no):
        with yes:
            store(_sums_inside(e, k, window, panel, chunk, sums))
        with no:
            store(_sums_at_border(e, k, window, panel, chunk, sums))


def _fetched_lines(k: DensePlan, vectors: int) -> int:
    """Of those that a turn of the innermost loop reads, the share that one tile fetches."""
    return -(-UNROLLED * vectors * k.lanes // (LINE_ELEMENTS * SHARES))


def _is_inside(e: Block, k: DensePlan, window: _Window) -> Bool:
    """Whether a tile's pixels are neighbours in one row, and see nothing outside the image."""
    reach = [(extent - 1) * dilation for extent, dilation in zip(k.kernel, k.dilation, strict=True)]
    reach[2] += (window.tile.rows - 1) * k.stride[2]
    places = _Pixel(e, k, window.image, window.z, window.y, window.x).places
    inside = [
        (place >= 0) & (place + reach[axis] < e.number(f"in_{'zyx'[axis]}"))
        for axis, place in enumerate(places)
        if axis > 2 - k.rank
    ]
    if not k.by_rows:
        inside.append(window.x + window.tile.rows <= e.number("out_x"))
    return reduce(and_, inside)


def _sums_inside(e: Block, k: DensePlan, window: _Window, panel: Panel, chunk: _Chunk, sums: list[Vec]) -> list[Vec]:
    start = _Pixel(e, k, window.image, window.z, window.y, window.x).pointer(panel, chunk)
    extents = k.kernel if k.run == 1 else (*k.kernel[:2], 1)
    count = k.run if k.planar or k.run > 1 else chunk.count

    def products(tap: _Tap, sums: list[Vec]) -> list[Vec]:
        first = start + tap.distance(e, k)

        def places(term: int | Int) -> list[Ptr]:
            # Pixels share inputs, which there are no registers for.
            base = (first + term).anew()
            return [base + i * k.stride[2] * k.pixel_stride for i in range(window.tile.rows)]

        weight = chunk.weight + tap.term(k, chunk) * (panel.vectors * k.lanes)
        return _products(e, k, places, (weight, chunk.ahead), count, sums)

    return _each_tap(e, k, extents, sums, products, written_out=k.terms <= MOST_WRITTEN_OUT)


def _sums_at_border(e: Block, k: DensePlan, window: _Window, panel: Panel, chunk: _Chunk, sums: list[Vec]) -> list[Vec]:
    pixels = [_Pixel(e, k, window.image, window.z, window.y, window.x)]
    while len(pixels) < window.tile.rows:
        pixels.append(pixels[-1].next())
    starts = [pixel.pointer(panel, chunk) for pixel in pixels]

    def products(tap: _Tap, sums: list[Vec]) -> list[Vec]:
        distance, weight = tap.distance(e, k), chunk.weight + tap.term(k, chunk) * (panel.vectors * k.lanes)
        seen = [
            select(pixel.sees(tap), start + distance, e.pointer("zeros"))
            for pixel, start in zip(pixels, starts, strict=True)
        ]
        # In a loop: written out, all would be read as soon as there is a pointer.
        count = e.whole(1 if k.planar else chunk.count)
        return _products(e, k, lambda term: [pixel + term for pixel in seen], (weight, chunk.ahead), count, sums)

    return _each_tap(e, k, k.kernel, sums, products)


@dataclass(frozen=True, slots=True)
class _Pixel:
    """An output pixel."""

    block: Block
    plan: DensePlan
    image: Int
    z: Int
    y: Int
    x: Int

    @property
    def places(self) -> list[Int]:
        """The input place iz, iy, ix of tap 0."""
        e, k = self.block, self.plan
        return [
            at * k.stride[axis] - e.number(f"pad_{'zyx'[axis]}") if axis > 2 - k.rank else at
            for axis, at in enumerate((self.z, self.y, self.x))
        ]

    def pointer(self, panel: Panel, chunk: _Chunk) -> Ptr:
        """To the first channel of a chunk under tap 0, which may lie outside the image."""
        e, k = self.block, self.plan
        iz, iy, ix = self.places
        place = self.image * e.number("x_n") + ix * k.pixel_stride
        if k.rank > 1:
            place = place + iy * e.number("x_y")
        if k.rank > 2:
            place = place + iz * e.number("x_z")
        channel = panel.first_input + chunk.first
        return e.pointer("x") + (place + (channel * e.number("x_c") if k.planar else channel))

    def next(self) -> _Pixel:
        """The pixel after this one, which may be in another row, plane or image."""
        e, k = self.block, self.plan
        x, is_over = _counted(self.x, e.number("out_x"))
        y, z, image = self.y, self.z, self.image
        if k.rank > 1:
            y, is_over = _counted(y, e.number("out_y"), is_over)
        if k.rank > 2:
            z, is_over = _counted(z, e.number("out_z"), is_over)
        return _Pixel(e, k, is_over.pick(image + 1, image), z, y, x)

    def sees(self, tap: _Tap) -> Bool:
        """Whether a tap is inside the image."""
        e, k, taps = self.block, self.plan, (tap.z, tap.y, tap.x)
        seen = [
            (place + taps[axis] * k.dilation[axis]).is_index_of(e.number(f"in_{'zyx'[axis]}"))
            for axis, place in enumerate(self.places)
            if axis > 2 - k.rank
        ]
        return reduce(and_, seen)


def _counted(at: Int, size: Int, is_on: Bool | None = None) -> tuple[Int, Bool]:
    """The number after `at`, where `is_on`, from 0 again after `size` - 1; and whether it is that 0."""
    after = at + 1 if is_on is None else is_on.pick(at + 1, at)
    is_over = after.equals(size)
    return is_over.pick(0, after), is_over


@dataclass(frozen=True, slots=True)
class _Tap:
    """A tap of the kernel and, of planes, an input channel of the group."""

    channel: Int
    z: Int
    y: Int
    x: Int

    def distance(self, e: Block, k: DensePlan) -> Int:
        """Elements from what tap 0 sees to what this one does."""
        distance = self.x * (k.dilation[2] * k.pixel_stride)
        if k.rank > 1:
            distance = distance + self.y * k.dilation[1] * e.number("x_y")
        if k.rank > 2:
            distance = distance + self.z * k.dilation[0] * e.number("x_z")
        return distance + self.channel * e.number("x_c") if k.planar else distance

    def term(self, k: DensePlan, chunk: _Chunk) -> Int:
        """The row of a panel's chunk that begins with this tap's weights."""
        tap = (self.z * k.kernel[1] + self.y) * k.kernel[2] + self.x
        return self.channel * k.taps + tap if k.planar else tap * chunk.count


def _each_tap(
    e: Block,
    k: DensePlan,
    extents: Sequence[int],
    sums: list[Vec],
    write: Callable[[_Tap, list[Vec]], list[Vec]],
    *,
    written_out: bool = False,
) -> list[Vec]:
    """The sums after `write` at each tap of a kernel of these extents, of planes channel by channel."""
    axes = [k.group_inputs if k.planar else 1, *extents]

    def nest(index: list[Int], sums: list[Vec]) -> list[Vec]:
        if len(index) == len(axes):
            return write(_Tap(*index), sums)
        extent = axes[len(index)]
        if written_out or extent == 1:
            for place in range(extent):
                sums = nest([*index, e.whole(place)], sums)
            return sums
        with e.loop(0, extent, carried=sums) as turn:
            turn.values = nest([*index, turn.index], turn.values)
        return turn.values

    return nest([], sums)


def _products(
    e: Block,
    k: DensePlan,
    places: Callable[[int | Int], list[Ptr]],
    weights: tuple[Ptr, Int | None],
    count: int | Int,
    sums: list[Vec],
) -> list[Vec]:
    """The sums plus `count` products of what lies from each pixel on and rows of weights.

    places: where each pixel has its input for a term
    weights: the first row, and how far ahead others are fetched
    """
    weight, ahead = weights

    def some(first: int | Int, count: int, sums: list[Vec]) -> list[Vec]:
        pixels, sums = places(first), list(sums)
        vectors = len(sums) // len(pixels)
        start = weight + first * (vectors * k.lanes)
        if ahead is not None:
            for line in range(_fetched_lines(k, vectors)):
                (start + ahead + line * LINE_ELEMENTS).prefetch(2)
        for term in range(count):
            columns = [(start + (term * vectors + j) * k.lanes).load(k.lanes) for j in range(vectors)]
            for i, pixel in enumerate(pixels):
                value = e.splat(pixel + term, k.lanes)
                for j, column in enumerate(columns):
                    sums[i * vectors + j] = value.fma(column, sums[i * vectors + j])
        return sums

    def loop(bounds: Bounds, step: int, sums: list[Vec]) -> list[Vec]:
        with e.loop(*bounds, step, carried=sums) as turn:
            turn.values = some(turn.index, step, turn.values)
        return turn.values

    if isinstance(count, int) and count <= MOST_WRITTEN_OUT:
        # Of so many at a time no two pixels read the same.
        step = min(UNROLLED, k.stride[2] * k.pixel_stride)
        for first in range(0, count, step):
            sums = some(first, min(step, count - first), sums)
        return sums
    whole = count // UNROLLED * UNROLLED
    sums = loop((0, whole), UNROLLED, sums)
    return some(whole, count % UNROLLED, sums) if isinstance(count, int) else loop((whole, count), 1, sums)
