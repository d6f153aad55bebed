"""What sums of gradients, image by image, make of a gated pointwise convolution's weights and of the gates.

    sums[n, o, c] = sum over the pixels p of image n of gradient[p, o] · x[p, c]          (pointwise_gradient.py)

    weight_gradient[o, c] = sum over n of sums[n, o, c] · factors[n, c]
    factors_gradient[n, c] = sum over o of sums[n, o, c] · weight[o, c]

So no pass over the images is needed for the gates. Of a row or column that two tiles have each has the whole sums: in
the second formula a row counts in the first tile alone. Domain: rows of tiles are output channels, one group, no bias.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..plan.pointwise_gradient import PointwiseGradientPlan
from .ir import Block, Int, Ptr, least, select
from .kernel import OnePlanKernel
from .row_sums import pairwise


@dataclass(frozen=True)
class GatedSumsKernel(OnePlanKernel):
    """Tasks: vectors of columns."""

    kind = "gated_sums_f32"
    pointers = ("sums", "weight", "factors", "weight_gradient", "factors_gradient")
    numbers = ("slots",)
    writes = ("weight_gradient", "factors_gradient")

    plan: PointwiseGradientPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k = self.plan
        vectors = k.panels * k.vectors
        with e.loop(thread * vectors // threads, (thread + 1) * vectors // threads) as vector:
            column = least(vector.index * k.lanes, k.column_channels - k.lanes)
            panel, within = vector.index // k.vectors, vector.index % k.vectors
            sums = e.pointer("sums") + (panel * (k.rows * k.vectors) + within) * k.lanes
            self._write_weights(e, sums, column)
            self._write_factors(e, sums, column)

    def _write_weights(self, e: Block, sums: Ptr, column: Int) -> None:
        k, zero = self.plan, e.constant(0.0, self.plan.lanes)
        with e.loop(0, k.tiles) as tile:
            with e.loop(0, e.number("slots"), carried=[zero] * k.rows) as image:
                factors = (e.pointer("factors") + (image.index * k.column_channels + column)).load(k.lanes)
                own = self._of(sums, image.index, tile.index)
                image.values = [
                    place.load(k.lanes).fma(factors, total) for place, total in zip(own, image.values, strict=True)
                ]
            first = self._first_row(tile.index)
            for i, total in enumerate(image.values):
                (e.pointer("weight_gradient") + ((first + i) * k.column_channels + column)).store(total)

    def _write_factors(self, e: Block, sums: Ptr, column: Int) -> None:
        k, zero = self.plan, e.constant(0.0, self.plan.lanes)
        with e.loop(0, e.number("slots")) as image:
            with e.loop(0, k.tiles, carried=[zero] * k.rows) as tile:
                first = self._first_row(tile.index)
                for i, place in enumerate(self._of(sums, image.index, tile.index)):
                    weight = e.pointer("weight") + ((first + i) * k.column_channels + column)
                    is_new = first + i >= tile.index * k.rows
                    weights = select(is_new, weight, e.zeros(k.lanes)).load(k.lanes)
                    tile.values[i] = weights.fma(place.load(k.lanes), tile.values[i])
            place = e.pointer("factors_gradient") + (image.index * k.column_channels + column)
            place.store(pairwise(tile.values))

    def _of(self, sums: Ptr, image: Int, tile: Int) -> list[Ptr]:
        """Where the sums of each row of a tile lie."""
        k = self.plan
        own = sums + (image * k.tiles + tile) * k.tile_elements
        return [own + i * (k.vectors * k.lanes) for i in range(k.rows)]

    def _first_row(self, tile: Int) -> Int:
        return least(tile * self.plan.rows, self.plan.row_channels - self.plan.rows)
