"""Pointwise convolution of channels-last pixels: a matrix product in each group.

    for panel in panels of `vectors` vectors of output channels:
        for m in tiles of `rows` pixels, one of `heights`:
            sum[i, j] = bias[j]
            for c in range(group_inputs):
                sum[i, j] += splat(pixel[m + i, c]) · weight[panel, c, j]        (in chains: product.py)
            out[m + i, j] = activation(sum[i, j] + residual[m + i, j])

Where the weights stay in L2, tiles of pixels are the outer loop, so that the result is written in the order it lies in.
Weights come packed panel by panel (pack.py). Domain: lanes <= outputs of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from ..plan.pointwise import PointwisePlan
from ..plan.sizes import LINE_ELEMENTS
from .ir import Block, Bool, Int, Ptr, Vec, ceil_div, least, select
from .kernel import OnePlanKernel
from .product import POINTERS, WEIGHTS, Panel, Tile, add_products, each_panel, each_tile, put

# How far ahead weights are fetched, in input channels: the hardware's own prefetching stops at the end of each page.
PREFETCH_INPUTS = 24


@dataclass(frozen=True, slots=True)
class Ahead:
    """What comes to a cache while pixels are multiplied.

    start, per_pixel: memory from `start` on, so many elements for each pixel
    is_far: the place of the next tile's result too, to L2
    level:  of the cache
    """

    start: Ptr
    per_pixel: Int
    is_far: Bool
    level: Literal[1, 2] = 2


@dataclass(frozen=True, slots=True)
class Gate:
    """A factor for each input channel, and memory for a panel of weights."""

    factors: Ptr
    panel: Ptr


@dataclass(frozen=True, slots=True)
class Affine:
    """A factor for each output channel, and what is added to the product."""

    scale: Ptr
    shift: Ptr


@dataclass(frozen=True, slots=True)
class Band:
    """Neighbouring pixels: what is multiplied, their number, and where result and residual lie.

    ahead: what is fetched meanwhile, or None
    weights: the pointers to what it is multiplied with
    gate: what is first multiplied into each panel of them, or None
    affine: what becomes of the sums before all else, or None
    """

    a: Ptr
    pixels: Int
    out: Ptr
    residual: Ptr
    ahead: Ahead | None = None
    weights: tuple[str, str] = WEIGHTS
    gate: Gate | None = None
    affine: Affine | None = None


@dataclass(frozen=True)
class PointwiseKernel(OnePlanKernel):
    """Tasks: chunks of panels x chunks of pixels. Each tile fetches the next one's pixels where the plan says so."""

    kind = "pw_f32"
    pointers = ("x", *POINTERS)
    numbers = ("pixels", "bands", "panel_chunks")

    plan: PointwisePlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k = self.plan
        pixels, bands, chunks = e.number("pixels"), e.number("bands"), e.number("panel_chunks")
        tasks = bands * chunks
        with e.loop(thread * tasks // threads, (thread + 1) * tasks // threads) as task:
            chunk, index = task.index // bands, task.index % bands
            first, last = index * pixels // bands, (index + 1) * pixels // bands
            band = Band(
                e.pointer("x") + first * k.pixel_stride,
                last - first,
                e.pointer("out") + first * k.out_stride,
                e.pointer("residual") + first * k.out_channels,
                next_tile(e, k, first),
            )
            write_product(e, k, band, (chunk * k.panels // chunks, (chunk + 1) * k.panels // chunks))


def next_tile(e: Block, k: PointwisePlan, first: Int) -> Ahead | None:
    """What the tile after each of a band from pixel `first` on reads, and where its result lies; None: not wanted."""
    if not k.fetched_lines:
        return None
    start = e.pointer("x") + (first + k.heights[0]) * k.pixel_stride
    return Ahead(start, e.whole(k.pixel_stride), is_far=e.whole(1) > 0, level=1)


def write_product(e: Block, k: PointwisePlan, band: Band, panels: tuple[Int, Int]) -> None:
    """The panels [first, last) of a band."""

    def tiles(write: Callable[[Tile], None]) -> None:
        each_tile(k.heights, band.pixels, write)

    def in_panels(write: Callable[[Panel], None]) -> None:
        each_panel(e, k, panels, write, band.weights)

    if k.pixels_first:
        tiles(lambda tile: in_panels(lambda panel: _write_tile(e, k, band, panel, tile)))
    else:
        in_panels(lambda panel: _write_tiles(e, k, band, panel, tiles))


def _write_tiles(
    e: Block, k: PointwisePlan, band: Band, panel: Panel, tiles: Callable[[Callable[[Tile], None]], None]
) -> None:
    gated = panel if band.gate is None else _gated(e, k, band.gate, panel)
    tiles(lambda tile: _write_tile(e, k, band, gated, tile))


def _gated(e: Block, k: PointwisePlan, gate: Gate, panel: Panel) -> Panel:
    """The panel with each input channel's weights multiplied by its factor: far fewer numbers than the pixels are."""
    width = panel.vectors * k.lanes
    with e.loop(0, k.group_inputs) as c:
        factor = e.splat(gate.factors + (panel.first_input + c.index), k.lanes)
        for j in range(panel.vectors):
            place = c.index * width + j * k.lanes
            (gate.panel + place).store((panel.weight + place).load(k.lanes) * factor)
    return replace(panel, weight=gate.panel)


def _write_tile(e: Block, k: PointwisePlan, band: Band, panel: Panel, tile: Tile) -> None:
    vectors, m, rows = panel.vectors, tile.m, tile.rows
    a = band.a + (m * k.pixel_stride + panel.first_input)
    # Loaded here: kept from tile to tile, it would take registers from the sums.
    bias = [(panel.bias + j * k.lanes).load(k.lanes) for j in range(vectors)]
    sums = [bias[j] for _ in range(rows) for j in range(vectors)]
    results = [band.out + (m * k.out_stride + column) for column in panel.columns]
    if not k.pixels_first:
        # Where the results lie comes while they are computed.
        for i in range(rows):
            for result in results:
                (result + i * k.out_stride).prefetch(2)
    fetch = _fetching(k, band, panel, m, rows)

    def add(c: Int, sums: list[Vec]) -> list[Vec]:
        weights = panel.weight + c * (vectors * k.lanes)
        columns = [(weights + j * k.lanes).load(k.lanes) for j in range(vectors)]
        # For a single pixel weights are read as fast as they come, one after another: asked for, they come more slowly.
        for j in range(vectors if rows > 1 else 0):
            (weights + (PREFETCH_INPUTS * vectors + j) * k.lanes).prefetch(1)
        fetch(c)
        for i in range(rows):
            pixel = e.splat(a + (c + i * k.pixel_stride), k.lanes)
            for j, column in enumerate(columns):
                sums[i * vectors + j] = pixel.fma(column, sums[i * vectors + j])
        return sums

    sums = add_products(e, k.group_inputs, sums, add)
    if band.affine is not None:
        scales, shifts = (
            [(place + column).load(k.lanes) for column in panel.columns]
            for place in (band.affine.scale, band.affine.shift)
        )
        sums = [total.fma(scales[i % vectors], shifts[i % vectors]) for i, total in enumerate(sums)]
    residuals = [band.residual + (m * k.out_channels + column) for column in panel.columns] if k.residual else []
    put(k, sums, rows, results, residuals)


def _fetching(k: PointwisePlan, band: Band, panel: Panel, m: Int, rows: int) -> Callable[[Int], None]:
    """What a tile does at each input channel so that memory beyond L2 is not waited for.

    The tile's first panels fetch what lies ahead for its pixels, some lines for each channel. They also fetch where the
    next tile's result will lie, a line for each channel: it must come before what is stored there, and stores that wait
    for it stop all others.
    """
    ahead = band.ahead
    if ahead is None or not k.fetched_lines:
        return lambda _: None
    first = panel.number * k.group_inputs
    in_line, in_lines = first * k.fetched_lines, ceil_div(ahead.per_pixel * rows, LINE_ELEMENTS)
    is_wanted = in_line < in_lines
    start = select(is_wanted, ahead.start + (m * ahead.per_pixel + in_line * LINE_ELEMENTS), panel.weight)
    step = is_wanted.pick(k.fetched_lines * LINE_ELEMENTS, 0)
    next_result = band.out + (m + rows) * k.out_stride
    last_line = ahead.is_far.pick(-(-rows * k.out_stride // LINE_ELEMENTS) - 1, 0)

    def fetch(c: Int) -> None:
        for line in range(k.fetched_lines):
            (start + (c * step + line * LINE_ELEMENTS)).prefetch(ahead.level)
        (next_result + least(c + first, last_line) * LINE_ELEMENTS).prefetch(2)

    return fetch
