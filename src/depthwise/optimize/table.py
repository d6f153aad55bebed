"""Tables as text."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """The rows below their columns, the first `left` of them aligned to the left."""
    table = [columns, *rows]
    widths = [max(len(cells[number]) for cells in table) for number in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        pairs = enumerate(zip(cells, widths, strict=True))
        return "  ".join(cell.ljust(n) if at < left else cell.rjust(n) for at, (cell, n) in pairs).rstrip()

    rule = "-" * min(100, max(len(line(cells)) for cells in table))
    return "\n".join([line(columns), rule, *map(line, rows), rule])
