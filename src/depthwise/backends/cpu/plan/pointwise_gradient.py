"""The gradient of pointwise weights: register tiles of it, and how pixels are cut into slots that are added up."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ....geometry import Geometry
from ..machine import FLOAT_BYTES, Machine
from .constants import Plan
from .cut import Cut
from .sizes import lanes_below

# Pixels whose products are added up in registers before the sums go to memory, at most and at least.
_MOST_PIXELS, _FEWEST_PIXELS = 128, 32
# Fewer pixels than these are not worth sums of their own, and more tasks than these are not needed.
_SLOT_PIXELS, _MOST_TASKS = 1024, 16


@dataclass(frozen=True, slots=True)
class PointwiseGradientPlan(Plan):
    """The constants of a loop nest: (out_channels, pixels) x (pixels, in_channels) in each group.

    lanes, vectors: of a panel of input channels
    rows:           output channels of a register tile
    bias:           the gradient of a bias is computed too
    """

    in_channels: int
    out_channels: int
    groups: int
    lanes: int
    vectors: int
    rows: int
    bias: bool

    @property
    def name(self) -> str:
        size = f"n{self.out_channels}k{self.in_channels}g{self.groups}"
        return f"{size}_m{self.rows}x{self.vectors}v{self.lanes}{'b' * self.bias}"

    @property
    def group_inputs(self) -> int:
        return self.in_channels // self.groups

    @property
    def group_outputs(self) -> int:
        return self.out_channels // self.groups

    @property
    def panels(self) -> int:
        """Of a group; the last vectors overlap those before where channels do not fill them."""
        return -(-self.group_inputs // (self.lanes * self.vectors))

    @property
    def group_tiles(self) -> int:
        """Of a panel; the last overlaps the one before it."""
        return -(-self.group_outputs // self.rows)

    @property
    def tiles(self) -> int:
        """Rows of tiles, of all groups."""
        return self.groups * self.group_tiles

    @property
    def tile_elements(self) -> int:
        """Sums of one row of tiles: of all panels, and of the bias."""
        return self.rows * (self.panels * self.vectors * self.lanes + self.bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelSlots(Cut):
    """Slots, runs of pixels, are dealt out, and in each runs of rows of tiles.

    What is added to what goes by slots and pieces of pixels, which know nothing of threads.

    slots:  of pixels, whose sums are added up at the end
    pieces: pixels that are multiplied in one go
    tile_chunks: of the rows of tiles
    """

    slots: int
    pieces: int
    tile_chunks: int


def pointwise_gradient_plan(g: Geometry, machine: Machine, *, bias: bool) -> PointwiseGradientPlan:
    """g: with a window of one pixel"""
    inputs, outputs = g.in_channels // g.groups, g.output_size[0] // g.groups
    lanes = lanes_below(inputs, machine.vector_lanes)
    count = -(-inputs // lanes)
    vectors = next((n for n in (2, 3) if count % n == 0), min(count, 2))
    # Beside the sums: a row of a panel, and one number of the gradient in all lanes.
    most = (machine.vector_registers - 4) // vectors
    return PointwiseGradientPlan(
        in_channels=g.in_channels,
        out_channels=g.output_size[0],
        groups=g.groups,
        lanes=lanes,
        vectors=vectors,
        rows=-(-outputs // -(-outputs // min(most, 14))),
        bias=bias,
    )


def pixel_slots(k: PointwiseGradientPlan, g: Geometry, batch: int, machine: Machine, threads: int) -> PixelSlots:
    pixels = batch * prod(g.out_spatial)
    width = k.panels * k.vectors * k.lanes
    in_cache = machine.l2_bytes // 2 // (FLOAT_BYTES * (k.out_channels + width))
    pieces = max(_FEWEST_PIXELS, min(_MOST_PIXELS, in_cache))
    slots = max(1, min(-(-_MOST_TASKS // k.tiles), pixels // _SLOT_PIXELS))
    chunks = 1 if slots % threads == 0 else min(threads, k.tiles)
    own = -(-k.tiles // chunks) * k.rows + width
    return PixelSlots(
        threads=threads,
        scratch_elements=pieces * own,
        slots=slots,
        pieces=pieces,
        tile_chunks=chunks,
    )
