"""How a copy of pieces of rows is cut."""

from __future__ import annotations

from dataclasses import dataclass

from .constants import Plan
from .cut import Cut


@dataclass(frozen=True, slots=True)
class CopyPlan(Plan):
    """So many numbers of each row, in vectors of `lanes`."""

    channels: int
    lanes: int

    @property
    def name(self) -> str:
        return f"c{self.channels}_v{self.lanes}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces(Cut):
    """Rows are dealt out.

    x_start, out_start, x_step, out_step: where the first piece lies, and elements from row to row
    """

    all_rows: int
    x_start: int
    out_start: int
    x_step: int
    out_step: int
