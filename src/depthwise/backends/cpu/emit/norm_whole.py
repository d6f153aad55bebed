"""Batch norms in training mode in one stage: some channels of all pixels are looked at twice, before the next ones.

    WholeNormKernel           for columns: total, squares = sums over pixels;  statistics as StatisticsKernel's
                                  for pixel: out as NormalizeKernel's
    WholeSumsKernel           for columns: total, along = sums over pixels;  gradients as CoefficientsKernel's
    WholeGradientKernel           for pixel: dx, dresidual as NormGradientKernel's

The second look finds in cache what the first brought there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .ir import Block, Int, Vec
from .norm_backward import COEFFICIENTS, SHIFT, TURN, OverPixels, write_coefficients
from .norm_columns import Columns, columns_of
from .norm_forward import RUNNING, Channel, NormKernel, move_running, write_normalized, write_statistics
from .norm_tiles import Tile
from .wide import Wide, constant, widened


@dataclass(frozen=True)
class WholeNormKernel(NormKernel):
    kind = "whole_norm"
    pointers = ("x", "weight", "bias", "statistics", "residual", "out", *RUNNING)
    numbers = ("pixels", "channels", "batch", "out_x", "eps_bits", "momentum_bits")
    writes = ("statistics", "out", *RUNNING)

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k, x, columns = self.plan, e.pointer("x"), columns_of(e, self.plan)
        with columns.each(thread, threads) as channels:

            def add(_: int, tile: Tile, sums: list[Vec]) -> list[Vec]:
                tile.fetch(x)
                total, squares = sums
                for spot in tile.spots:
                    value = widened(spot.load(x))
                    total, squares = total + value, value.fma(value, squares)
                return [total, squares]

            for channel, sums in zip(channels, columns.over(channels, _zeros(e, columns, channels), add), strict=True):
                total, squares = map(columns.by_channel, sums)
                write_statistics(e, channel, total, squares)
                if k.tracks:
                    move_running(e, channel, total.lanes)
            known = [Channel.load(e, channel, columns.known) for channel in channels]

            def put(column: int, tile: Tile, sums: list[Vec]) -> list[Vec]:
                tile.fetch(e.pointer("out"), *([e.pointer("residual")] if k.residual else []))
                write_normalized(e, k, known[column], tile)
                return sums

            columns.over(channels, [[] for _ in channels], put)


@dataclass(frozen=True)
class WholeSumsKernel(OverPixels):
    kind = "whole_gradient_sums"
    pointers = ("x", "dy", "bias", "statistics", "residual", *COEFFICIENTS, "dx", "dresidual")
    numbers = ("pixels", "channels", "batch", "out_x")
    writes: ClassVar[tuple[str, ...]] = COEFFICIENTS

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        columns = columns_of(e, self.plan)
        with columns.each(thread, threads) as channels:
            known = [Channel.load(e, channel, columns.known) for channel in channels]

            def add(column: int, tile: Tile, sums: list[Vec]) -> list[Vec]:
                tile.fetch(*self.fetched(e))
                own = self.sums(e, known[column], tile)
                return [total + widened(part) for total, part in zip(sums, own, strict=True)]

            for channel, sums in zip(channels, columns.over(channels, _zeros(e, columns, channels), add), strict=True):
                write_coefficients(e, channel, *map(columns.by_channel, sums))
            self.look_again(e, columns, channels, known)

    def look_again(self, e: Block, columns: Columns, channels: list[Int], known: list[Channel]) -> None:
        """What is done to the same pixels once the sums are there."""


@dataclass(frozen=True)
class WholeGradientKernel(WholeSumsKernel):
    kind = "whole_input_gradient"
    writes = (*COEFFICIENTS, "dx", "dresidual")

    def look_again(self, e: Block, columns: Columns, channels: list[Int], known: list[Channel]) -> None:
        turns = [[columns.known(e.pointer(name) + channel) for name in (SHIFT, TURN)] for channel in channels]

        def put(column: int, tile: Tile, sums: list[Vec]) -> list[Vec]:
            tile.fetch(e.pointer("dx"), *([e.pointer("dresidual")] if self.plan.residual else []))
            shift, turn = turns[column]
            self.write_gradients(e, known[column], shift, turn, tile)
            return sums

        columns.over(channels, [[] for _ in channels], put)


def _zeros(e: Block, columns: Columns, channels: list[Int]) -> list[list[Vec]]:
    zero: Wide = constant(e, 0.0, columns.lanes)
    return [[zero, zero] for _ in channels]
