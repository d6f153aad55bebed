"""The plan of what sees a whole row of channels at once, and how such work is cut."""

from __future__ import annotations

from dataclasses import dataclass

from .constants import Plan
from .cut import Cut


@dataclass(frozen=True, slots=True)
class RowPlan(Plan):
    """The constants of loops over rows of `channels`, in vectors of `lanes`.

    eps:    what is added to a variance; affine: a scale and a shift by channel follow
    """

    channels: int
    lanes: int
    eps: float = 0.0
    affine: bool = False

    @property
    def name(self) -> str:
        return f"c{self.channels}_v{self.lanes}{f'_e{self.eps!r}' if self.eps else ''}{'_affine' * self.affine}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeRows(Cut):
    """Rows are dealt out."""

    all_rows: int
