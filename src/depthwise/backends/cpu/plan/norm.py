"""The plan of a batch norm with its activation, over channels-last pixels, and how they are cut."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from math import gcd

from ...base import Activation
from ..machine import FLOAT_BYTES, Machine
from .constants import Plan
from .cut import Cut, balance
from .sizes import LINE_ELEMENTS
from .tuning import tuning_of

# Of a tile whose rows go side by side: the sums of one block of channels are read and written once for each.
TILE_PIXELS = 4
# From what a tile reads to what is fetched meanwhile.
FETCHED_ELEMENTS = 512
# Of a tile of a column, whose sums are added up in float32 first.
COLUMN_VECTORS = 4
# From a pixel of a column to one that is fetched meanwhile.
FETCHED_PIXELS = 16
# Of a chunk, at least: its sums are written, and read again, once for so many pixels.
_CHUNK_PIXELS = 32
_MOST_CHUNKS = 64
# Elements of which one thread is done before a team has started.
_SERIAL_ELEMENTS = 16_384


@dataclass(frozen=True, slots=True)
class NormPlan(Plan):
    """The constants of the loops over pixels.

    lanes:   channels of a vector; the last vector overlaps the one before. Of planes: pixels
    tracks:  running statistics move to the batch's
    vectors: of channels that are done together
    planar:  channels are planes, else side by side
    keeps:   gradients behind the activation are written where results go, and read again
    """

    lanes: int
    activation: Activation = None
    residual: bool = False
    tracks: bool = False
    vectors: int = 1
    planar: bool = False
    keeps: bool = False

    @property
    def name(self) -> str:
        label = "" if self.activation is None else f"_{self.activation[0]}{self.activation[1] or ''}"
        vectors = f"x{self.vectors}" if self.vectors > 1 else ""
        flags = f"{'_r' * self.residual}{'_tracks' * self.tracks}{'_planar' * self.planar}{'_k' * self.keeps}"
        return f"f32_v{self.lanes}{vectors}{label}{flags}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NormCut(Cut):
    """Chunks of neighbouring pixels are dealt out, whose sums are added in the order of the chunks.

    sum_channels: of a chunk's sums, whose last vector does not overlap
    eps_bits, momentum_bits: of what is added to the variance, and by what running statistics move, as float64
    """

    channels: int
    chunks: int
    sum_channels: int
    eps_bits: int = 0
    momentum_bits: int = 0


def norm_plan(channels: int, activation: Activation, machine: Machine, *, residual: bool) -> NormPlan:
    lanes = machine.vector_lanes
    while lanes > channels:
        lanes //= 2
    return NormPlan(lanes, activation, residual)


def column_plan(
    size: tuple[int, int], activation: Activation, machine: Machine, threads: int, *, residual: bool, read_again: int
) -> NormPlan | None:
    """The plan of a norm of (pixels, channels) that goes by columns of channels; None where these do not stay in cache.

    read_again: tensors that are read twice, the second time from L2
    """
    pixels, channels = size
    plain = norm_plan(channels, activation, machine, residual=residual)
    column = read_again * FLOAT_BYTES * pixels * plain.lanes
    most = machine.l2_bytes // 2 // column
    if not most or not _stays(channels, column, machine):
        return None
    count = -(-channels // plain.lanes)
    choices = [n for n in (2, 3, 1) if count % n == 0 and n <= most]
    # Vectors that lie across lines are worth it side by side alone. Threads have no say in this, nor in any bit.
    if max(choices) == 1 and channels % LINE_ELEMENTS and tuning_of(machine).l2_sets > 1:
        return None
    return replace(plain, vectors=max(choices, key=lambda n: balance(count // n, threads)))


def _stays(channels: int, column: int, machine: Machine) -> bool:
    """Whether the bytes of a column stay in half of those sets of L2 that its lines fall into."""
    lines, rest = divmod(channels, LINE_ELEMENTS)
    shared = 1 if rest else gcd(tuning_of(machine).l2_sets, lines)
    return column * shared <= machine.l2_bytes // 2


def plane_plan(activation: Activation, machine: Machine, *, residual: bool) -> NormPlan:
    """The plan of a norm of planes."""
    return NormPlan(machine.vector_lanes, activation, residual, planar=True)


def norm_cut(size: tuple[int, int], lanes: int, eps: float, momentum: float, machine: Machine, threads: int) -> NormCut:
    """The chunks go by the problem alone: no sum depends on the number of threads."""
    pixels, channels = size
    serial = pixels * channels < min(_SERIAL_ELEMENTS, tuning_of(machine).serial_macs)
    return NormCut(
        threads=1 if serial else threads,
        channels=channels,
        chunks=max(1, min(_MOST_CHUNKS, pixels // _CHUNK_PIXELS)),
        sum_channels=-(-channels // lanes) * lanes,
        eps_bits=_bits(eps),
        momentum_bits=_bits(momentum),
    )


def _bits(number: float) -> int:
    found: int = struct.unpack("<q", struct.pack("<d", number))[0]
    return found
