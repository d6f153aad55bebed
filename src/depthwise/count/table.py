"""A count as tables, by layer and by kind: text of at most 120 columns, or HTML.

Equal calls in one module share a line. Every number is written out, with commas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from textwrap import fill
from typing import TYPE_CHECKING

from ..cost import Cost

if TYPE_CHECKING:
    from .result import Count, Row

COLUMNS = ("layer", "kind", "output", "MACs", "parameters", "bytes", "FLOP/B", "dense MACs")
KINDS = ("kind", "calls", "multiplications", "share", "parameters", "share", "bytes", "share")
WIDTH = 120
TEXT_WIDTH = 105
GAP = "  "
# The first columns are words and stand left; numbers stand right.
WORDS = 2
IN_ITS_PAIR = "in its pair"

Cells = tuple[str, ...]


def text_table(count: Count) -> str:
    """The count as text, its totals below the tables."""
    layers = [COLUMNS, *map(_cells, _grouped(count.rows))]
    widths = [max(len(line[column]) for line in layers) for column in range(len(COLUMNS))]
    # The layer's path is the one that can be cut: its end tells more than its beginning.
    widths[0] = max(len(COLUMNS[0]), min(widths[0], WIDTH - sum(widths[1:]) - len(GAP) * (len(COLUMNS) - 1)))
    lines = [_aligned(line, widths, WORDS) for line in layers]
    kinds = [KINDS, *_kinds(count.rows)]
    widths = [max(len(line[column]) for line in kinds) for column in range(len(KINDS))]
    shares = [_aligned(line, widths, 1) for line in kinds]
    rule = "-" * max(map(len, lines))
    totals = [fill(sentence, TEXT_WIDTH, subsequent_indent="  ") for sentence in _totals(count)]
    return "\n".join([lines[0], rule, *lines[1:], rule, *shares, rule, *totals])


def html_table(count: Count) -> str:
    """The count as HTML tables for a notebook, its totals below."""
    layers = _html_body(COLUMNS, [_cells(rows) for rows in _grouped(count.rows)], WORDS)
    kinds = _html_body(KINDS, list(_kinds(count.rows)), 1)
    totals = "\n".join(f"<p>{escape(sentence)}</p>" for sentence in _totals(count))
    return f"<div>\n{layers}\n{kinds}\n{totals}\n</div>"


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
        _number(cost.macs),
        _number(first.cost.parameters),
        f"{cost.bytes_moved:,}",
        f"{cost.arithmetic_intensity:.1f}" if cost.macs else "",
        _dense([row.dense for row in rows if row.dense is not None]),
    )


def _dense(costs: Sequence[Cost]) -> str:
    macs = sum(cost.macs for cost in costs)
    return _number(macs) or (IN_ITS_PAIR if costs else "")


def _kinds(rows: Sequence[Row]) -> Iterator[Cells]:
    """What each kind of operator takes part in, the most multiplications first."""
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        kinds.setdefault("dense convolution" if row.kind == "convolution" else row.kind, []).append(row)
    sums = {kind: sum((row.cost for row in own), Cost()) for kind, own in kinds.items()}
    total = sum(sums.values(), Cost())
    for kind, cost in sorted(sums.items(), key=lambda item: (-item[1].multiplications, -item[1].bytes_moved)):
        yield (
            kind,
            f"{len(kinds[kind]):,}",
            *(_number(cost.multiplications), _share(cost.multiplications, total.multiplications)),
            *(_number(cost.parameters), _share(cost.parameters, total.parameters)),
            *(_number(cost.bytes_moved), _share(cost.bytes_moved, total.bytes_moved)),
        )


def _totals(count: Count) -> Iterator[str]:
    total, dense = count.total, count.dense
    yield (
        f"total: {total.macs:,} MACs, {total.multiplications:,} multiplications, {total.additions:,} additions, "
        f"{total.parameters:,} parameters, {total.bytes_moved:,} bytes moved"
    )
    if count.backward is not None:
        both = total.multiplications + count.backward.multiplications
        yield (
            f"training step: {both:,} multiplications, {count.backward.multiplications:,} of them for gradients, where "
            f"those of norms and activations are not counted"
        )
    if dense.macs != total.macs:
        yield (
            f"dense: {dense.macs:,} MACs, {dense.parameters:,} parameters with every grouped and separable convolution "
            f"dense; this model has {total.multiplications / dense.multiplications:.1%} of those multiplications"
        )
    if any(row.dense == Cost() for row in count.rows):
        yield (
            f"{IN_ITS_PAIR}: the dense convolution that a depthwise and a pointwise one stand for is counted in the "
            f"line of the pointwise one"
        )
    if count.unknown:
        names = ", ".join(f"{name} x{times}" for name, times in count.unknown)
        yield f"unknown operators, their bytes counted and their arithmetic not: {names}"


def _number(number: int) -> str:
    return f"{number:,}" if number else ""


def _share(part: int, total: int) -> str:
    return f"{part / total:.1%}" if part else ""


def _aligned(cells: Cells, widths: Sequence[int], words: int) -> str:
    name = cells[0] if len(cells[0]) <= widths[0] else "…" + cells[0][1 - widths[0] :]
    left = [cell.ljust(width) for cell, width in zip((name, *cells[1:words]), widths[:words], strict=True)]
    right = [cell.rjust(width) for cell, width in zip(cells[words:], widths[words:], strict=True)]
    return GAP.join([*left, *right])


def _html_body(head: Cells, lines: Sequence[Cells], words: int) -> str:
    body = "\n".join(_html_row(cells, "td", words) for cells in lines)
    return f"<table>\n<thead>\n{_html_row(head, 'th', words)}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _html_row(cells: Cells, tag: str, words: int) -> str:
    sides = ["left"] * words + ["right"] * (len(cells) - words)
    return (
        "<tr>"
        + "".join(
            f'<{tag} style="text-align: {side}">{escape(cell)}</{tag}>' for cell, side in zip(cells, sides, strict=True)
        )
        + "</tr>"
    )
