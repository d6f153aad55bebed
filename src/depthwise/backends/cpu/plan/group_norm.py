"""The plan of a norm over groups of channels of each image."""

from __future__ import annotations

from dataclasses import dataclass

from .cut import Cut
from .mean import MeanPlan


@dataclass(frozen=True, slots=True)
class GroupPlan(MeanPlan):
    """Blocks of channels as in a mean, and `groups` of channels; affine: a scale and a shift by channel follow."""

    groups: int
    affine: bool

    @property
    def name(self) -> str:
        return f"c{self.channels}_g{self.groups}_v{self.lanes}x{self.vectors}{'_affine' * self.affine}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedImages(Cut):
    """Blocks of channels of all images are dealt out, then their groups.

    images, image_rows: how many, and the pixels of each; eps_bits: of what is added to a variance, as float64
    """

    images: int
    image_rows: int
    eps_bits: int
