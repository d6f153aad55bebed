"""The kernels of a batch norm's gradients: sums over pixels, what they make of each channel, the input's gradient.

    GradientSumsKernel   for chunk: for pixel in chunk: for c:
                             g = dy · activation'(z),  z = (x - mean[c]) · scale[c] + bias[c] + residual
                             sums[chunk][0][c] += g;  sums[chunk][1][c] += g · (x - mean[c])
                             # float32 within a tile, float64 over tiles
    CoefficientsKernel   for c: total, along = sums over chunks, in their order
                             bias_gradient[c] = total;  weight_gradient[c] = along · inverse[c]
                             shift[c] = total / pixels;  turn[c] = along · inverse[c]² / pixels
    NormGradientKernel   for pixel: for c: dx = scale[c] · (g - shift[c] - (x - mean[c]) · turn[c]);  dresidual = g

z is computed again rather than kept: it is the same to the bit as when the result was written.
"""

from __future__ import annotations

from dataclasses import dataclass

from .derivatives import through
from .ir import Block, Int, Ptr, Vec
from .norm_forward import INVERSE, Channel, NormKernel, added, clear, each_vector, statistic
from .norm_tiles import Tile, chunks, sums_of, write_chunk
from .wide import CELLS, load_wide, narrowed, of_count, store_wide, widened

SHIFT, TURN = "shift", "turn"
COEFFICIENTS = ("weight_gradient", "bias_gradient", SHIFT, TURN)


@dataclass(frozen=True)
class OverPixels(NormKernel):
    """What those that read every pixel share."""

    @property
    def kept(self) -> str:
        """Where g is written to be read again, or nowhere."""
        return ("dresidual" if self.plan.residual else "dx") if self.plan.keeps else ""

    def fetched(self, e: Block) -> list[Ptr]:
        """What is read, and written, where g is computed."""
        residual = ["residual"] if self.plan.residual and self.plan.activation is not None else []
        return [e.pointer(name) for name in ("x", "dy", *residual, *([self.kept] if self.kept else []))]

    def fetched_again(self, e: Block) -> list[Ptr]:
        """The same where the input's gradient is."""
        written = [e.pointer(name) for name in ("dx", *(["dresidual"] if self.plan.residual else []))]
        return [e.pointer("x"), *written] if self.kept else [*self.fetched(e), *written]

    def centred_and_gradients(self, e: Block, channel: Channel, tile: Tile) -> tuple[list[Vec], list[Vec]]:
        """X - mean and g of each vector."""
        gradients = tile.load(e.pointer("dy"))
        centred = [x - channel.mean for x in tile.load(e.pointer("x"))]
        if self.plan.activation is None:
            return centred, gradients
        values = [each.fma(channel.scale, channel.bias) for each in centred]
        if self.plan.residual:
            values = [z + residual for z, residual in zip(values, tile.load(e.pointer("residual")), strict=True)]
        return centred, [through(dy, z, self.plan.activation) for dy, z in zip(gradients, values, strict=True)]

    def sums(self, e: Block, channel: Channel, tile: Tile) -> tuple[Vec, Vec]:
        """Of g, and of g · (x - mean), over a tile."""
        first = second = e.constant(0.0, self.plan.lanes)
        centred, gradients = self.centred_and_gradients(e, channel, tile)
        for apart, g in zip(centred, gradients, strict=True):
            first, second = first + g, g.fma(apart, second)
        if self.kept:
            tile.store(e.pointer(self.kept), gradients)
        return first, second

    def write_gradients(self, e: Block, channel: Channel, shift: Vec, turn: Vec, tile: Tile) -> None:
        if self.kept:
            centred, gradients = [x - channel.mean for x in tile.load(e.pointer("x"))], tile.load(e.pointer(self.kept))
        else:
            centred, gradients = self.centred_and_gradients(e, channel, tile)
        if self.plan.residual and not self.kept:
            tile.store(e.pointer("dresidual"), gradients)
        pairs = zip(centred, gradients, strict=True)
        tile.store(e.pointer("dx"), [(-apart).fma(turn, g - shift) * channel.scale for apart, g in pairs])


@dataclass(frozen=True)
class GradientSumsKernel(OverPixels):
    kind = "gradient_sums"
    pointers = ("x", "dy", "bias", "statistics", "residual", "sums", "dx", "dresidual")
    numbers = ("pixels", "channels", "chunks", "sum_channels")
    writes = ("sums", "dx", "dresidual")

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        lanes = self.plan.lanes
        with chunks(e, thread, threads) as chunk:
            totals, along = (sums_of(e, chunk[0], which) for which in (0, 1))
            clear(e, lanes, totals, along)

            def body(tile: Tile, slot: Int) -> None:
                tile.fetch(*self.fetched(e))
                channel = Channel.load(e, tile.channel, lambda place: place.load(lanes))
                for place, sums in zip((totals, along), self.sums(e, channel, tile), strict=True):
                    here = place + slot * CELLS
                    store_wide(here, load_wide(here, lanes) + widened(sums))

            write_chunk(e, lanes, chunk, body)


@dataclass(frozen=True)
class CoefficientsKernel(NormKernel):
    kind = "coefficients"
    pointers = ("sums", "statistics", *COEFFICIENTS)
    numbers = ("pixels", "channels", "chunks", "sum_channels")
    writes = COEFFICIENTS

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        lanes = self.plan.lanes
        with each_vector(e, lanes, thread, threads) as (channel, slot):
            write_coefficients(e, channel, *added(e, lanes, slot))


def write_coefficients(e: Block, channel: Int, total: Vec, along: Vec) -> None:
    """Those of some channels, whose sums these are."""
    lanes = total.lanes
    count = of_count(e.number("pixels"), lanes)
    inverse = widened((statistic(e, INVERSE) + channel).load(lanes))
    weight = along * inverse
    values = (weight, total, total / count, weight * inverse / count)
    for name, value in zip(COEFFICIENTS, values, strict=True):
        (e.pointer(name) + channel).store(narrowed(value))


@dataclass(frozen=True)
class NormGradientKernel(OverPixels):
    kind = "input_gradient"
    pointers = ("x", "dy", "bias", "statistics", "residual", SHIFT, TURN, "dx", "dresidual")
    numbers = ("pixels", "channels", "chunks")
    writes = ("dx", "dresidual")

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        lanes = self.plan.lanes

        def load(place: Ptr) -> Vec:
            return place.load(lanes)

        def body(tile: Tile, _: Int) -> None:
            tile.fetch(*self.fetched_again(e))
            shift, turn = (load(e.pointer(name) + tile.channel) for name in (SHIFT, TURN))
            self.write_gradients(e, Channel.load(e, tile.channel, load), shift, turn, tile)

        with chunks(e, thread, threads, backwards=True) as chunk:
            write_chunk(e, lanes, chunk, body)
