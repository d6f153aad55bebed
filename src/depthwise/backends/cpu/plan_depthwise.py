"""The plan of a depthwise kernel: tiles, what is written out, what is fetched."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd, inf, prod

from ...geometry import Geometry
from ..base import Activation
from .machine import FLOAT_BYTES, Machine
from .plan import LINE_ELEMENTS, Axes, activation_name, fetches_next, lanes_below, three

# For few taps and for many: a sum is one chain of multiply-adds, and long chains need more of them side by side. For
# many there are choices, the widest first: see _columns.
COLUMNS: dict[str, tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]] = {
    "avx512": ((7,), ((14, 7), (7,))),
    "avx2": ((6,), ((6,), (5,))),
    "neon": ((7,), ((14, 7), (7,))),
}
# Of the tiles that divide a row evenly.
FEWEST_COLUMNS = 3
# Of a sequence whose results are transposed in registers: whole squares of vectors.
COLUMNS_TO_PLANES = {"avx512": 16, "avx2": 8, "neon": 8}
# Where columns lie a dilation apart: from 4 columns on, with one of these at most a sixth more is computed.
DILATED_COLUMNS = (6, 5, 4)
# Of an L1 cache of 8 ways, half of which are left to the input.
L1_SETS, MOST_TAPS_A_SET = 64, 4
# Taps of a kernel, at most, for vectors of columns.
MOST_DIRECT = 27
# Rows of such a tile by the most taps: 64x8x28x28, 3x3x3, took 7 % less time with 7 rows on AVX-512 and 9 % on AVX2, on
# AVX2 kernels of 16 taps 9 % more (AMD EPYC, Zen 4, 1 thread, 2026-11-28).
DIRECT_ROWS = {25: 4, MOST_DIRECT: 7}
# Rows of a tile of two planes: they read four planes, not six, for 3x3x3. Volumes of 28 to 112 columns took 3 to 42 %
# less time than by planes of 7 rows, with stride 1x2x2 up to 25 %, on AVX2 up to 29 % (AMD EPYC, Zen 4, 1 thread,
# 2026-11-28).
PAIRED_ROWS = 4
# Planes are read as they lie where columns fill at least such a share of the lanes of a row's vectors: by the most
# taps, for strides 1 and 2. Else pixels in boxes (planar.py) take less time: 128x20x20 to 128x40x40, 5x5, 3 to 28 %
# less, with stride 2 up to 40, 64x8x20x20, 3x3x3, 47 %, with stride 2 55 (AMD EPYC, Zen 4, 1 thread, 2026-11-28).
DIRECT_SHARES = {
    "avx512": {9: (0.6, 0.7), 25: (0.85, 0.95), MOST_DIRECT: (0.7, 0.8)},
    "avx2": {9: (0.6, 0.85), 25: (inf, inf), MOST_DIRECT: (0.95, inf)},
    "neon": {9: (0.6, 0.7), 25: (0.85, 0.95), MOST_DIRECT: (0.7, 0.8)},
}
# Taps of a kernel, at most, that are written out one after another.
MOST_UNROLLED = 9
# Of longer rows than registers have room for, so many taps at a time.
TAPS_AT_ONCE = 8
# Numbers that are read in the place of a row outside the image: 4 MiB.
MOST_ZEROS = 1 << 20


@dataclass(frozen=True, slots=True)
class DepthwiseKernel:
    """The constants of a depthwise loop nest.

    lanes:   output channels per vector
    columns: output columns per register tile, and those for rows that are too short for so many
    evenly:  tiles have as many `columns` as leave the fewest of a row done twice, and look at their edges: those of at
             most "same" padding
    dilated_columns: the same for tiles of columns a dilation apart, which share inputs; () where there are none
    taps:    columns of the kernel written out one after another; longer kernels loop
    rows_unrolled: the rows of the kernel are written out too; of planes, all weights stay in registers
    strip_blocks: blocks of filters that a strip of rows does together
    fetches: the input of later rows, of the next block of a sequence, or the next plane (planes.py), is fetched ahead
             where the schedule says so
    fetches_out: the place of later rows' result too
    planar:  the input is contiguous, one plane per channel
    to_planes: the results of a sequence whose pixels lie together go to planes from registers
    edges:   and read as it lies (planes.py): vectors are columns, `columns` the rows of a tile, and so many columns
             before and after a row are seen outside the image; None: not so
    planes:  of the result that such a tile has these rows of
    pixel_stride: elements from one input pixel to the next; None where it is a slot
    """

    rank: int
    channels: int
    multiplier: int
    kernel: Axes
    stride: Axes
    dilation: Axes
    activation: Activation
    lanes: int
    columns: tuple[int, ...]
    evenly: bool
    dilated_columns: tuple[int, ...]
    taps: int
    rows_unrolled: bool
    strip_blocks: int
    fetches: bool
    fetches_out: bool
    planar: bool
    to_planes: bool
    edges: tuple[int, int] | None
    planes: int
    pixel_stride: int | None

    @property
    def name(self) -> str:
        extents = "x".join(map(str, self.kernel[3 - self.rank :]))
        layout = "_planar" if self.planar else f"p{self.pixel_stride or 0}"
        if self.edges is not None:
            layout += f"e{self.edges[0]}x{self.edges[1]}"
        if self.planes > 1:
            layout += f"z{self.planes}"
        window = f"k{extents}_s{_digits(self.stride)}_d{_digits(self.dilation)}_c{self.channels}m{self.multiplier}"
        tile = "x".join(map(str, (f"v{self.lanes}", *self.columns)))
        tile += "e" * self.evenly + "".join(f"d{n}" for n in self.dilated_columns)
        flags = f"{'f' * self.fetches}{'o' * self.fetches_out}{'r' * self.to_planes}"
        nest = f"t{self.taps}{'u' * self.rows_unrolled}b{self.strip_blocks}{flags}"
        return f"{window}_{activation_name(self.activation)}_{tile}{nest}{layout}"

    @property
    def filters(self) -> int:
        return self.channels * self.multiplier

    @property
    def tap_stride(self) -> int:
        return tap_stride(self.filters, prod(self.kernel))

    @property
    def rows_apart(self) -> int:
        """How far apart output rows are that share input rows: a dilated kernel is a plain one on rows so far apart."""
        return self.dilation[1] if self.stride[1] == 1 else 1

    @property
    def blocks(self) -> int:
        return -(-self.filters // self.lanes)

    def zero_elements(self, distance: int, width: int) -> int:
        """How many zeros a tile may read in the place of an input row of `width` pixels that lie `distance` apart."""
        if self.edges is not None:
            # Without padding before or after, longer rows are never outside: see runs_direct.
            return min(width, MOST_ZEROS) if self.rank > 1 else 0
        if self.rank != 2 or not self.rows_unrolled:
            return 0
        outputs = max([self.columns[0], *((n - 1) * self.dilation[2] + 1 for n in self.dilated_columns)])
        columns = (outputs - 1) * self.stride[2] + (self.kernel[2] - 1) * self.dilation[2] + 1
        distance = self.lanes if self.planar else self.pixel_stride or distance
        return (columns - 1) * distance + (self.lanes if self.planar else self.channels)


def depthwise_kernel(
    g: Geometry, activation: Activation, machine: Machine, *, planar: bool, pixel_stride: int | None, distance: int = 1
) -> DepthwiseKernel:
    """The kernel for pixels `pixel_stride` apart or, where that is None, for such as lie `distance` apart now."""
    kernel, stride, dilation = (three(numbers, 1) for numbers in (g.kernel_size, g.stride, g.dilation))
    lanes, multiplier = lanes_below(g.depthwise_channels, machine.vector_lanes), g.depth_multiplier
    # A multiplier that does not go with the lanes takes its input lane by lane: much code for each load.
    gathers = not planar and lanes % multiplier != 0 and multiplier % lanes != 0
    columns, width = (2,) if gathers else _columns(kernel, machine), g.out_spatial[-1]
    if is_one_tile := kernel[2] > TAPS_AT_ONCE and width == columns[-1]:
        columns = (width,)
    # Input columns under a tile. Where neighbours share few of them, columns a dilation apart, which do, go together.
    under = (columns[0] - 1) * stride[2] + (kernel[2] - 1) * dilation[2] + 1
    shares_few = stride[2] == 1 < min(dilation[2], kernel[2]) and under * 3 > columns[0] * kernel[2] * 2
    apart = shares_few and not (gathers or width < columns[-1])
    if apart:
        under = DILATED_COLUMNS[0] + kernel[2] - 1
    square = COLUMNS_TO_PLANES[machine.isa]
    is_sequence = g.rank == 1 and g.out_channels is None and not planar
    to_planes = is_sequence and g.out_spatial[0] >= square and not (gathers or apart)
    even = () if gathers or apart or to_planes else _even_columns(g, columns, machine)
    columns = (square,) if to_planes else even or columns
    # Where half of a row's taps are outside the image, loops leave them out; with many tiles it would be much code.
    whole = (kernel[2] * 3 <= width * 5 or is_one_tile) and (not apart or kernel[2] <= MOST_UNROLLED)
    taps = min(kernel[2], 2) if gathers else _taps(kernel[2], _weights(columns[0], machine), whole=whole)
    few_taps = kernel[2] <= taps and g.rank < 3 and prod(kernel) <= MOST_UNROLLED
    k = DepthwiseKernel(
        rank=g.rank,
        channels=g.in_channels,
        multiplier=multiplier,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        activation=activation,
        lanes=lanes,
        columns=columns,
        evenly=bool(even),
        dilated_columns=DILATED_COLUMNS if apart else (),
        taps=taps,
        # Tiles that look at their edges are of small images, and loops leave out the rows outside these.
        rows_unrolled=few_taps and not (gathers or even),
        strip_blocks=_strip_blocks(g, under, lanes, machine),
        fetches=not planar and not fetches_next(g, machine),
        fetches_out=g.rank > 1 and not planar and g.out_channels is None,
        planar=planar,
        to_planes=to_planes,
        edges=None,
        planes=1,
        pixel_stride=pixel_stride,
    )
    if planar and runs_direct(g, machine):
        return _direct(k, g, machine)
    # Loops leave rows outside out, and read no zeros.
    return k if k.zero_elements(distance, 0) <= MOST_ZEROS else replace(k, rows_unrolled=False)


def _direct(k: DepthwiseKernel, g: Geometry, machine: Machine) -> DepthwiseKernel:
    """The kernel that reads planes as they lie."""
    taps, depth = prod(k.kernel), three(g.out_spatial, 1)[0]
    # Two planes, where they share input planes and little is done twice.
    is_paired = k.dilation[0] == 1 and k.stride[0] < k.kernel[0] and depth > 1 and depth % 2 * 10 <= depth
    planes, rows = 1, next(rows for most, rows in DIRECT_ROWS.items() if taps <= most)
    if is_paired:
        planes, rows = 2, PAIRED_ROWS
    return replace(
        k,
        lanes=machine.vector_lanes,
        columns=(rows,),
        evenly=False,
        dilated_columns=(),
        taps=k.kernel[2],
        # Beside weights and sums a register for an input and one to spare.
        rows_unrolled=taps + planes * rows + 2 <= machine.vector_registers,
        strip_blocks=1,
        # Rows taken one after another the hardware fetches ahead itself.
        fetches=k.stride[1] > 1 or k.dilation[1] > 1 or is_paired,
        edges=edges(g),
        planes=planes,
    )


def runs_direct(g: Geometry, machine: Machine) -> bool:
    """Whether a contiguous depthwise convolution is computed from planes as they lie."""
    reach = (g.kernel_size[-1] - 1) * g.dilation[-1]
    # The first and the last tile of a row have each but one edge, narrower than a vector.
    is_long = g.out_spatial[-1] >= machine.vector_lanes + reach
    has_edges = max(edges(g)) <= min(reach, machine.vector_lanes - 1)
    is_read_whole = g.input_size[-1] <= MOST_ZEROS or not any(map(any, g.padding[:-1]))
    return g.out_channels is None and is_long and has_edges and is_read_whole and _fills_vectors(g, machine)


def _fills_vectors(g: Geometry, machine: Machine) -> bool:
    taps, width, stride = prod(g.kernel_size), g.out_spatial[-1], g.stride[-1]
    if taps > MOST_DIRECT or stride > 2:
        return False
    least = next(shares[stride - 1] for most, shares in DIRECT_SHARES[machine.isa].items() if taps <= most)
    return width >= least * _done(width, (machine.vector_lanes,))


def edges(g: Geometry) -> tuple[int, int]:
    """How many columns before and after a row of the image its first and its last output see."""
    before, reach = g.padding[-1][0], (g.kernel_size[-1] - 1) * g.dilation[-1]
    last = (g.out_spatial[-1] - 1) * g.stride[-1] + reach - before
    return before, max(0, last - (g.input_size[-1] - 1))


def tap_stride(filters: int, taps: int) -> int:
    """Elements from one tap's weights to the next one's: one line more where else many taps shared few sets of L1.

    1024x7x7, 13x13, whose taps lay 4 KiB apart, took 49 % less time (AMD EPYC, Zen 4, 1 thread, 2026-11-28).
    """
    lines, rest = divmod(filters, LINE_ELEMENTS)
    sets = L1_SETS // gcd(L1_SETS, lines)
    is_crowded = rest == 0 and sets < L1_SETS and taps > MOST_TAPS_A_SET * sets
    return filters + LINE_ELEMENTS if is_crowded else filters


def _digits(axes: Axes) -> str:
    return "x".join(map(str, axes))


def _strip_blocks(g: Geometry, under: int, lanes: int, machine: Machine) -> int:
    """Blocks of filters whose weights, and `under` columns of the input rows, fit in L1, shared out evenly."""
    kernel = three(g.kernel_size, 1)
    block_bytes = (prod(kernel) + kernel[0] * kernel[1] * under) * lanes * FLOAT_BYTES
    blocks, most = -(-g.depthwise_channels // lanes), max(1, machine.l1_bytes * 3 // 4 // block_bytes)
    return -(-blocks // -(-blocks // most))


def _columns(kernel: Axes, machine: Machine) -> tuple[int, ...]:
    """Output columns of a tile, and of tiles for shorter rows.

    28x28, 17x17 and 21x21, took 35 % less time by 7 columns than by 14 (AMD EPYC, Zen 4, 1 thread, 2026-11-28).
    """
    few, many = COLUMNS[machine.isa]
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

    Rows of 5 were done column by column, and 10 as twice 7: 432x13x5x5, 3x3x3, took 66 to 75 % less time, 1024x8x8 to
    1024x10x10, 3x3, 25 to 30 %, rows of 15 to 36 up to 15 % (AMD EPYC, Zen 4, 1 thread, 2026-11-28). On AVX2 kernels of
    3x3 gained as much, of 11x11 to 15x15 lost 4 to 75 %.
    """
    width, even = g.out_spatial[-1], tuple(range(usual[-1] - 1, FEWEST_COLUMNS - 1, -1))
    reach = (g.kernel_size[-1] - 1) * g.dilation[-1]
    if any(own > most for own, most in zip(edges(g), usual_edges(reach), strict=True)):
        return ()
    if width < usual[-1]:
        return even
    # Of a separable one's time the depthwise step is too little.
    has_room = g.out_channels is None and g.kernel_size[-1] <= _weights(usual[0], machine)
    return even if has_room and _done(width, even) * 10 <= _done(width, usual) * 9 else ()


def _done(width: int, choices: tuple[int, ...]) -> int:
    """Columns that are done, some of them twice, where a row is cut into tiles of one choice."""
    return min(-(-width // columns) * columns for columns in choices if columns <= width)


def _weights(columns: int, machine: Machine) -> int:
    """Registers left for weights beside the sums of so many columns, an input and one to spare."""
    return machine.vector_registers - columns - 2


def _taps(kernel_columns: int, registers: int, *, whole: bool) -> int:
    """Taps of a kernel's row whose weights stay in registers: of `whole` rows all, where there is room for so many.

    14x14, 9x9 and 13x13, took 55 to 62 % less time than by 8 taps at a time, 28x28, 9x9 to 15x15, 35 to 42 %, sequences
    15 to 20 % (AMD EPYC, Zen 4, 1 thread, 2026-11-28).
    """
    some = max(4, min(registers, TAPS_AT_ONCE))
    return kernel_columns if whole and kernel_columns <= registers else min(kernel_columns, some)
