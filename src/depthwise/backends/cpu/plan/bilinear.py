"""The plan of an image resized by weighing four pixels."""

from __future__ import annotations

from dataclasses import dataclass

from .constants import Plan
from .cut import Cut


@dataclass(frozen=True, slots=True)
class BilinearPlan(Plan):
    """Pixels of `channels` numbers, in vectors of `lanes`; aligned: corners lie on corners."""

    channels: int
    lanes: int
    aligned: bool

    @property
    def name(self) -> str:
        return f"c{self.channels}_v{self.lanes}{'_aligned' * self.aligned}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizedRows(Cut):
    """Rows of the result are dealt out.

    all_rows: of all images; in_y, in_x, out_y, out_x: of each, before and after
    y_bits, x_bits: of the pixels of the image from one of the result's to the next, as float64
    """

    all_rows: int
    in_y: int
    in_x: int
    out_y: int
    out_x: int
    y_bits: int
    x_bits: int
