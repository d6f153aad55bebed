"""The kernels of a batch norm in training mode: sums over pixels, what they make of each channel, the result.

    MomentsKernel      for chunk: for pixel in chunk: for c:
                           sums[chunk][0][c] += x[pixel][c];  sums[chunk][1][c] += x[pixel][c]²      # float64
    StatisticsKernel   for c: total, squares = sums over chunks, in their order
                           mean = total / pixels;  var = squares / pixels - mean²
                           inverse[c] = 1 / sqrt(var + eps);  scale[c] = inverse[c] · weight[c]
                           unbiased[c] = var · pixels / (pixels - 1)
                           running_mean[c] = momentum · mean[c] + (1 - momentum) · running_mean[c];  running_var alike
    NormalizeKernel    for pixel: for c: out = activation((x - mean[c]) · scale[c] + bias[c] + residual)

float64 holds the square of a float32 exactly: a mean 10^6 times the deviation leaves the variance 3 digits. x: dense
channels-last pixels. statistics: rows of mean, inverse, scale and unbiased, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ..plan.norm import NormPlan
from .activations import activated
from .ir import Block, Int, Ptr, Vec, ceil_div
from .kernel import OnePlanKernel
from .masks import load_first, store_first
from .norm_tiles import Tile, chunks, sums_of, vectors, write_chunk
from .wide import CELLS, constant, load_wide, narrowed, of_bits, of_count, root, store_wide, widened

MEAN, INVERSE, SCALE, UNBIASED = range(4)
STATISTICS = 4
RUNNING = ("running_mean", "running_var")


@dataclass(frozen=True)
class NormKernel(OnePlanKernel):
    """One of the kernels of a batch norm."""

    plan: NormPlan


@dataclass(frozen=True)
class MomentsKernel(NormKernel):
    kind = "moments"
    pointers = ("x", "sums")
    numbers = ("pixels", "channels", "chunks", "sum_channels")
    writes = ("sums",)

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        lanes, x = self.plan.lanes, e.pointer("x")
        with chunks(e, thread, threads) as chunk:
            totals, squares = (sums_of(e, chunk[0], which) for which in (0, 1))
            clear(e, lanes, totals, squares)

            def body(tile: Tile, slot: Int) -> None:
                tile.fetch(x)
                here = slot * CELLS
                total: Vec = load_wide(totals + here, lanes)
                square: Vec = load_wide(squares + here, lanes)
                for spot in tile.spots:
                    value = widened(spot.load(x))
                    total, square = total + value, value.fma(value, square)
                store_wide(totals + here, total)
                store_wide(squares + here, square)

            write_chunk(e, lanes, chunk, body)


@dataclass(frozen=True)
class StatisticsKernel(NormKernel):
    kind = "statistics"
    pointers = ("sums", "weight", "statistics", *RUNNING)
    numbers = ("pixels", "channels", "chunks", "sum_channels", "eps_bits", "momentum_bits")
    writes = ("statistics", *RUNNING)

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        lanes = self.plan.lanes
        with each_vector(e, lanes, thread, threads) as (channel, slot):
            write_statistics(e, channel, *added(e, lanes, slot))
            if self.plan.tracks:
                move_running(e, channel, lanes)


def write_statistics(e: Block, channel: Int, total: Vec, squares: Vec) -> None:
    """Those of some channels, whose sums these are."""
    lanes, pixels = total.lanes, e.number("pixels")
    count, eps = of_count(pixels, lanes), of_bits(e.number("eps_bits"), lanes)
    bessel = count / of_count(pixels - 1, lanes)
    mean = total / count
    # Rounding may leave less than nothing.
    variance = (mean * -1.0).fma(mean, squares / count).at_least(0.0)
    inverse = constant(e, 1.0, lanes) / root(variance + eps)
    scale = inverse * widened((e.pointer("weight") + channel).load(lanes))
    for row, value in ((MEAN, mean), (INVERSE, inverse), (SCALE, scale), (UNBIASED, variance * bessel)):
        (statistic(e, row) + channel).store(narrowed(value))


def first_alone(channel: Int, lanes: int) -> Int:
    """The first channel that no vector has before the one from `channel` on."""
    return ceil_div(channel, lanes) * lanes


def move_running(e: Block, channel: Int, lanes: int) -> None:
    """The running statistics of channels whose batch's are written; each once, where vectors overlap too."""
    first = first_alone(channel, lanes)
    count = channel + lanes - first
    momentum = of_bits(e.number("momentum_bits"), lanes)
    for name, row in zip(RUNNING, (MEAN, UNBIASED), strict=True):
        running = e.pointer(name) + first
        before, batch = (widened(load_first(place, count, lanes)) for place in (running, statistic(e, row) + first))
        # As torch has it: an infinity stays one.
        store_first(running, count, narrowed(momentum * batch + (constant(e, 1.0, lanes) - momentum) * before))


