"""A count as a table: text of at most 110 columns, or HTML. Equal calls in one module share a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from textwrap import fill
from typing import TYPE_CHECKING

from ..cost import Cost

if TYPE_CHECKING:
    from .result import Count, Row

COLUMNS = ("layer", "kind", "output", "MACs", "params", "moved", "FLOP/B", "dense MACs")
WIDTH = 110
GAP = "  "
# The first columns are words and stand left; numbers stand right.
WORDS = 2

Cells = tuple[str, ...]


def text_table(count: Count) -> str:
    """The count as text, its totals below the table."""
    table = [COLUMNS, *map(_cells, _grouped(count.rows))]
    widths = [max(len(line[column]) for line in table) for column in range(len(COLUMNS))]
    # The layer's path is the one that can be cut: its end tells more than its beginning.
    widths[0] = max(len(COLUMNS[0]), min(widths[0], WIDTH - sum(widths[1:]) - len(GAP) * (len(COLUMNS) - 1)))
    lines = [_aligned(line, widths) for line in table]
    totals = [fill(sentence, WIDTH, subsequent_indent="  ") for sentence in _totals(count)]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:], rule, *totals])


def html_table(count: Count) -> str:
    """The count as an HTML table for a notebook, its totals below."""
    head = _html_row(COLUMNS, "th")
    body = "\n".join(_html_row(_cells(rows), "td") for rows in _grouped(count.rows))
    totals = "\n".join(f"<p>{escape(sentence)}</p>" for sentence in _totals(count))
    return f"<div>\n<table>\n<thead>\n{head}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>\n{totals}\n</div>"


def in_unit(number: int, base: int, units: Sequence[str]) -> str:
    """A number in the largest unit that leaves at least 1 before the point, with three digits.

    >>> in_unit(4_231_976, 1000, ("", "K", "M")), in_unit(602_112, 1024, ("B", "KiB")), in_unit(7, 1024, ("B", "KiB"))
    ('4.23 M', '588 KiB', '7 B')
    """
    value, power = float(number), 0
    while value >= base and power < len(units) - 1:
        value, power = value / base, power + 1
    digits = 0 if power == 0 or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {units[power]}".rstrip()


def _grouped(rows: Sequence[Row]) -> list[list[Row]]:
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.name, row.kind, row.output_size, row.cost.parameters), []).append(row)
    return list(groups.values())


def _cells(rows: Sequence[Row]) -> Cells:
    first, cost = rows[0], sum((row.cost for row in rows), Cost())
    return (
        first.name or "(model)",
        first.kind if len(rows) == 1 else f"{first.kind} x{len(rows)}",
        "x".join(map(str, first.output_size)),
        f"{cost.macs:,}" if cost.macs else "",
        _short(first.cost.parameters),
        _bytes(cost.bytes_moved),
        f"{cost.arithmetic_intensity:.1f}" if cost.macs else "",
        _dense([row.dense for row in rows if row.dense is not None]),
    )


def _dense(costs: Sequence[Cost]) -> str:
    macs = sum(cost.macs for cost in costs)
    return _short(macs) or ("in its pair" if costs else "")


def _totals(count: Count) -> Iterator[str]:
    total, dense = count.total, count.dense
    yield (
        f"total: {total.macs:,} MACs, {total.multiplications:,} multiplications, {total.additions:,} additions, "
        f"{total.parameters:,} parameters, {_bytes(total.bytes_moved)} moved"
    )
    if dense.macs != total.macs:
        yield (
            f"dense: {dense.macs:,} MACs, {dense.parameters:,} parameters with every grouped and separable convolution "
            f"dense; this model has {total.multiplications / dense.multiplications:.1%} of those multiplications"
        )
    if count.unknown:
        names = ", ".join(f"{name} x{times}" for name, times in count.unknown)
        yield f"unknown operators, their bytes counted and their arithmetic not: {names}"


def _short(number: int) -> str:
    return in_unit(number, 1000, ("", "K", "M", "G", "T")) if number else ""


def _bytes(number: int) -> str:
    return in_unit(number, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def _aligned(cells: Cells, widths: Sequence[int]) -> str:
    name = cells[0] if len(cells[0]) <= widths[0] else "…" + cells[0][1 - widths[0] :]
    words = [cell.ljust(width) for cell, width in zip((name, *cells[1:WORDS]), widths[:WORDS], strict=True)]
    numbers = [cell.rjust(width) for cell, width in zip(cells[WORDS:], widths[WORDS:], strict=True)]
    return GAP.join([*words, *numbers])


def _html_row(cells: Cells, tag: str) -> str:
    sides = ["left"] * WORDS + ["right"] * (len(cells) - WORDS)
    return (
        "<tr>"
        + "".join(
            f'<{tag} style="text-align: {side}">{escape(cell)}</{tag}>' for cell, side in zip(cells, sides, strict=True)
        )
        + "</tr>"
    )
