"""The plan of a mean over the pixels of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..machine import Machine
from .constants import Plan
from .cut import Cut
from .sizes import LINE_ELEMENTS, lanes_below

# Of pixels: their mean, their sum, or the root of the sum of their squares.
Result = Literal["mean", "sum", "norm"]


@dataclass(frozen=True, slots=True)
class MeanPlan(Plan):
    """The constants of a loop over pixels: blocks of `vectors` vectors of `lanes` channels."""

    channels: int
    lanes: int
    vectors: int

    @property
    def name(self) -> str:
        return f"c{self.channels}_v{self.lanes}x{self.vectors}"

    @property
    def blocks(self) -> int:
        """Of an image; the last overlaps the one before it where channels do not fill it."""
        return -(-self.channels // (self.lanes * self.vectors))


@dataclass(frozen=True, slots=True)
class TotalPlan(MeanPlan):
    """A loop over rows of numbers, and what is made of the pixels.

    of_sums: each row holds sums of pixels, blocks one after another; else it is a pixel
    """

    result: Result
    of_sums: bool

    @property
    def name(self) -> str:
        result = "" if self.result == "mean" else f"_{self.result}"
        return f"c{self.channels}_v{self.lanes}x{self.vectors}{'s' * self.of_sums}{result}"

    @property
    def row_elements(self) -> int:
        return self.blocks * self.lanes if self.of_sums else self.channels


@dataclass(frozen=True, slots=True, kw_only=True)
class Images(Cut):
    """Blocks of channels of all images are dealt out.

    images, image_rows: how many, and the rows of numbers of each
    pixels: of each
    """

    images: int
    image_rows: int
    pixels: int


def mean_plan(channels: int, machine: Machine) -> MeanPlan:
    """Blocks of a cache line, so that all of a line that comes is used."""
    lanes = lanes_below(channels, machine.vector_lanes)
    return MeanPlan(channels, lanes, max(1, min(channels, LINE_ELEMENTS) // lanes))


def total_plan(channels: int, machine: Machine, result: Result = "mean", *, block: int = 0) -> TotalPlan:
    """Of pixels the blocks of `mean_plan`, of sums those of `block` channels that they are in."""
    if block:
        return TotalPlan(channels, block, 1, result, of_sums=True)
    blocks = mean_plan(channels, machine)
    return TotalPlan(channels, blocks.lanes, blocks.vectors, result, of_sums=False)
