"""The plan of a dense convolution: tiles, slabs of input channels, how its work is cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from ....geometry import Geometry
from ...base import Activation
from ..machine import FLOAT_BYTES, Machine
from .cut import Cut, balance
from .product import LONGEST_CHAIN, Product, heights_for, in_vain, vectors_of
from .sizes import Axes, activation_name, window_of
from .tuning import tuning_of

# Fewer products are not worth a sum of their own.
FEWEST_IN_CHAIN = 64


@dataclass(frozen=True, slots=True)
class DensePlan(Product):
    """The constants of a dense loop nest.

    heights: register tiles are of so many pixels, the most first
    by_rows: each run of pixels is a row
    pixels_first: tiles of pixels are the outer loop, panels of weights the inner one; then there is one slab
    slab:  input channels of a group that are multiplied before others, so that their weights stay in L2
    fetches: the weights of the next slab, which lie beyond L2, are fetched meanwhile
    planar: the input is contiguous, one plane per channel
    pixel_stride: elements from one input pixel to the next
    """

    rank: int
    kernel: Axes
    stride: Axes
    dilation: Axes
    heights: tuple[int, ...]
    by_rows: bool
    pixels_first: bool
    slab: int
    fetches: bool
    planar: bool
    pixel_stride: int

    @property
    def name(self) -> str:
        window = "_".join(
            f"{letter}{'x'.join(map(str, numbers[3 - self.rank :]))}"
            for letter, numbers in (("k", self.kernel), ("s", self.stride), ("d", self.dilation))
        )
        size = f"n{self.out_channels}c{self.in_channels}g{self.groups}"
        order = "r" * self.by_rows + "f" * self.pixels_first + f"c{self.slab}" + "a" * self.fetches
        tile = f"m{self.heights[0]}to{self.heights[-1]}x{self.vectors}v{self.lanes}{order}"
        memory = "_planar" if self.planar else f"p{self.pixel_stride}"
        residual = "_residual" if self.residual else ""
        return f"{window}_{size}_{activation_name(self.activation)}{residual}_{tile}{memory}"

    @property
    def packing(self) -> tuple[object, ...]:
        return self.groups, self.lanes, self.vectors, self.slab, self.planar

    @property
    def taps(self) -> int:
        return prod(self.kernel)

    @property
    def terms(self) -> int:
        return self.taps * self.group_inputs

    @property
    def chain_axis(self) -> int | None:
        """What is added up apart, where a slab has very many products: 2 the rows of taps, 3 each tap; or None."""
        if self.planar or self.slab * self.taps <= LONGEST_CHAIN or self.slab * self.kernel[2] < FEWEST_IN_CHAIN:
            return None
        return 3 if self.slab >= FEWEST_IN_CHAIN else 2

    @property
    def slabs(self) -> int:
        return -(-self.group_inputs // self.slab)

    @property
    def row_terms(self) -> int:
        """Under a row of the kernel, where they lie together as they do in a panel; else 1."""
        if self.planar:
            return self.kernel[2] if self.dilation[2] == 1 else 1
        is_dense = self.dilation[2] == 1 and self.slabs == 1 and self.pixel_stride == self.group_inputs
        together = is_dense and self.chain_axis != 3
        return self.kernel[2] * self.group_inputs if together else 1

    @property
    def zero_elements(self) -> int:
        """How many zeros are read in the place of a pixel outside the image."""
        return 1 if self.planar else self.slab

    @property
    def tile_elements(self) -> int:
        """Of the sums of one pixel of a panel."""
        return self.vectors * self.lanes


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseCut(Cut):
    """Chunks of panels are dealt out, and in each every band.

    panel_chunks: of the panels of weights
    units, unit_pixels: rows of pixels, or pixels
    run_units:    units whose pixels are cut into tiles together
    run_sums:     elements for the sums of a run's tiles between two slabs of input channels
    bands:        neighbouring runs
    """

    panel_chunks: int
    units: int
    unit_pixels: int
    run_units: int
    bands: int

    run_sums: int = 0

    @property
    def by_rows(self) -> bool:
        """Whether each run is a row."""
        return self.run_units == 1 and self.unit_pixels > 1

    @property
    def run_pixels(self) -> int:
        """The most that are cut into tiles together."""
        return self.unit_pixels * min(self.run_units, self._band_units)

    @property
    def _band_units(self) -> int:
        return -(-self.units // self.bands)

    def with_sums(self, k: DensePlan) -> DenseCut:
        """The same, with memory for the sums of a band between two slabs of input channels."""
        if k.slabs == 1:
            return self
        run_sums = (self.run_pixels + k.heights[0]) * k.tile_elements
        runs = -(-self._band_units // self.run_units)
        return replace(self, run_sums=run_sums, scratch_elements=runs * run_sums)


def dense_plan(
    g: Geometry,
    activation: Activation,
    machine: Machine,
    cut: DenseCut,
    *,
    residual: bool,
    planar: bool,
    pixel_stride: int,
) -> DensePlan:
    lanes, vectors, _ = vectors_of(g, machine)
    kernel, stride, dilation = window_of(g)
    inputs, tap_bytes = g.in_channels // g.groups, FLOAT_BYTES * lanes * vectors * prod(kernel)
    pixels_first = dense_bytes(g) <= machine.l1_bytes * 3 // 4
    most = max(1, machine.l2_bytes // 4 // tap_bytes)
    slabs = 1 if pixels_first or planar else -(-inputs // most)
    return DensePlan(
        in_channels=g.in_channels,
        out_channels=g.output_size[0],
        groups=g.groups,
        activation=activation,
        residual=residual,
        lanes=lanes,
        vectors=vectors,
        rank=g.rank,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        heights=heights_for(cut.run_pixels, vectors, machine),
        by_rows=cut.by_rows,
        pixels_first=pixels_first,
        slab=-(-inputs // slabs),
        fetches=dense_bytes(g) > machine.l2_bytes // 2 and not planar,
        planar=planar,
        pixel_stride=pixel_stride,
    )


def dense_bytes(g: Geometry) -> int:
    """Of all weights."""
    return FLOAT_BYTES * g.in_channels // g.groups * g.kernel_area * g.output_size[0]


def dense_cut(g: Geometry, batch: int, machine: Machine, threads: int) -> DenseCut:
    """By rows where tiles divide them evenly, else by pixels; by panels where there are more weights than input."""
    vectors, width = vectors_of(g, machine)[1], g.out_spatial[-1]
    rows, panels = batch * prod(g.out_spatial[:-1]), -(-g.output_size[0] // (vectors * machine.vector_lanes))
    by_rows = in_vain(width, tuning_of(machine).tiles[vectors][0]) == 0 and balance(rows, threads) > 0.9
    units, unit_pixels = (rows, width) if by_rows else (rows * width, 1)
    input_bytes = FLOAT_BYTES * batch * prod(g.input_size)
    panel_chunks = threads if input_bytes < dense_bytes(g) and balance(panels, threads) > 0.9 else 1
    bands = max(1, -(-input_bytes // (machine.l2_bytes // 2)))
    if panel_chunks == 1:
        bands = -(-bands // threads) * threads
    return DenseCut(
        threads=threads,
        panel_chunks=panel_chunks,
        units=units,
        unit_pixels=unit_pixels,
        run_units=1 if by_rows else units,
        bands=min(bands, units),
    )
