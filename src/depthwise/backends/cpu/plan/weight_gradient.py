"""The gradient of depthwise weights: sums of taps in registers, and how images are cut into boxes that are added up."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ....geometry import Geometry
from ..machine import FLOAT_BYTES, Machine
from .boxes import covered_pixels
from .cut import Cut
from .filters import MOST_ZEROS, PixelFilters
from .sizes import Axes, lanes_below, moved_bytes, three, window_of

# Output columns that are multiplied one after another: their gradients are in registers.
COLUMNS = 4
# So many sums side by side cover the latency of two multiply-adds at a time.
_FEWEST_SUMS = 8
# Lines side by side that come together.
PAIRED = 2
# Tasks of threads, at most: beyond the blocks of filters, slots of boxes are summed apart.
_MOST_TASKS = 64


@dataclass(frozen=True, slots=True)
class WeightGradientPlan(PixelFilters):
    """The constants of a loop nest over taps and pixels.

    tap_rows, tap_columns: of a tile of taps, whose sums are in registers
    vectors: blocks of filters side by side, a *bundle*, whose lines come from L2 together
    sets: sums of each tap, which columns are added to in turn
    keeps: rows of inputs that the next row of outputs sees too stay in registers
    fetches: a bundle asks for the lines of the next one: the hardware sees no row in pixels far apart
    bias: the gradient of a bias is computed too
    """

    tap_rows: int
    tap_columns: int
    vectors: int
    sets: int
    keeps: bool
    fetches: bool
    bias: bool

    @property
    def name(self) -> str:
        layout = "planar" if self.planar else f"p{self.pixel_stride or 0}"
        tile = f"v{self.lanes}t{self.tap_rows}x{self.tap_columns}x{self.sets}v{self.vectors}"
        return f"{self.window_name}_{tile}{'k' * self.keeps}{'f' * self.fetches}{'b' * self.bias}_{layout}"

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Tiles of taps along z y x; the last of a row overlaps the one before it."""
        return self.kernel[0], self.kernel[1] // self.tap_rows, -(-self.kernel[2] // self.tap_columns)

    @property
    def tile_taps(self) -> int:
        return self.tap_rows * self.tap_columns

    @property
    def goes_down(self) -> bool:
        """Whether a tile goes down the rows of a few columns: one of taps of all rows, so that inputs stay in L1."""
        return self.tap_rows == self.kernel[1] > 1

    @property
    def bundles(self) -> int:
        return self.blocks // self.vectors

    def place(self, vector: int, column: int, ky: int, kx: int) -> int:
        """Of a sum in a tile's."""
        own = vector * self.sets + column % self.sets
        return (own * self.tap_rows + ky) * self.tap_columns + kx

    @property
    def kept_rows(self) -> int:
        return self.kernel[1] - 1 if self.keeps else 0

    @property
    def columns_apart(self) -> int:
        """As rows_apart, of a tile that goes down."""
        return self.dilation[2] if self.goes_down and self.stride[2] == 1 else 1

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
    g: Geometry, batch: int, machine: Machine, *, bias: bool, planar: bool, pixel_stride: int | None, distance: int
) -> WeightGradientPlan:
    """The plan for input pixels `pixel_stride` apart or, where that is None, for such as lie `distance` apart now."""
    kernel, stride, dilation = window_of(g)
    lanes = lanes_below(g.depthwise_channels, machine.vector_lanes)
    blocks = -(-g.depthwise_channels // lanes)
    # Beside the sums: the gradients of some columns, and an input.
    most = machine.vector_registers - COLUMNS - 1
    rows, columns = 1, -(-kernel[2] // -(-kernel[2] // most))
    distance = lanes if planar else distance
    if kernel[2] <= most and g.input_size[-1] * distance + lanes <= MOST_ZEROS:
        rows = max(n for n in range(1, kernel[1] + 1) if kernel[1] % n == 0 and n * kernel[2] <= most)
    keeps = rows == kernel[1] and _can_keep(kernel, stride, dilation, machine)
    is_paired = not keeps and not planar and g.depth_multiplier == 1 and blocks % PAIRED == 0
    vectors = PAIRED if is_paired and PAIRED * rows * columns <= most else 1
    sums = vectors * rows * columns
    one_tile, near = columns == kernel[2] and rows == kernel[1], dilation[1:] == (1, 1)
    # Each line is then asked for once. Of two blocks the CPU fetches the other by itself.
    fetches = one_tile and near and not planar and g.depth_multiplier == 1 and blocks > PAIRED
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
        vectors=vectors,
        sets=max(1, min(COLUMNS, -(-_FEWEST_SUMS // sums), most // sums)),
        keeps=keeps,
        fetches=fetches and moved_bytes(g, batch) > machine.l2_bytes,
        bias=bias,
    )


def _can_keep(kernel: Axes, stride: Axes, dilation: Axes, machine: Machine) -> bool:
    """Whether rows of inputs that the next row of outputs sees too fit in registers, beside one that it does not."""
    apart = dilation[2] if stride[2] == 1 else 1
    positions = {i * apart * stride[2] + tap * dilation[2] for i in range(COLUMNS) for tap in range(kernel[2])}
    registers = kernel[1] * (kernel[2] + len(positions))
    return kernel[1] > stride[1] == 1 and registers <= machine.vector_registers - COLUMNS


def weight_boxes(k: WeightGradientPlan, g: Geometry, batch: int, machine: Machine, threads: int) -> WeightBoxes:
    depth, height, width = three(g.out_spatial, 1)
    lanes, planar = k.lanes, k.planar
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
    slots = min(count, -(-_MOST_TASKS // k.blocks))
    return WeightBoxes(
        threads=threads,
        scratch_elements=in_scratch + pixels * lanes if planar else 0,
        z_bands=z_bands,
        boxes=bands * segments,
        segments=segments,
        box_pixels=pixels,
        in_scratch=in_scratch,
        slots=slots,
        groups=1 if slots % threads == 0 else min(k.bundles, threads),
    )