@dataclass(frozen=True)
class NormalizeKernel(NormKernel):
    kind = "normalize"
    pointers = ("x", "bias", "statistics", "residual", "out")
    numbers = ("pixels", "channels", "chunks")

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        lanes, x, out = self.plan.lanes, e.pointer("x"), e.pointer("out")

        def body(tile: Tile, _: Int) -> None:
            tile.fetch(x, out, *([e.pointer("residual")] if self.plan.residual else []))
            channel = Channel.load(e, tile.channel, lambda place: place.load(lanes))
            write_normalized(e, self.plan, channel, tile)

        with chunks(e, thread, threads, backwards=True) as chunk:
            write_chunk(e, lanes, chunk, body)


@dataclass(frozen=True, slots=True)
class Channel:
    """What is known of a vector of channels."""

    mean: Vec
    scale: Vec
    bias: Vec

    @classmethod
    def load(cls, e: Block, channel: Int, load: Callable[[Ptr], Vec]) -> Channel:
        mean, scale = (load(statistic(e, row) + channel) for row in (MEAN, SCALE))
        return cls(mean, scale, load(e.pointer("bias") + channel))

    def normalized(self, x: Vec) -> Vec:
        return (x - self.mean).fma(self.scale, self.bias)


def write_normalized(e: Block, plan: NormPlan, channel: Channel, tile: Tile) -> None:
    values = [channel.normalized(x) for x in tile.load(e.pointer("x"))]
    if plan.residual:
        values = [z + residual for z, residual in zip(values, tile.load(e.pointer("residual")), strict=True)]
    tile.store(e.pointer("out"), [activated(z, plan.activation) for z in values])


def statistic(e: Block, row: int) -> Ptr:
    """Where a row of the statistics begins."""
    return e.pointer("statistics") + e.number("channels") * row


def clear(e: Block, lanes: int, *places: Ptr) -> None:
    """Write zeros over a chunk's sums."""
    with vectors(e, lanes, e.whole(0), e.number("sum_channels") // lanes) as (_, slot):
        for place in places:
            store_wide(place + slot * CELLS, constant(e, 0.0, lanes))


def each_vector(e: Block, lanes: int, thread: Int, threads: Int) -> AbstractContextManager[tuple[Int, Int]]:
    """The thread's share of the vectors of channels."""
    count = e.number("sum_channels") // lanes
    return vectors(e, lanes, thread * count // threads, (thread + 1) * count // threads)


def added(e: Block, lanes: int, slot: Int) -> tuple[Vec, Vec]:
    """Both sums of a vector of channels over all chunks, in their order."""
    zero = constant(e, 0.0, lanes)
    with e.loop(0, e.number("chunks"), carried=[zero, zero]) as chunk:
        places = [sums_of(e, chunk.index, which) + slot * CELLS for which in (0, 1)]
        chunk.values = [total + load_wide(place, lanes) for total, place in zip(chunk.values, places, strict=True)]
    first, second = chunk.values
    return first, second
