"""Pointwise convolution of channels-last pixels: a matrix product in each group.

    for panel in panels of `vectors` vectors of output channels:
        for m in tiles of `rows` pixels, one of `heights`:
            sum[i, j] = bias[j]
            for c in range(group_inputs):
                sum[i, j] += splat(pixel[m + i, c]) · weight[panel, c, j]
            out[m + i, j] = activation(sum[i, j] + residual[m + i, j])

Where the weights stay in L2, tiles of pixels are the outer loop, so that the result is written in the order it lies in.
Weights come packed panel by panel (pack.py). Pixels are cut into as few tiles as the greatest height allows, all of one
height or one pixel less, so that nearly all numbers of pixels leave no remainder; where those tiles would be lower than
the least height, the last overlaps the one before it. So does the last vector of a group where channels do not fill it.
Domain: lanes <= outputs of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..plan.pointwise import PointwisePlan
from ..plan.sizes import LINE_ELEMENTS
from .activations import activated
from .ir import Block, Bool, Int, Ptr, ceil_div, greatest, least, select
from .kernel import Kernel, Plan

POINTERS = ("pointwise_weight", "pointwise_bias", "residual", "out")

# How far ahead weights are fetched, in input channels: the hardware's own prefetching stops at the end of each page.
PREFETCH_INPUTS = 24


@dataclass(frozen=True, slots=True)
class Ahead:
    """What comes to L2 while pixels are multiplied.

    start, per_pixel: memory from `start` on, so many elements for each pixel
    is_far: the place of the next tile's result too
    """

    start: Ptr
    per_pixel: Int
    is_far: Bool


@dataclass(frozen=True, slots=True)
class Band:
    """Neighbouring pixels: what is multiplied, their number, and where result and residual lie.

    ahead: what is fetched meanwhile, or None
    """

    a: Ptr
    pixels: Int
    out: Ptr
    residual: Ptr
    ahead: Ahead | None = None


@dataclass(frozen=True)
class PointwiseKernel(Kernel):
    """Tasks: chunks of panels x chunks of pixels."""

    pointers = ("x", *POINTERS)
    numbers = ("pixels", "bands", "panel_chunks")

    pointwise: PointwisePlan

    @property
    def label(self) -> str:
        return f"pw_f32_{self.pointwise.name}"

    @property
    def plans(self) -> tuple[Plan, ...]:
        return (self.pointwise,)

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k = self.pointwise
        pixels, bands, chunks = e.number("pixels"), e.number("bands"), e.number("panel_chunks")
        tasks = bands * chunks
        with e.loop(thread * tasks // threads, (thread + 1) * tasks // threads) as task:
            chunk, index = task.index // bands, task.index % bands
            first, last = index * pixels // bands, (index + 1) * pixels // bands
            band = Band(
                e.pointer("x") + first * k.pixel_stride,
                last - first,
                e.pointer("out") + first * k.out_channels,
                e.pointer("residual") + first * k.out_channels,
            )
            write_product(e, k, band, (chunk * k.panels // chunks, (chunk + 1) * k.panels // chunks))


def write_product(e: Block, k: PointwisePlan, band: Band, panels: tuple[Int, Int]) -> None:
    """The panels [first, last) of a band."""
    if k.pixels_first:
        _each_tile(
            k, band, lambda m, rows: _each_panel(e, k, panels, lambda panel: _write_tile(e, k, band, panel, m, rows))
        )
    else:
        _each_panel(
            e, k, panels, lambda panel: _each_tile(k, band, lambda m, rows: _write_tile(e, k, band, panel, m, rows))
        )


@dataclass(frozen=True, slots=True)
class _Panel:
    """`vectors` vectors of a group; `columns` are their first output channels."""

    number: Int
    weight: Ptr
    bias: Ptr
    vectors: int
    columns: list[Int]
    first_input: Int


def _each_panel(e: Block, k: PointwisePlan, panels: tuple[Int, Int], write: Callable[[_Panel], None]) -> None:
    """Full panels first, numbered through all groups, then each group's rest."""
    first, last = panels
    full = k.groups * k.full_panels
    with e.loop(first, least(last, full)) as panel:
        group, index = panel.index // k.full_panels, panel.index % k.full_panels
        write(_panel(e, k, panel.index, (group, index * k.vectors), k.vectors))
    if k.rest_vectors:
        with e.loop(greatest(first, full), last) as panel:
            write(_panel(e, k, panel.index, (panel.index - full, e.whole(k.full_panels * k.vectors)), k.rest_vectors))


