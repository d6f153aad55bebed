"""Sums over the filters of each channel: how a tensor of their values is cut into tasks."""

from __future__ import annotations

from dataclasses import dataclass

from ..machine import Machine
from .constants import Plan
from .cut import Cut
from .sizes import lanes_below


@dataclass(frozen=True, slots=True)
class FilterSumsPlan(Plan):
    """The constants of a loop over pixels of `channels` x `multiplier` filters, or over planes of them."""

    channels: int
    multiplier: int
    lanes: int
    planar: bool

    @property
    def name(self) -> str:
        return f"c{self.channels}m{self.multiplier}v{self.lanes}{'_planar' * self.planar}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines(Cut):
    """Lines are dealt out: pixels, or planes of so many pixels.

    lines: in all
    length: pixels of a plane
    """

    lines: int
    length: int


def filter_sums_plan(channels: int, multiplier: int, pixels: int, machine: Machine, *, planar: bool) -> FilterSumsPlan:
    """pixels: of a plane"""
    lanes = lanes_below(pixels if planar else channels, machine.vector_lanes)
    return FilterSumsPlan(channels, multiplier, lanes, planar)
