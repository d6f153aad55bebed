"""The plan of the gradients of images times factors of each image's own."""

from __future__ import annotations

from dataclasses import dataclass

from ..machine import Machine
from .constants import Plan
from .cut import Cut
from .sizes import lanes_below


@dataclass(frozen=True, slots=True)
class GatePlan(Plan):
    """The constants of a loop over pixels: `lanes` of a vector."""

    channels: int
    lanes: int

    @property
    def name(self) -> str:
        return f"c{self.channels}_v{self.lanes}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeImages(Cut):
    """Images are dealt out.

    pixels: of each
    """

    images: int
    pixels: int


def gate_plan(channels: int, machine: Machine) -> GatePlan:
    return GatePlan(channels, lanes_below(channels, machine.vector_lanes))
