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
then the outer loop, and the result is written in the order it lies in. A tile whose pixels are neighbours in one row
and see no column outside the image, reads its input at constant distances; in others each pixel has its own pointer
for each tap, to zeros where the tap is outside. Of planes the loop over c is the outermost.
Domain: any window; lanes <= outputs of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..plan.dense import UNROLLED, DensePlan
from .ir import Block, Bool, Int, Ptr, Vec, least, select
from .kernel import VIEW, Kernel, Plan
from .product import POINTERS, Panel, Tile, each_panel, each_tile, put
from .tile import valid

CUT = ("units", "unit_pixels", "run_units", "run_sums", "bands", "panel_chunks", "scratch_elements")
# Terms that are written out one after another; more are done in a loop.
MOST_WRITTEN_OUT = 24

Index = Sequence[int | Int]
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
    """

    first: int | Int
    count: int | Int
    weight: Ptr
    number: Int


def _write_band(e: Block, k: DensePlan, units: tuple[Int, Int], panels: tuple[Int, Int], kept: Ptr) -> None:
    if k.pixels_first:

        def write_pixels(tile: Tile, _: Ptr) -> None:
            window = _window(e, k, tile)
            each_panel(e, k, panels, lambda panel: _write_tile(e, k, window, panel, _whole(e, k, panel), kept))

        _each_tile(e, k, units, kept, write_pixels)
        return

    def write_panel(panel: Panel) -> None:
        with e.loop(0, k.chunks) as number:
            chunk = _chunk(e, k, panel, number.index)
            _each_tile(e, k, units, kept, lambda tile, own: _write_tile(e, k, _window(e, k, tile), panel, chunk, own))

    each_panel(e, k, panels, write_panel)


def _whole(e: Block, k: DensePlan, panel: Panel) -> _Chunk:
    return _Chunk(0, k.group_inputs, panel.weight, e.whole(0))


def _chunk(e: Block, k: DensePlan, panel: Panel, number: Int) -> _Chunk:
    if k.chunks == 1:
        return _whole(e, k, panel)
    first = number * k.chunk
    count = k.chunk if k.group_inputs % k.chunk == 0 else least(k.group_inputs - first, k.chunk)
    return _Chunk(first, count, panel.weight + first * (k.taps * panel.vectors * k.lanes), number)


def _each_tile(e: Block, k: DensePlan, units: tuple[Int, Int], kept: Ptr, write: Callable[[Tile, Ptr], None]) -> None:
    """The tiles of each run of units, and where their sums are kept."""
    first, last = units
    together, pixels = e.number("run_units"), e.number("unit_pixels")
    with e.loop(first, last, together) as unit:
        start = unit.index * pixels
        stop = least(unit.index + together, last) * pixels
        own = kept + (unit.index - first) // together * e.number("run_sums")

        def write_own(tile: Tile, start: Int = start, own: Ptr = own) -> None:
            write(Tile(start + tile.m, tile.rows, tile.begin), own + tile.begin * k.tile_elements)

        each_tile(k.heights, stop - start, write_own)


@dataclass(frozen=True, slots=True)
class _Window:
    """A tile's pixels and what they see.

    image: of the first pixel
    x:     output column of the first pixel
    iz, iy, ix: input place of tap 0 of the first pixel
    """

    tile: Tile
    image: Int
    z: Int
    y: Int
    x: Int


def _window(e: Block, k: DensePlan, tile: Tile) -> _Window:
    row, x = tile.m // e.number("out_x"), tile.m % e.number("out_x")
    y, plane = (row % e.number("out_y"), row // e.number("out_y")) if k.rank > 1 else (e.whole(0), row)
    z, image = (plane % e.number("out_z"), plane // e.number("out_z")) if k.rank > 2 else (e.whole(0), plane)
    return _Window(tile, image, z, y, x)


def _write_tile(e: Block, k: DensePlan, window: _Window, panel: Panel, chunk: _Chunk, kept: Ptr) -> None:
    tile, vectors = window.tile, panel.vectors
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


def _is_inside(e: Block, k: DensePlan, window: _Window) -> Bool:
    """Whether a tile's pixels are neighbours in one row, and see no column outside the image."""
    rows = window.tile.rows
    ix = window.x * k.stride[2] - e.number("pad_x")
    last = ix + ((rows - 1) * k.stride[2] + (k.kernel[2] - 1) * k.dilation[2])
    return (window.x + rows <= e.number("out_x")) & (ix >= 0) & (last < e.number("in_x"))


def _sums_inside(e: Block, k: DensePlan, window: _Window, panel: Panel, chunk: _Chunk, sums: list[Vec]) -> list[Vec]:
    pixel = _Pixel(e, k, window.image, window.z, window.y, window.x)
    start = pixel.pointer(panel, chunk)
    z = valid(pixel.iz, e.number("in_z"), k, 0) if k.rank > 2 else (0, 1)
    y = valid(pixel.iy, e.number("in_y"), k, 1) if k.rank > 1 else (0, 1)
    x = (0, k.kernel[2]) if k.run == 1 else (0, 1)
    count = k.run if k.planar or k.run > 1 else chunk.count

    def products(tap: _Tap, sums: list[Vec]) -> list[Vec]:
        first = start + tap.distance(e, k)
        pixels = [first + i * k.stride[2] * k.pixel_stride for i in range(window.tile.rows)]
        return _products(e, k, pixels, chunk.weight + tap.term(k, chunk) * (panel.vectors * k.lanes), count, sums)

    return _each_tap(e, k, (z, y, x), sums, products)


