"""The plan of a mean over the pixels of an image."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..machine import Machine
from .constants import Plan
from .cut import Cut
from .sizes import LINE_ELEMENTS, lanes_below


@dataclass(frozen=True, slots=True)
class MeanPlan(Plan):
    """The constants of a loop over rows of numbers: blocks of `vectors` vectors of `lanes` channels.

    of_sums: each row holds sums of pixels, blocks one after another; else it is a pixel
    """

    channels: int
    lanes: int
    vectors: int
    of_sums: bool = field(default=False, kw_only=True)

    @property
    def name(self) -> str:
        return f"c{self.channels}_v{self.lanes}x{self.vectors}{'s' * self.of_sums}"

    @property
    def row_elements(self) -> int:
        return self.blocks * self.lanes if self.of_sums else self.channels

    @property
    def blocks(self) -> int:
        """Of an image; the last overlaps the one before it where channels do not fill it."""
        return -(-self.channels // (self.lanes * self.vectors))


@dataclass(frozen=True, slots=True, kw_only=True)
class Images(Cut):
    """Blocks of channels of all images are dealt out.

    images, image_rows: how many, and the rows of numbers of each
    pixels: of each
    """

    images: int
    image_rows: int
    pixels: int


def mean_plan(channels: int, machine: Machine, *, of_sums: bool = False) -> MeanPlan:
    """Blocks of a cache line, so that all of a line that comes is used; of sums those that these are in."""
    lanes = lanes_below(channels, machine.vector_lanes)
    vectors = 1 if of_sums else max(1, min(channels, LINE_ELEMENTS) // lanes)
    return MeanPlan(channels, lanes, vectors, of_sums=of_sums)
