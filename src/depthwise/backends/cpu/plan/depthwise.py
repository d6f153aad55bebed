"""The plan of a depthwise kernel over pixels: tiles, what is written out, what is fetched."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from ....geometry import Geometry
from ...base import Activation
from ..machine import FLOAT_BYTES, Machine
from .filters import MOST_ZEROS, PixelFilters
from .lanes import pixel_lanes
from .sizes import Axes, columns_done, fetches_next, lanes_below, moved_bytes, seen_outside, three, window_of
from .tuning import tuning_of

# Taps of a kernel, at most, that are written out one after another.
MOST_UNROLLED = 9
# Of longer rows than registers have room for, so many taps at a time.
TAPS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class DepthwisePlan(PixelFilters):
    """The constants of a depthwise loop nest.

    columns: output columns per register tile, and those for rows that are too short for so many
    evenly:  tiles have as many `columns` as leave the fewest of a row done twice, and look at their edges: those of at
             most "same" padding
    dilated_columns: the same for tiles of columns a dilation apart, which share inputs; () where there are none
    taps:    columns of the kernel written out one after another; longer kernels loop
    rows_unrolled: the rows of the kernel are written out too
    strip_blocks: blocks of filters that a strip of rows does together
    fetches: the input of later rows, or of the next block of a sequence, is fetched ahead where the cut says so
    fetches_out: the place of later rows' result too
    to_planes: the results of a sequence whose pixels lie together go to planes from registers
    summed:  the sums of each row of the result are left beside it
    """

    columns: tuple[int, ...]
    evenly: bool
    dilated_columns: tuple[int, ...]
    taps: int
    rows_unrolled: bool
    strip_blocks: int
    fetches: bool
    fetches_out: bool
    to_planes: bool
    summed: bool = False

    @property
    def name(self) -> str:
        layout = "_planar" if self.planar else f"p{self.pixel_stride or 0}"
        tile = "x".join(map(str, (f"v{self.lanes}", *self.columns)))
        tile += "e" * self.evenly + "".join(f"d{n}" for n in self.dilated_columns)
        flags = f"{'f' * self.fetches}{'o' * self.fetches_out}{'r' * self.to_planes}{'s' * self.summed}"
        nest = f"t{self.taps}{'u' * self.rows_unrolled}b{self.strip_blocks}{flags}"
        return f"{self.window_name}_{tile}{nest}{layout}"

    @property
    def sum_elements(self) -> int:
        """Of the sums of a row: blocks one after another."""
        return self.blocks * self.lanes

    def zero_elements(self, distance: int) -> int:
        """How many zeros a tile may read in the place of an input row of pixels that lie `distance` apart."""
        if self.rank != 2 or not self.rows_unrolled:
            return 0
        outputs = max([self.columns[0], *((n - 1) * self.dilation[2] + 1 for n in self.dilated_columns)])
        columns = (outputs - 1) * self.stride[2] + (self.kernel[2] - 1) * self.dilation[2] + 1
        distance = self.lanes if self.planar else self.pixel_stride or distance
        return (columns - 1) * distance + (self.lanes if self.planar else self.channels)


def depthwise_plan(
    g: Geometry, activation: Activation, machine: Machine, *, planar: bool, pixel_stride: int | None, distance: int = 1
) -> DepthwisePlan:
    """The plan for pixels `pixel_stride` apart or, where that is None, for such as lie `distance` apart now."""
    kernel, stride, dilation = window_of(g)
    tuning = tuning_of(machine)
    # Planes are transposed in squares of whole vectors.
    lanes = lanes_below(g.depthwise_channels, machine.vector_lanes) if planar else pixel_lanes(g, machine)
    columns, width = _columns(kernel, machine), g.out_spatial[-1]
    if is_one_tile := kernel[2] > TAPS_AT_ONCE and width == columns[-1]:
        columns = (width,)
    # Input columns under a tile. Where neighbours share few of them, columns a dilation apart, which do, go together.
    under = (columns[0] - 1) * stride[2] + (kernel[2] - 1) * dilation[2] + 1
    shares_few = stride[2] == 1 < min(dilation[2], kernel[2]) and under * 3 > columns[0] * kernel[2] * 2
    apart = shares_few and width >= columns[-1]
    if apart:
        under = tuning.dilated_columns[0] + kernel[2] - 1
    square = tuning.columns_to_planes
    is_sequence = g.rank == 1 and g.out_channels is None and not planar
    to_planes = is_sequence and g.out_spatial[0] >= square and not apart
    even = () if apart or to_planes else _even_columns(g, columns, machine)
    columns = (square,) if to_planes else even or columns
    # Where half of a row's taps are outside the image, loops leave them out; with many tiles it would be much code.
    whole = (kernel[2] * 3 <= width * 5 or is_one_tile) and (not apart or kernel[2] <= MOST_UNROLLED)
    taps = _taps(kernel[2], _weights(columns[0], machine), whole=whole)
    few_taps = kernel[2] <= taps and g.rank < 3 and prod(kernel) <= MOST_UNROLLED
    k = DepthwisePlan(
        rank=g.rank,
        channels=g.in_channels,
        multiplier=g.depth_multiplier,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        activation=activation,
        lanes=lanes,
        columns=columns,
        evenly=bool(even),
        dilated_columns=tuning.dilated_columns if apart else (),
        taps=taps,
        # Tiles that look at their edges are of small images, and loops leave out the rows outside these.
        rows_unrolled=few_taps and not even,
        strip_blocks=_strip_blocks(g, under, lanes, machine),
        fetches=not planar and not fetches_next(g, machine),
        fetches_out=g.rank > 1 and not planar and g.out_channels is None,
        planar=planar,
        to_planes=to_planes,
        pixel_stride=pixel_stride,
    )
    # Loops leave rows outside out, and read no zeros.
    return k if k.zero_elements(distance) <= MOST_ZEROS else replace(k, rows_unrolled=False)


def reads_in_order(g: Geometry, batch: int, machine: Machine) -> bool:
    """Whether pixels from beyond L2 are read in their order, channels and columns: windows share none of them."""
    windows = zip(g.kernel_size, g.stride, g.dilation, strict=True)
    shares_none = g.rank > 1 and all((n - 1) * d < s for n, s, d in windows)
    is_far = moved_bytes(g, batch) > machine.l2_bytes
    return shares_none and is_far and tuning_of(machine).patch_lanes > 0 and g.depth_multiplier == 1


def in_order(d: DepthwisePlan, machine: Machine) -> DepthwisePlan:
    """The same with few columns and many channels in a tile, whose next ones the hardware fetches ahead."""
    lanes = d.lanes
    while lanes < tuning_of(machine).patch_lanes and d.filters % (2 * lanes) == 0:
        lanes *= 2
    columns = (2,) if d.filters > machine.vector_lanes else d.columns
    return replace(
        d,
        lanes=lanes,
        columns=columns,
        evenly=False,
        dilated_columns=(),
        strip_blocks=-(-d.filters // lanes),
        fetches=False,
        fetches_out=False,
    )


def _strip_blocks(g: Geometry, under: int, lanes: int, machine: Machine) -> int:
    """Blocks of filters whose weights, and `under` columns of the input rows, fit in L1, shared out evenly."""
    kernel = three(g.kernel_size, 1)
    block_bytes = (prod(kernel) + kernel[0] * kernel[1] * under) * lanes * FLOAT_BYTES
    blocks, most = -(-g.depthwise_channels // lanes), max(1, machine.l1_bytes * 3 // 4 // block_bytes)
    return -(-blocks // -(-blocks // most))


def _columns(kernel: Axes, machine: Machine) -> tuple[int, ...]:
    """Output columns of a tile, and of tiles for shorter rows."""
    few, many = tuning_of(machine).few_taps, tuning_of(machine).many_taps
    if prod(kernel) <= MOST_UNROLLED:
        return few
    for columns in many:
        if kernel[2] <= _weights(columns[0], machine):
            return columns
    # Where a tile is wider than the padding, its edges are looked at column by column: _stairs in tile.py.
    return next((columns for columns in many if (kernel[2] - 1) // 2 >= columns[0] - 1), many[0])


def usual_edges(reach: int) -> tuple[int, int]:
    """How many columns before and after a row of the image windows see under "same" padding, given their reach."""
    return reach // 2, reach - reach // 2


def _even_columns(g: Geometry, usual: tuple[int, ...], machine: Machine) -> tuple[int, ...]:
    """Columns of tiles that divide a row more evenly than the usual ones, () where they are not worth a kernel.

    With the usual ones a row of 5 is done column by column, and one of 10 as twice 7.
    """
    width, even = g.out_spatial[-1], tuple(range(usual[-1] - 1, tuning_of(machine).fewest_columns - 1, -1))
    reach = (g.kernel_size[-1] - 1) * g.dilation[-1]
    if any(own > most for own, most in zip(seen_outside(g), usual_edges(reach), strict=True)):
        return ()
    if width < usual[-1]:
        return even
    # Of a separable one's time the depthwise step is too little.
    has_room = g.out_channels is None and g.kernel_size[-1] <= _weights(usual[0], machine)
    return even if has_room and columns_done(width, even) * 10 <= columns_done(width, usual) * 9 else ()


def _weights(columns: int, machine: Machine) -> int:
    """Registers left for weights beside the sums of so many columns, an input and one to spare."""
    return machine.vector_registers - columns - 2


def _taps(kernel_columns: int, registers: int, *, whole: bool) -> int:
    """Taps of a kernel's row whose weights stay in registers: of `whole` rows all, where there is room for so many."""
    some = max(4, min(registers, TAPS_AT_ONCE))
    return kernel_columns if whole and kernel_columns <= registers else min(kernel_columns, some)