def _sums_at_border(e: Block, k: DensePlan, window: _Window, panel: Panel, chunk: _Chunk, sums: list[Vec]) -> list[Vec]:
    pixels = [_Pixel(e, k, window.image, window.z, window.y, window.x)]
    while len(pixels) < window.tile.rows:
        pixels.append(pixels[-1].next())
    starts = [pixel.pointer(panel, chunk) for pixel in pixels]
    every = tuple((0, extent) for extent in k.kernel)

    def products(tap: _Tap, sums: list[Vec]) -> list[Vec]:
        distance, weight = tap.distance(e, k), chunk.weight + tap.term(k, chunk) * (panel.vectors * k.lanes)
        seen = [
            select(pixel.sees(tap), start + distance, e.pointer("zeros"))
            for pixel, start in zip(pixels, starts, strict=True)
        ]
        return _products(e, k, seen, weight, 1 if k.planar else chunk.count, sums)

    return _each_tap(e, k, every, sums, products)


@dataclass(frozen=True, slots=True)
class _Pixel:
    """An output pixel, and the input place iz, iy, ix of tap 0."""

    block: Block
    plan: DensePlan
    image: Int
    z: Int
    y: Int
    x: Int

    def _place(self, axis: int, at: Int) -> Int:
        return at * self.plan.stride[axis] - self.block.number(f"pad_{'zyx'[axis]}")

    @property
    def iz(self) -> Int:
        return self._place(0, self.z) if self.plan.rank > 2 else self.z

    @property
    def iy(self) -> Int:
        return self._place(1, self.y) if self.plan.rank > 1 else self.y

    @property
    def ix(self) -> Int:
        return self._place(2, self.x)

    def pointer(self, panel: Panel, chunk: _Chunk) -> Ptr:
        """To the first channel of a chunk under tap 0, which may lie outside the image."""
        e, k = self.block, self.plan
        place = self.image * e.number("x_n") + self.ix * k.pixel_stride
        if k.rank > 1:
            place = place + self.iy * e.number("x_y")
        if k.rank > 2:
            place = place + self.iz * e.number("x_z")
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
        e, k = self.block, self.plan
        seen = (self.ix + tap.x * k.dilation[2]).is_index_of(e.number("in_x"))
        if k.rank > 1:
            seen = seen & (self.iy + tap.y * k.dilation[1]).is_index_of(e.number("in_y"))
        if k.rank > 2:
            seen = seen & (self.iz + tap.z * k.dilation[0]).is_index_of(e.number("in_z"))
        return seen


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
    e: Block, k: DensePlan, taps: Sequence[Bounds], sums: list[Vec], write: Callable[[_Tap, list[Vec]], list[Vec]]
) -> list[Vec]:
    """The sums after `write` at each of the taps [start, stop) of each axis; of planes channel by channel."""
    bounds = [(0, k.group_inputs if k.planar else 1), *taps]

    def nest(index: list[Int], sums: list[Vec]) -> list[Vec]:
        if len(index) == len(bounds):
            return write(_Tap(*index), sums)
        start, stop = bounds[len(index)]
        if (start, stop) == (0, 1):
            return nest([*index, e.whole(0)], sums)
        with e.loop(start, stop, carried=sums) as turn:
            turn.values = nest([*index, turn.index], turn.values)
        return turn.values

    return nest([], sums)


def _products(e: Block, k: DensePlan, pixels: list[Ptr], weight: Ptr, count: int | Int, sums: list[Vec]) -> list[Vec]:
    """The sums plus `count` products of what lies from each pixel on and rows of weights."""
    vectors = len(sums) // len(pixels)

    def some(first: int | Int, count: int, sums: list[Vec]) -> list[Vec]:
        start, sums = weight + first * (vectors * k.lanes), list(sums)
        for term in range(count):
            columns = [(start + (term * vectors + j) * k.lanes).load(k.lanes) for j in range(vectors)]
            for i, pixel in enumerate(pixels):
                value = e.splat(pixel + first + term, k.lanes)
                for j, column in enumerate(columns):
                    sums[i * vectors + j] = value.fma(column, sums[i * vectors + j])
        return sums

    def loop(bounds: Bounds, step: int, sums: list[Vec]) -> list[Vec]:
        with e.loop(*bounds, step, carried=sums) as turn:
            turn.values = some(turn.index, step, turn.values)
        return turn.values

    if isinstance(count, int) and count <= MOST_WRITTEN_OUT:
        return some(0, count, sums)
    whole = count // UNROLLED * UNROLLED
    sums = loop((0, whole), UNROLLED, sums)
    return some(whole, count % UNROLLED, sums) if isinstance(count, int) else loop((whole, count), 1, sums)
