"""The plan of an image repeated pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass

from .constants import Plan
from .cut import Cut


@dataclass(frozen=True, slots=True)
class NearestPlan(Plan):
    """Each pixel of `channels` numbers, in vectors of `lanes`, `across` times side by side."""

    channels: int
    lanes: int
    across: int

    @property
    def name(self) -> str:
        return f"c{self.channels}_v{self.lanes}_x{self.across}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedRows(Cut):
    """Rows of the result are dealt out.

    all_rows: of all images; down: how often each row of the input stands in it; columns: of the input
    """

    all_rows: int
    down: int
    columns: int
