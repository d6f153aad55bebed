"""The gradient of pointwise weights: register tiles of it, and how pixels are cut into slots that are added up.

A tile is some *rows*, channels of one side of the convolution, by *columns*, vectors of channels of the other side.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ....geometry import Geometry
from ..machine import FLOAT_BYTES, Machine
from .constants import Plan
from .cut import Cut
from .sizes import LINE_ELEMENTS, lanes_below, moved_bytes

# Pixels whose products are added up in registers before the sums go to memory, at most and at least.
_MOST_PIXELS, _FEWEST_PIXELS = 128, 32
# Times that numbers are used, at most, for which bringing them together is not worth it.
_MOST_DIRECT = 4
# Of one pixel's numbers: cycles to bring a vector of columns, or of rows, to scratch memory.
_PACKING_COLUMNS, _PACKING_ROWS = 3, 4
# Fewer pixels than these are not worth sums of their own, and more tasks than these are not needed.
_SLOT_PIXELS, _MOST_TASKS = 1024, 16


@dataclass(frozen=True, slots=True)
class PointwiseGradientPlan(Plan):
    """The constants of a loop nest: (row channels, pixels) x (pixels, column channels) in each group.

    lanes, vectors: of a panel of columns
    rows:           of a register tile
    bias:           the gradient of a bias is computed too; not where it is turned
    turned:         rows are input channels, and columns output channels; else the other way round
    fetches:        the next piece's pixels are asked for while one is multiplied
    """

    in_channels: int
    out_channels: int
    groups: int
    lanes: int
    vectors: int
    rows: int
    bias: bool
    turned: bool
    fetches: bool

    @property
    def name(self) -> str:
        size = f"n{self.out_channels}k{self.in_channels}g{self.groups}"
        return (
            f"{size}_m{self.rows}x{self.vectors}v{self.lanes}{'t' * self.turned}{'f' * self.fetches}{'b' * self.bias}"
        )

    @property
    def group_inputs(self) -> int:
        return self.in_channels // self.groups

    @property
    def row_channels(self) -> int:
        return self.in_channels if self.turned else self.out_channels

    @property
    def column_channels(self) -> int:
        return self.out_channels if self.turned else self.in_channels

    @property
    def group_rows(self) -> int:
        return self.row_channels // self.groups

    @property
    def group_columns(self) -> int:
        return self.column_channels // self.groups

    @property
    def panels(self) -> int:
        """Of a group; the last vectors overlap those before where channels do not fill them."""
        return -(-self.group_columns // (self.lanes * self.vectors))

    @property
    def group_tiles(self) -> int:
        """Of a panel; the last overlaps the one before it."""
        return -(-self.group_rows // self.rows)

    @property
    def packs_rows(self) -> bool:
        """Whether those of a tile are brought together; else they are read where they lie, as columns are."""
        return self.panels > _MOST_DIRECT

    @property
    def packs_columns(self) -> bool:
        return self.group_tiles > _MOST_DIRECT

    @property
    def fetching_panels(self) -> int:
        """The first ones of a piece, as many as are multiplied while every pixel asks for a line of either side."""
        lines = -(-max(self.group_rows, self.group_columns) // LINE_ELEMENTS)
        return min(self.panels, -(-lines // self.group_tiles)) if self.fetches else 0

    @property
    def cost(self) -> int:
        """Multiply-adds of vectors for each pixel, and what it takes to bring numbers together."""
        columns = self.panels * self.vectors
        packing = _PACKING_COLUMNS * columns * self.packs_columns + _PACKING_ROWS * self.group_tiles * self.packs_rows
        return columns * self.group_tiles * self.rows + packing

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


def pointwise_gradient_plan(
    g: Geometry, batch: int, machine: Machine, *, bias: bool, may_turn: bool = True
) -> PointwiseGradientPlan:
    """g: with a window of one pixel"""
    choices = (False, True) if may_turn and not bias else (False,)
    return min((_plan(g, batch, machine, bias=bias, turned=turned) for turned in choices), key=lambda plan: plan.cost)


def _plan(g: Geometry, batch: int, machine: Machine, *, bias: bool, turned: bool) -> PointwiseGradientPlan:
    columns, rows = g.in_channels // g.groups, g.output_size[0] // g.groups
    if turned:
        columns, rows = rows, columns
    lanes = lanes_below(columns, machine.vector_lanes)
    count = -(-columns // lanes)
    vectors = next((n for n in (2, 3) if count % n == 0), min(count, 2))
    # Beside the sums: a row of a panel, and one number in all lanes.
    most = min((machine.vector_registers - 4) // vectors, 14)
    return PointwiseGradientPlan(
        in_channels=g.in_channels,
        out_channels=g.output_size[0],
        groups=g.groups,
        lanes=lanes,
        vectors=vectors,
        rows=-(-rows // -(-rows // most)),
        bias=bias,
        turned=turned,
        fetches=g.groups == 1 and moved_bytes(g, batch) > machine.l2_bytes,
    )


def pixel_slots(
    k: PointwiseGradientPlan, g: Geometry, batch: int, machine: Machine, threads: int, slots: int = 0
) -> PixelSlots:
    """slots: so many; 0: as many as are of use"""
    pixels = batch * prod(g.out_spatial)
    width = k.panels * k.vectors * k.lanes
    in_cache = machine.l2_bytes // 2 // (FLOAT_BYTES * (k.row_channels + width))
    pieces = max(_FEWEST_PIXELS, min(_MOST_PIXELS, in_cache))
    slots = slots or max(1, min(-(-_MOST_TASKS // k.tiles), pixels // _SLOT_PIXELS))
    chunks = 1 if slots % threads == 0 else min(threads, k.tiles)
    own = -(-k.tiles // chunks) * k.rows * k.packs_rows + width * k.packs_columns
    return PixelSlots(
        threads=threads,
        scratch_elements=pieces * own,
        slots=slots,
        pieces=pieces,
        tile_chunks=chunks,
    )
