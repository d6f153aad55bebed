"""The plan of a depthwise kernel that reads contiguous planes as they lie: vectors are columns of a row."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, prod

from ....geometry import Geometry
from ...base import Activation
from ..machine import Machine
from .cut import Cut
from .filters import MOST_ZEROS, Filters, rows_apart
from .sizes import columns_done, moved_bytes, seen, seen_outside, three, window_of
from .tuning import MOST_DIRECT, tuning_of

# A vector of columns so far apart, at most, is put together from as many vectors of neighbours.
MOST_GATHERED = 4


@dataclass(frozen=True, slots=True)
class DirectPlan(Filters):
    """The constants of a loop nest over planes.

    lanes:   columns per vector
    rows, planes: of the result, in a register tile
    edges:   columns before and after a row of the image that are seen
    weights_stay: all weights are in registers, from vector to vector
    fetches: the next planes are fetched ahead where the cut says so
    shares:  all filters of a channel go over a tile's inputs, which are in registers
    """

    lanes: int
    rows: int
    planes: int
    edges: tuple[int, int]
    weights_stay: bool
    fetches: bool
    shares: bool

    @property
    def name(self) -> str:
        tile = f"v{self.lanes}x{self.rows}z{self.planes}e{self.edges[0]}x{self.edges[1]}"
        return f"{self.window_name}_{tile}{'w' * self.weights_stay}{'f' * self.fetches}{'m' * self.shares}"

    @property
    def filters_together(self) -> int:
        return self.multiplier if self.shares else 1

    def zero_elements(self, width: int) -> int:
        """How many zeros a tile may read in the place of an input row of `width` pixels."""
        # Without padding before or after, longer rows are never outside: see runs_direct.
        return min(width, MOST_ZEROS) if self.rank > 1 else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Planes(Cut):
    """Rows of all planes are dealt out one by one.

    fetch_planes: 1 where the planes that come next are fetched ahead, or 0
    """

    fetch_planes: int


def direct_plan(g: Geometry, activation: Activation, machine: Machine) -> DirectPlan:
    kernel, stride, dilation = window_of(g)
    tuning, taps, depth = tuning_of(machine), prod(kernel), three(g.out_spatial, 1)[0]
    # Two planes, where they share input planes and little is done twice.
    is_paired = dilation[0] == 1 and stride[0] < kernel[0] and depth > 1 and depth % 2 * 10 <= depth
    planes, rows = 1, next(rows for most, rows in tuning.direct_rows.items() if taps <= most)
    if is_paired:
        planes, rows = 2, tuning.paired_rows
    height = -(-three(g.out_spatial, 1)[1] // rows_apart(stride, dilation))
    rows = min(range(rows, rows // 2, -1), key=lambda some: columns_done(height, (some,)) if height >= some else inf)
    if shares := g.depth_multiplier > 1 and stride[2] > 2:
        planes = rows = 1
    return DirectPlan(
        rank=g.rank,
        channels=g.in_channels,
        multiplier=g.depth_multiplier,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        activation=activation,
        lanes=machine.vector_lanes,
        rows=rows,
        planes=planes,
        edges=seen_outside(g),
        # Beside weights and sums a register for an input and one to spare.
        weights_stay=taps + planes * rows + 2 <= machine.vector_registers and not shares,
        # Rows taken one after another the hardware fetches ahead itself.
        fetches=(stride[1] > 1 or dilation[1] > 1 or is_paired) and not shares,
        shares=shares,
    )


def planes_cut(g: Geometry, batch: int, machine: Machine, threads: int) -> Planes:
    is_far = moved_bytes(g, batch) > tuning_of(machine).far_planes * machine.l2_bytes
    return Planes(threads=threads, fetch_planes=int(is_far))


def runs_direct(g: Geometry, machine: Machine) -> bool:
    """Whether a contiguous depthwise convolution is computed from planes as they lie."""
    reach = (g.kernel_size[-1] - 1) * g.dilation[-1]
    width, lanes, edges = g.out_spatial[-1], machine.vector_lanes, seen_outside(g)
    # The first and the last tile of a row have each but one edge, narrower than a vector.
    is_long = width >= lanes + reach
    has_edges = max(edges) <= min(reach, lanes - 1)
    # Those between have none, wherever they overlap others: under more than "same" padding a short row has no place.
    has_inside = width <= 2 * lanes or width - lanes >= sum(-(-edge // g.stride[-1]) for edge in edges)
    is_read_whole = g.input_size[-1] <= MOST_ZEROS or not any(map(any, g.padding[:-1]))
    if not (is_long and has_edges and has_inside and is_read_whole):
        return False
    return g.out_channels is None and _fills_vectors(g, machine)


def _fills_vectors(g: Geometry, machine: Machine) -> bool:
    taps, width, stride = prod(g.kernel_size), g.out_spatial[-1], g.stride[-1]
    tuning = tuning_of(machine)
    # Those of all filters of a channel at once, in registers beside a sum, a weight and one to spare.
    most = tuning.gathered_taps if g.depth_multiplier == 1 else min(tuning.gathered_taps, machine.vector_registers - 3)
    gathers = taps <= most and stride <= MOST_GATHERED
    is_short = stride == 1 or g.kernel_size[-1] <= tuning.gathered_columns
    if taps > MOST_DIRECT or (stride > 2 and not gathers) or not is_short:
        return False
    least = next(shares[min(stride, 2) - 1] for most, shares in tuning.direct_shares.items() if taps <= most)
    if seen(g.kernel_size[-1], stride, g.dilation[-1]) < min(g.kernel_size[-1], stride):
        least = min(least, tuning.skipping_share)
    return width >= least * columns_done(width, (machine.vector_lanes,))
