"""How a copy of pieces of rows is cut."""

from __future__ import annotations

from dataclasses import dataclass

from .cut import Cut


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
