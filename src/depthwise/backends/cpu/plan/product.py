"""A matrix product in each group: what all plans of products have in common, and those with panels of weights."""

from __future__ import annotations

from dataclasses import dataclass

from ....geometry import Geometry
from ...base import Activation
from ..machine import Machine
from .constants import Plan
from .lanes import lanes_for
from .tuning import tuning_of

# Products that are added up one after another, at most, where that costs little: a sum's rounding grows with them.
LONGEST_CHAIN = 256


@dataclass(frozen=True, slots=True)
class Grouped(Plan):
    """A product in each group of channels, what becomes of the sums, and `vectors` of `lanes` of a register tile."""

    in_channels: int
    out_channels: int
    groups: int
    activation: Activation
    residual: bool
    lanes: int
    vectors: int

    @property
    def group_inputs(self) -> int:
        return self.in_channels // self.groups

    @property
    def group_outputs(self) -> int:
        return self.out_channels // self.groups


@dataclass(frozen=True, slots=True)
class Product(Grouped):
    """(pixels, terms) x (terms, out_channels) in each group.

    lanes, vectors: register tiles are some pixels x `vectors` vectors of `lanes` output channels
    """

    @property
    def packing(self) -> tuple[object, ...]:
        return self.groups, self.lanes, self.vectors

    @property
    def out_stride(self) -> int:
        """Elements from one pixel of the result to the next."""
        return self.out_channels

    @property
    def terms(self) -> int:
        """Products that one sum is of: rows of a panel."""
        return self.group_inputs

    @property
    def group_vectors(self) -> int:
        """Vectors of a group; the last overlaps the one before it where channels do not fill it."""
        return -(-self.group_outputs // self.lanes)

    @property
    def full_panels(self) -> int:
        return self.group_vectors // self.vectors

    @property
    def rest_vectors(self) -> int:
        """Vectors of the panel after the full ones, 0 where there is none."""
        return self.group_vectors % self.vectors

    @property
    def panels(self) -> int:
        return self.groups * (self.full_panels + (self.rest_vectors > 0))


def vectors_of(g: Geometry, machine: Machine) -> tuple[int, int, int]:
    """Lanes of a vector, vectors of a tile and of a group."""
    outputs, tuning = g.output_size[0] // g.groups, tuning_of(machine)
    lanes = lanes_for(outputs, machine)
    count = -(-outputs // lanes)
    vectors = 2 if count % 2 == 0 else next((n for n in (3, 5) if n in tuning.tiles and count % n == 0), min(count, 2))
    return lanes, vectors, count


def in_vain(pixels: int, heights: tuple[int, ...]) -> int:
    """Pixels done twice where they are cut into tiles of two neighbouring heights, or of the least one."""
    tiles = -(-pixels // heights[0])
    return 0 if pixels >= tiles * heights[-1] else -(-pixels // heights[-1]) * heights[-1] - pixels


def heights_for(pixels: int, vectors: int, machine: Machine) -> tuple[int, ...]:
    """Of tiles that do few of so many pixels twice."""
    tuning = tuning_of(machine)
    usual, few = tuning.tiles[vectors][0], tuning.tiles[vectors][-1]
    return usual if pixels >= usual[-1] and in_vain(pixels, usual) <= tuning.pixels_in_vain * pixels else few
