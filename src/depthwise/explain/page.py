"""The explanation as HTML: a fragment for notebooks, and a page that stands alone."""

from __future__ import annotations

from html import escape

from ..cost import separable_cost
from ..geometry import AXES, Geometry
from .arithmetic import Step, headline, output_sizes, percent, steps, summary, times
from .svg import FONT, INK, SOFT_INK, words

# Every rule is bound to the fragment's own class: a notebook's page stays as it is.
CSS = f"""
.depthwise-explain {{ font-family: {FONT}; color: {INK}; background: #fff; line-height: 1.5; max-width: 1100px;
  padding: 0.75rem; }}
.depthwise-explain .figure {{ overflow-x: auto; }}
.depthwise-explain svg {{ display: block; width: 100%; min-width: 720px; height: auto; }}
.depthwise-explain table {{ border-collapse: collapse; width: 100%; margin: 1rem 0; font-size: 0.95rem; }}
.depthwise-explain th, .depthwise-explain td {{ border: 0; border-bottom: 1px solid #d1d5db; color: {INK};
  background: #fff; padding: 0.45rem 0.6rem; text-align: left; vertical-align: top; }}
.depthwise-explain thead th {{ color: {SOFT_INK}; font-weight: 600; }}
.depthwise-explain .number {{ text-align: right; font-variant-numeric: tabular-nums; }}
.depthwise-explain small {{ display: block; color: {SOFT_INK}; font-weight: 400; }}
.depthwise-explain tr.sum th, .depthwise-explain tr.sum td {{ font-weight: 700; border-bottom: 2px solid {INK}; }}
.depthwise-explain ul {{ margin: 0.5rem 0; padding-left: 1.2rem; }}
@media (max-width: 640px) {{
  .depthwise-explain thead {{ display: none; }}
  .depthwise-explain tr, .depthwise-explain tbody th {{ display: block; }}
  .depthwise-explain tbody th {{ font-size: 1.05rem; padding-top: 1rem; border: 0; }}
  .depthwise-explain td {{ display: flex; justify-content: space-between; gap: 1rem; }}
  .depthwise-explain td::before {{ content: attr(data-label); color: {SOFT_INK}; font-weight: 400; }}
  .depthwise-explain td:empty {{ display: none; }}
}}
""".strip()

COLUMNS = ("input", "kernels", "output", "multiplications", "parameters")


def document(g: Geometry, svg: str) -> str:
    """A whole page; it loads nothing from anywhere."""
    title = escape(f"{headline(g)}: dense and separable")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 0 auto; padding: 1rem; max-width: 1100px; background: #fff; }}
.depthwise-explain h1 {{ font-size: 1.5rem; line-height: 1.25; margin: 0.5rem 0 1rem; }}
</style>
</head>
<body>
{fragment(g, svg, heading=words("h1", "What a depthwise separable convolution costs"))}
</body>
</html>
"""


def fragment(g: Geometry, svg: str, *, heading: str = "") -> str:
    """Picture, table and sums, with styles that touch nothing else on the page."""
    sizes = "".join(words("li", line) for line in output_sizes(g))
    sums = "".join(words("li", line) for line in summary(g))
    return f"""<div class="depthwise-explain">
<style>{CSS}</style>
{heading}<div class="figure">{svg}</div>
{table(g)}
<p>The size of the output:</p><ul>{sizes}</ul>
<p>Together:</p><ul>{sums}</ul>
</div>"""


def table(g: Geometry) -> str:
    """One row a step, and their sum; shapes are (channels, *spatial)."""
    dense, one, two = steps(g)
    cost = separable_cost(g)
    total = cost.separable
    head = words("th", "step") + "".join(words("th", column, class_=_kind(column)) for column in COLUMNS)
    sum_cells = [
        *("",) * 3,
        f"{total.multiplications:,}<small>{percent(cost.ratio)} of dense</small>",
        f"{total.parameters:,}",
    ]
    rows = [
        _row(dense.name, _cells(dense)),
        _row(one.name, _cells(one)),
        _row(two.name, _cells(two)),
        _row("separable", sum_cells, ' class="sum"'),
    ]
    note = f"Shapes are (channels, {', '.join(AXES[g.rank])}), for one input."
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{words('small', note)}"


def _cells(step: Step) -> list[str]:
    return [
        escape(str(step.input_size)),
        f"{step.kernels:,} of {times(step.kernel_size)}",
        escape(str(step.output_size)),
        f"{step.cost.multiplications:,}<small>{step.formula}</small>",
        f"{step.cost.parameters:,}",
    ]


def _row(name: str, cells: list[str], attributes: str = "") -> str:
    """A row; each cell carries its column's name, which narrow screens show beside it."""
    written = []
    for column, cell in zip(COLUMNS, cells, strict=True):
        content = f"<span>{cell}</span>" if cell else ""
        written.append(f'<td class="{_kind(column)}" data-label="{column}">{content}</td>')
    return f'<tr{attributes}><th scope="row">{escape(name)}</th>{"".join(written)}</tr>'


def _kind(column: str) -> str:
    return "number" if column in ("multiplications", "parameters") else "words"
