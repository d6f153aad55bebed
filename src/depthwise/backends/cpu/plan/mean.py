"""The plan of a mean over the pixels of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..machine import Machine
from .constants import Plan
from .cut import Cut
from .sizes import LINE_ELEMENTS, lanes_below


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Images(Cut):
    """Blocks of channels of all images are dealt out.

    images, image_rows: how many, and the pixels of each
    """

    images: int
    image_rows: int


@dataclass(frozen=True, slots=True)
class TotalPlan(MeanPlan):
    """The same, and what is made of the pixels: their mean, their sum, or the root of the sum of their squares."""

    result: Literal["mean", "sum", "norm"]

    @property
    def name(self) -> str:
        return f"c{self.channels}_v{self.lanes}x{self.vectors}{'' if self.result == 'mean' else f'_{self.result}'}"


def mean_plan(channels: int, machine: Machine) -> MeanPlan:
    """Blocks of a cache line, so that all of a line that comes is used."""
    lanes = lanes_below(channels, machine.vector_lanes)
    return MeanPlan(channels, lanes, max(1, min(channels, LINE_ELEMENTS) // lanes))
