"""The plan of a depthwise kernel over padded copies of the rows of planes: few channels under windows of many taps."""

from __future__ import annotations

from dataclasses import dataclass

from ....geometry import Geometry
from ...base import Activation
from ..machine import FLOAT_BYTES, Machine
from .cut import Cut
from .direct import MOST_GATHERED
from .filters import Filters
from .sizes import three, window_of

# Vectors side by side, as many as keep two units for multiply-adds busy, and the most filters that share them.
VECTORS, MOST_FILTERS = 8, 3
# Vectors of a segment of a row, at least, unless threads would be idle.
FEWEST_VECTORS = 32
# Fewer taps are not worth the copy, nor more channels of pixels, whose numbers are copied one by one.
FEWEST_TAPS, FEWEST_TAPS_OF_PIXELS, MOST_OF_PIXELS = 16, 48, 3


@dataclass(frozen=True, slots=True)
class PaddedPlan(Filters):
    """The constants of a loop nest over padded rows.

    lanes:         columns per vector
    rows, vectors: register tiles are of so many rows x so many vectors of the result
    together:      filters of a channel that go over a tile's inputs at a time
    pixels:        input and result are channels-last, else planes
    """

    lanes: int
    rows: int
    vectors: int
    together: int
    pixels: bool

    @property
    def name(self) -> str:
        return f"{self.window_name}_v{self.lanes}x{self.rows}x{self.vectors}f{self.together}{'p' * self.pixels}"

    @property
    def before(self) -> int:
        """Columns of a padded row, or of each of its phases, before the one under the last tap of the first window."""
        return (self.kernel[2] - 1) * self.dilation[2] // self.stride[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedBands(Cut):
    """Planes are dealt out, in each bands of rows of the result, and in these segments of their columns.

    bands, segments: whose padded input rows stay in L2 while all filters of the channel go over them
    row_elements:    of a padded row of a segment, or of each of its phases
    """

    bands: int
    segments: int
    row_elements: int


def padded_plan(g: Geometry, activation: Activation, machine: Machine, *, pixels: bool) -> PaddedPlan:
    kernel, stride, dilation = window_of(g)
    columns = -(-g.out_spatial[-1] // machine.vector_lanes)
    together = next(n for n in (MOST_FILTERS, 2, 1) if g.depth_multiplier % n == 0)
    # Beside the sums a register for an input and one for each weight.
    most = min(VECTORS, (machine.vector_registers - 1 - together) // together)
    vectors = -(-columns // -(-columns // most))
    # As many rows as there are: others would be done twice.
    rows = min(most // vectors, three(g.out_spatial, 1)[1])
    return PaddedPlan(
        rank=g.rank,
        channels=g.in_channels,
        multiplier=g.depth_multiplier,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        activation=activation,
        lanes=machine.vector_lanes,
        rows=rows,
        vectors=vectors,
        together=together,
        pixels=pixels,
    )


def padded_cut(g: Geometry, batch: int, machine: Machine, threads: int, plan: PaddedPlan) -> PaddedBands:
    height, width = three(g.out_spatial, 1)[1:]
    _, step, phases = plan.stride
    reach = (plan.kernel[1] - 1) * plan.dilation[1] + 1
    most = machine.l2_bytes // 2 // FLOAT_BYTES
    planes = max(1, batch * g.in_channels)
    # Neighbours copy what both see: not more than about half of what each does.
    widest = max(plan.before, FEWEST_VECTORS * plan.lanes, most // (reach * phases) - plan.before)
    segments = min(width // plan.lanes, max(-(-width // widest), -(-threads // (planes * height))))
    row_elements = -(-width // segments) + plan.before + plan.lanes
    tallest = max(-(-reach // step), plan.rows, (most // (row_elements * phases) - reach) // step + 1)
    bands = max(-(-height // tallest), min(height, -(-threads // (planes * segments))))
    rows = (-(-height // bands) - 1) * step + reach
    return PaddedBands(
        threads=threads,
        bands=bands,
        segments=segments,
        row_elements=row_elements,
        scratch_elements=rows * phases * row_elements,
    )


def runs_padded(g: Geometry, machine: Machine, *, pixels: bool) -> bool:
    """Whether a depthwise convolution is computed from padded copies of the rows of its planes.

    Else channels are lanes, which so few do not fill.
    """
    alone, long = g.out_channels is None and g.rank < 3, g.out_spatial[-1] >= machine.vector_lanes
    if pixels:
        are_few = MOST_OF_PIXELS * g.in_channels < machine.vector_lanes and g.stride[-1] <= 2
        return alone and long and are_few and g.kernel_area >= FEWEST_TAPS_OF_PIXELS
    # As many as half a vector's lanes fill vectors of half the width.
    fill_half = g.depthwise_channels == machine.vector_lanes // 2 and g.depth_multiplier == 1
    are_few = g.depthwise_channels < machine.vector_lanes and g.stride[-1] <= MOST_GATHERED and not fill_half
    return alone and long and are_few and g.kernel_area >= FEWEST_TAPS