def _panel(e: Block, k: PointwisePlan, number: Int, place: tuple[Int, Int], vectors: int) -> _Panel:
    """The `vectors` vectors from place = (group, vector) on."""
    group, vector = place
    start = group * k.group_vectors + vector
    return _Panel(
        number=number,
        weight=e.pointer("pointwise_weight") + start * (k.lanes * k.group_inputs),
        bias=e.pointer("pointwise_bias") + start * k.lanes,
        vectors=vectors,
        columns=[
            group * k.group_outputs + least((vector + j) * k.lanes, k.group_outputs - k.lanes) for j in range(vectors)
        ],
        first_input=group * k.group_inputs,
    )


def _each_tile(k: PointwisePlan, band: Band, write: Callable[[Int, int], None]) -> None:
    """Tiles by their first pixel and their height, of two neighbouring heights; single pixels where there are few."""
    pixels, least_height = band.pixels, k.heights[-1]
    e = pixels.block
    tiles = greatest(ceil_div(pixels, k.heights[0]), 1)
    # So many tiles of `height` pixels, after `taller` ones with one more.
    height, taller = pixels // tiles, pixels % tiles
    fits, enough = height >= least_height, pixels >= least_height
    for rows in k.heights:
        first = height.equals(rows).pick(taller * (rows + 1), 0)
        count = (height + 1).equals(rows).pick(taller, height.equals(rows).pick(tiles - taller, 0))
        if rows == least_height:
            count = fits.pick(count, enough.pick(ceil_div(pixels, rows), 0))
        with e.loop(0, count) as tile:
            write(least(first + tile.index * rows, pixels - rows), rows)
    with e.loop((fits | enough).pick(pixels, 0), pixels) as pixel:
        write(pixel.index, 1)


def _write_tile(e: Block, k: PointwisePlan, band: Band, panel: _Panel, m: Int, rows: int) -> None:
    vectors = panel.vectors
    a = band.a + (m * k.pixel_stride + panel.first_input)
    # Loaded here: kept from tile to tile, it would take registers from the sums.
    bias = [(panel.bias + j * k.lanes).load(k.lanes) for j in range(vectors)]
    sums = [bias[j] for _ in range(rows) for j in range(vectors)]
    places = [m * k.out_channels + column for column in panel.columns]
    results = [band.out + place for place in places]
    if not k.pixels_first:
        # Where the results lie comes while they are computed.
        for i in range(rows):
            for result in results:
                (result + i * k.out_channels).prefetch(2)
    fetch = _fetching(k, band, panel, m, rows)
    with e.loop(0, k.group_inputs, carried=sums) as c:
        weights = panel.weight + c.index * (vectors * k.lanes)
        columns = [(weights + j * k.lanes).load(k.lanes) for j in range(vectors)]
        for j in range(vectors):
            (weights + (PREFETCH_INPUTS * vectors + j) * k.lanes).prefetch(1)
        fetch(c.index)
        for i in range(rows):
            pixel = e.splat(a + (c.index + i * k.pixel_stride), k.lanes)
            for j in range(vectors):
                c.values[i * vectors + j] = pixel.fma(columns[j], c.values[i * vectors + j])
    residuals = [band.residual + place for place in places] if k.residual else []
    for i in range(rows):
        for j in range(vectors):
            value = c.values[i * vectors + j]
            if k.residual:
                value = value + (residuals[j] + i * k.out_channels).load(k.lanes)
            (results[j] + i * k.out_channels).store(activated(value, k.activation))


def _fetching(k: PointwisePlan, band: Band, panel: _Panel, m: Int, rows: int) -> Callable[[Int], None]:
    """What a tile does at each input channel so that memory beyond L2 is not waited for.

    The tile's first panels fetch what of the next band's input belongs to its pixels, some lines for each channel. They
    also fetch where the next tile's result will lie, a line for each channel: it must come before what is stored
    there, and stores that wait for it stop all others.
    """
    ahead = band.ahead
    if ahead is None or not k.pixels_first:
        return lambda _: None
    first = panel.number * k.group_inputs
    in_line, in_lines = first * k.fetched_lines, ceil_div(ahead.per_pixel * rows, LINE_ELEMENTS)
    is_wanted = in_line < in_lines
    start = select(is_wanted, ahead.start + (m * ahead.per_pixel + in_line * LINE_ELEMENTS), panel.weight)
    step = is_wanted.pick(k.fetched_lines * LINE_ELEMENTS, 0)
    next_tile = band.out + (m + rows) * k.out_channels
    last_line = ahead.is_far.pick(-(-rows * k.out_channels // LINE_ELEMENTS) - 1, 0)

    def fetch(c: Int) -> None:
        for line in range(k.fetched_lines):
            (start + (c * step + line * LINE_ELEMENTS)).prefetch(2)
        (next_tile + least(c + first, last_line) * LINE_ELEMENTS).prefetch(2)

    return fetch
