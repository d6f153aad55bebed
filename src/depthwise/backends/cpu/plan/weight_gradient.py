"""The gradient of depthwise weights: sums of taps in registers, and how images are cut into boxes that are added up."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ....geometry import Geometry
from ..machine import FLOAT_BYTES, Machine
from .boxes import covered_pixels
from .cut import Cut
from .filters import MOST_ZEROS, PixelFilters
from .sizes import lanes_below, three

# Output columns that are multiplied one after another: their gradients are in registers.
COLUMNS = 4
# So many sums side by side cover the latency of two multiply-adds at a time.
_FEWEST_SUMS = 8
# Lines side by side that come together.
MOST_PAIRED = 2
# Tasks of threads, at most: beyond the blocks of filters, slots of boxes are summed apart.
_MOST_TASKS = 64


@dataclass(frozen=True, slots=True)
class WeightGradientPlan(PixelFilters):
    """The constants of a loop nest over taps and pixels.

    tap_rows, tap_columns: of a tile of taps, whose sums are in registers
    sets: sums of each tap, which columns are added to in turn
    bias: the gradient of a bias is computed too
    """

    tap_rows: int
    tap_columns: int
    sets: int
    bias: bool

    @property
    def name(self) -> str:
        layout = "planar" if self.planar else f"p{self.pixel_stride or 0}"
        tile = f"v{self.lanes}t{self.tap_rows}x{self.tap_columns}x{self.sets}"
        return f"{self.window_name}_{tile}{'b' * self.bias}_{layout}"

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Tiles of taps along z y x; the last of a row overlaps the one before it."""
        return self.kernel[0], self.kernel[1] // self.tap_rows, -(-self.kernel[2] // self.tap_columns)

    @property
    def tile_taps(self) -> int:
        return self.tap_rows * self.tap_columns

    @property
    def fetches(self) -> bool:
        """Whether a block of filters asks for the lines of the next one: the hardware sees no row in pixels far apart.

        Where taps are one tile and near each other: each line is then asked for once. Of two blocks the CPU fetches the
        other by itself.
        """
        one_tile, near = prod(self.tiles[1:]) == 1, self.dilation[1:] == (1, 1)
        return one_tile and near and not self.planar and self.multiplier == 1 and self.blocks > MOST_PAIRED

    @property
    def block_vectors(self) -> int:
        """Vectors of sums for one block of filters: of each tile of taps, and of the bias."""
        return prod(self.tiles) * self.tile_taps + self.bias

    def sum_elements(self, slots: int) -> int:
        """Of the sums of all slots."""
        return slots * self.blocks * self.block_vectors * self.lanes

    def zero_elements(self, columns: int, distance: int) -> int:
        """How many zeros are read in the place of an input row of so many pixels, `distance` apart."""
        return columns * (self.lanes if self.planar else distance) + self.lanes if self.tap_rows > 1 else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightBoxes(Cut):
    """Slots, runs of boxes, are dealt out, and in each groups of blocks of filters.

    What is added to what goes by boxes and slots, which know nothing of threads.

    z_bands, boxes, segments, box_pixels, in_scratch: as those of Boxes
    slots:  of boxes, whose sums are added up at the end
    groups: of blocks
    """

    z_bands: int
    boxes: int
    segments: int
    box_pixels: int
    in_scratch: int
    slots: int
    groups: int


def weight_gradient_plan(
    g: Geometry, machine: Machine, *, bias: bool, planar: bool, pixel_stride: int | None, distance: int
) -> WeightGradientPlan:
    """The plan for input pixels `pixel_stride` apart or, where that is None, for such as lie `distance` apart now."""
    kernel, stride, dilation = (three(numbers, 1) for numbers in (g.kernel_size, g.stride, g.dilation))
    lanes = lanes_below(g.depthwise_channels, machine.vector_lanes)
    # Beside the sums: the gradients of some columns, and an input.
    most = machine.vector_registers - COLUMNS - 1
    rows, columns = 1, -(-kernel[2] // -(-kernel[2] // most))
    distance = lanes if planar else distance
    if kernel[2] <= most and g.input_size[-1] * distance + lanes <= MOST_ZEROS:
        rows = max(n for n in range(1, kernel[1] + 1) if kernel[1] % n == 0 and n * kernel[2] <= most)
    sets = max(1, min(COLUMNS, -(-_FEWEST_SUMS // (rows * columns)), most // (rows * columns)))
    return WeightGradientPlan(
        rank=g.rank,
        channels=g.in_channels,
        multiplier=g.depth_multiplier,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        activation=None,
        lanes=lanes,
        planar=planar,
        pixel_stride=pixel_stride,
        tap_rows=rows,
        tap_columns=columns,
        sets=sets,
        bias=bias,
    )


def weight_boxes(g: Geometry, batch: int, machine: Machine, threads: int, *, planar: bool) -> WeightBoxes:
    depth, height, width = three(g.out_spatial, 1)
    lanes = lanes_below(g.depthwise_channels, machine.vector_lanes)
    blocks = -(-g.depthwise_channels // lanes)
    # Of planes one block of filters comes to pixels; else all channels of a pixel share lines of the cache.
    inputs, outputs = (lanes, lanes) if planar else (g.in_channels, g.depthwise_channels)
    each = FLOAT_BYTES * (outputs + prod(min(s, k) for s, k in zip(g.stride, g.kernel_size, strict=True)) * inputs)
    target = max(1, machine.l2_bytes // (4 if planar else 2) // each)
    segments = max(1, round(width / target)) if width >= 2 * target else 1
    bands = height if segments > 1 else min(height, -(-height * width // target))
    z_bands = depth if bands * segments > 1 else min(depth, -(-depth * height * width // target))
    planes, rows, columns = -(-depth // z_bands), -(-height // bands), -(-width // segments)
    pixels = planes * rows * columns
    in_scratch = covered_pixels(g, (planes, rows, columns), whole=segments == 1) * lanes if planar else 0
    count = batch * z_bands * bands * segments
    slots = min(count, -(-_MOST_TASKS // blocks))
    return WeightBoxes(
        threads=threads,
        scratch_elements=in_scratch + pixels * lanes if planar else 0,
        z_bands=z_bands,
        boxes=bands * segments,
        segments=segments,
        box_pixels=pixels,
        in_scratch=in_scratch,
        slots=slots,
        groups=1 if slots % threads == 0 else min(blocks, threads),
    )
