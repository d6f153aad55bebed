"""Tables: as text, and as HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from .svg import tag, words

# A word of more letters may break at its underscores; no other one does.
LONGEST_WORD = 24


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """The rows below their columns, the first `left` of them aligned to the left."""
    table = [columns, *rows]
    widths = [max(len(cells[number]) for cells in table) for number in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        pairs = enumerate(zip(cells, widths, strict=True))
        return "  ".join(cell.ljust(n) if at < left else cell.rjust(n) for at, (cell, n) in pairs).rstrip()

    rule = "-" * min(100, max(len(line(cells)) for cells in table))
    return "\n".join([line(columns), rule, *map(line, rows), rule])


def html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same as HTML, which scrolls where it is too wide."""
    head = "".join(words("th", column) for column in columns)
    body = "".join(tag("tr", *(_cell(cell) for cell in cells)) for cells in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(content: str) -> str:
    """Content that is narrow enough for paper: the names of kernels are long."""
    long = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")
    return f"<td>{long.sub(lambda word: word[0].replace('_', '_<wbr>'), escape(content, quote=False))}</td>"


def framed(name: str, content: str) -> str:
    """`content` with the style of such tables, each rule bound to a class of this name: a notebook stays as it is."""
    return f'<div class="{name}">\n<style>{_CSS.replace(".depthwise-report", f".{name}")}</style>\n{content}\n</div>'


_CSS = """
.depthwise-report { font-family: system-ui, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif; line-height: 1.5;
  color: var(--ink, #1f2937); background: var(--paper, #fff); max-width: 1100px; padding: 0.75rem; }
.depthwise-report svg { display: block; width: 100%; max-width: 800px; height: auto; background: #fff; }
.depthwise-report .wide { overflow-x: auto; }
.depthwise-report .wide svg { min-width: 38rem; }
.depthwise-report table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-size: 0.85rem; }
.depthwise-report th, .depthwise-report td { border: 0; border-bottom: 1px solid var(--rule, #d1d5db);
  padding: 0.3rem 0.6rem; text-align: left; color: var(--ink, #1f2937); background: var(--paper, #fff);
  font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
.depthwise-report thead th { color: var(--soft, #4b5563); font-weight: 600; }
/* Space behind the last row, or a box that scrolls, would be a page of its own. */
@media print {
  .depthwise-report { padding: 0; }
  .depthwise-report .wide { overflow: visible; }
  .depthwise-report table:last-child { margin-bottom: 0; }
}
""".strip()
