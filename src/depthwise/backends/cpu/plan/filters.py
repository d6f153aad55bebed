"""What depthwise plans of both kinds are of: the filters, their window, and how their weights lie."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod

from ...base import Activation
from .constants import Plan
from .sizes import LINE_ELEMENTS, Axes, activation_name

# Of an L1 cache of 8 ways, half of which are left to the input.
L1_SETS, MOST_TAPS_A_SET = 64, 4
# Numbers that are read in the place of a row outside the image: 4 MiB.
MOST_ZEROS = 1 << 20


@dataclass(frozen=True, slots=True)
class Filters(Plan):
    """`multiplier` filters for each of `channels` input channels, and the activation of their sums."""

    rank: int
    channels: int
    multiplier: int
    kernel: Axes
    stride: Axes
    dilation: Axes
    activation: Activation

    @property
    def filters(self) -> int:
        return self.channels * self.multiplier

    @property
    def tap_stride(self) -> int:
        return tap_stride(self.filters, prod(self.kernel))

    @property
    def packing(self) -> tuple[int, ...]:
        return (self.tap_stride,)

    @property
    def rows_apart(self) -> int:
        """How far apart output rows are that share input rows: a dilated kernel is a plain one on rows so far apart."""
        return rows_apart(self.stride, self.dilation)

    @property
    def window_name(self) -> str:
        extents = "x".join(map(str, self.kernel[3 - self.rank :]))
        window = f"k{extents}_s{_digits(self.stride)}_d{_digits(self.dilation)}_c{self.channels}m{self.multiplier}"
        return f"{window}_{activation_name(self.activation)}"


@dataclass(frozen=True, slots=True)
class PixelFilters(Filters):
    """Filters of pixels, whose channels fill vectors.

    lanes:  filters per vector
    planar: the input is contiguous, one plane per channel, and comes to pixels in boxes
    pixel_stride: elements from one input pixel to the next; None where it is a slot
    """

    lanes: int
    planar: bool
    pixel_stride: int | None

    @property
    def blocks(self) -> int:
        return -(-self.filters // self.lanes)


def rows_apart(stride: Axes, dilation: Axes) -> int:
    return dilation[1] // gcd(dilation[1], stride[1])


def tap_stride(filters: int, taps: int) -> int:
    """Elements from one tap's weights to the next one's: one line more where else many taps shared few sets of L1."""
    sets = sets_of(filters)
    is_crowded = sets < L1_SETS and taps > MOST_TAPS_A_SET * sets
    return filters + LINE_ELEMENTS if is_crowded else filters


def sets_of(elements: int) -> int:
    """How many sets of L1 lines fall into that are so many elements apart."""
    lines, rest = divmod(elements, LINE_ELEMENTS)
    return L1_SETS if rest else L1_SETS // gcd(L1_SETS, lines)


def _digits(axes: Axes) -> str:
    return "x".join(map(str, axes))
