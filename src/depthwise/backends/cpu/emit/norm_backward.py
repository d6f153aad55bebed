"""The kernels of a batch norm's gradients: sums over pixels, what they make of each channel, the input's gradient.

    GradientSumsKernel   for chunk: for pixel in chunk: for c:
                             g = dy · activation'(z),  z = (x - mean[c]) · scale[c] + bias[c] + residual
                             sums[chunk][0][c] += g;  sums[chunk][1][c] += g · (x - mean[c])
                             # float32 within a tile, float64 over tiles
    CoefficientsKernel   for c: total, along = sums over chunks, in their order
                             bias_gradient[c] = total;  weight_gradient[c] = along · inverse[c]
                             shift[c] = total / pixels;  turn[c] = along · inverse[c]² / pixels
    NormGradientKernel   for pixel: for c: dx = scale[c] · (g - shift[c] - (x - mean[c]) · turn[c]);  dresidual = g

gradients: rows of weight_gradient, bias_gradient, shift and turn, one after the other. z is computed again rather than
kept: it is the same to the bit as when the result was written.
"""

from __future__ import annotations

from dataclasses import dataclass

from .derivatives import through
from .ir import Block, Int, Ptr, Vec
from .norm_forward import INVERSE, Channel, NormKernel, added, clear, each_vector, statistic
from .norm_tiles import Tile, chunks, sums_of, write_chunk
from .wide import CELLS, load_wide, narrowed, of_count, store_wide, widened

WEIGHT, BIAS, SHIFT, TURN = range(4)
GRADIENTS = 4


@dataclass(frozen=True)
class _OverPixels(NormKernel):
    """What the two that read every pixel share."""

    def fetched(self, e: Block, *written: str) -> list[Ptr]:
        """What they read and write pixel by pixel."""
        residual = ["residual"] if self.plan.residual and self.plan.activation is not None else []
        return [e.pointer(name) for name in ("x", "dy", *residual, *written)]

    def centred_and_gradient(self, e: Block, channel: Channel, offset: Int) -> tuple[Vec, Vec]:
        """X - mean and g of one vector."""
        lanes = self.plan.lanes
        dy = (e.pointer("dy") + offset).load(lanes)
        centred = (e.pointer("x") + offset).load(lanes) - channel.mean
        if self.plan.activation is None:
            return centred, dy
        z = centred.fma(channel.scale, channel.bias)
        if self.plan.residual:
            z = z + (e.pointer("residual") + offset).load(lanes)
        return centred, through(dy, z, self.plan.activation)


@dataclass(frozen=True)
class GradientSumsKernel(_OverPixels):
    kind = "gradient_sums"
    pointers = ("x", "dy", "bias", "statistics", "residual", "sums")
    numbers = ("pixels", "channels", "chunks", "sum_channels")
    writes = ("sums",)

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        lanes = self.plan.lanes
        with chunks(e, thread, threads) as chunk:
            totals, along = (sums_of(e, chunk[0], which) for which in (0, 1))
            clear(e, lanes, totals, along)

            def body(tile: Tile) -> None:
                tile.fetch(*self.fetched(e))
                channel = Channel.load(e, lanes, tile.channel)
                first = second = e.constant(0.0, lanes)
                for offset in tile.offsets:
                    centred, g = self.centred_and_gradient(e, channel, offset)
                    first, second = first + g, g.fma(centred, second)
                for place, sums in ((totals, first), (along, second)):
                    here = place + tile.slot * CELLS
                    store_wide(here, load_wide(here, lanes) + widened(sums))

            write_chunk(e, lanes, chunk, body)


@dataclass(frozen=True)
class CoefficientsKernel(NormKernel):
    kind = "coefficients"
    pointers = ("sums", "statistics", "gradients")
    numbers = ("pixels", "channels", "chunks", "sum_channels")
    writes = ("gradients",)

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        lanes = self.plan.lanes
        count = of_count(e.number("pixels"), lanes)
        with each_vector(e, lanes, thread, threads) as (channel, slot):
            total, along = added(e, lanes, slot)
            inverse = widened((statistic(e, INVERSE) + channel).load(lanes))
            weight = along * inverse
            rows = ((WEIGHT, weight), (BIAS, total), (SHIFT, total / count), (TURN, weight * inverse / count))
            for row, value in rows:
                (_gradient(e, row) + channel).store(narrowed(value))


@dataclass(frozen=True)
class NormGradientKernel(_OverPixels):
    kind = "input_gradient"
    pointers = ("x", "dy", "bias", "statistics", "residual", "gradients", "dx", "dresidual")
    numbers = ("pixels", "channels", "chunks")
    writes = ("dx", "dresidual")

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        lanes = self.plan.lanes

        def body(tile: Tile) -> None:
            tile.fetch(*self.fetched(e, "dx", *(["dresidual"] if self.plan.residual else [])))
            channel = Channel.load(e, lanes, tile.channel)
            shift, turn = ((_gradient(e, row) + tile.channel).load(lanes) for row in (SHIFT, TURN))
            for offset in tile.offsets:
                centred, g = self.centred_and_gradient(e, channel, offset)
                if self.plan.residual:
                    (e.pointer("dresidual") + offset).store(g)
                (e.pointer("dx") + offset).store((-centred).fma(turn, g - shift) * channel.scale)

        with chunks(e, thread, threads, backwards=True) as chunk:
            write_chunk(e, lanes, chunk, body)


def _gradient(e: Block, row: int) -> Ptr:
    return e.pointer("gradients") + e.number("channels") * row
