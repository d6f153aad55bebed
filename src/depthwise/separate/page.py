"""The report of a separation as HTML: the plot of error against budget, the table, and what stays."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import TYPE_CHECKING

from ..page.document import document as page_around
from ..page.svg import INK, SOFT_INK, Point, points, tag, text, words
from .table import COLUMNS, notes, rows, totals

if TYPE_CHECKING:
    from .report import Separation

LINE, HERE = "#0072b2", "#d55e00"
WIDTH, HEIGHT = 560.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 20.0, 34.0, 52.0

# Every rule is bound to the fragment's own class: a notebook's page stays as it is.
CSS = """
.depthwise-separate { font-family: system-ui, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif; line-height: 1.5;
  color: var(--ink, #1f2937); background: var(--paper, #fff); max-width: 1000px; padding: 0.75rem; }
.depthwise-separate svg { display: block; width: 100%; max-width: 640px; height: auto; }
.depthwise-separate .wide { overflow-x: auto; }
.depthwise-separate table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-size: 0.9rem; }
.depthwise-separate th, .depthwise-separate td { border: 0; border-bottom: 1px solid var(--rule, #d1d5db);
  padding: 0.35rem 0.6rem; text-align: right; color: var(--ink, #1f2937); background: var(--paper, #fff);
  font-variant-numeric: tabular-nums; }
.depthwise-separate th:nth-child(-n+2), .depthwise-separate td:nth-child(-n+2) { text-align: left; }
.depthwise-separate thead th { color: var(--soft, #4b5563); font-weight: 600; }
.depthwise-separate .here { paint-order: stroke; stroke: var(--paper, #fff); stroke-width: 5px; }
@media print { .depthwise-separate .wide { overflow: visible; } .depthwise-separate table { font-size: 0.75rem; } }
""".strip()


def document(report: Separation, more: str = "", first: str = "") -> str:
    """A whole page; it loads nothing from anywhere. `first` is HTML before the report, `more` what follows it."""
    body = fragment(report, heading=words("h1", "What a separation cost") + first, more=more)
    return page_around("What a separation cost", f"<main>{body}</main>")


def fragment(report: Separation, *, heading: str = "", more: str = "") -> str:
    """Plot, table and sentences, with styles that touch nothing else on the page."""
    head = "".join(words("th", column) for column in COLUMNS)
    body = "".join(tag("tr", *(words("td", cell) or "<td></td>" for cell in cells)) for cells in rows(report))
    sums = "".join(words("p", line) for line in totals(report))
    stay = "".join(words("li", line) for line in notes(report))
    return f"""<div class="depthwise-separate">
<style>{CSS}</style>
{heading}{sums}{plot(report) if report.touchable else ""}
<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>
{f"<ul>{stay}</ul>" if stay else ""}{more}
</div>"""


def plot(report: Separation) -> str:
    """The error at the network's output against the share of the dense multiplications: measured here, and predicted.

    Dashed as it was predicted, the line as what came here calibrates it.
    """
    dense = report.multiplications_before
    curves = [
        [(point.multiplications / dense, point.predicted_error) for point in report.frontier(calibrated=calibrated)]
        for calibrated in (True, False)
    ]
    spots, first = curves
    here = (report.share, report.predicted_error if report.output_error is None else report.output_error)
    highest = max(*(y for curve in curves for _, y in curve), here[1]) or 1.0
    step = _round_step(highest / 4)
    ticks = [step * number for number in range(ceil(highest / step - 1e-9) + 1)]
    highest = ticks[-1]
    heading = "Error of the network's output against multiplications"
    below = "share of the dense multiplications; dashed: error as it was predicted"
    parts = [
        text((LEFT, 18), heading, anchor="start", bold=True, room=WIDTH - LEFT),
        *(_level(tick, highest) for tick in ticks),
        *(
            text((_at(share, 0, 1)[0], HEIGHT - BOTTOM + 20), f"{share:.0%}", fill=SOFT_INK)
            for share in (0, 0.25, 0.5, 0.75, 1)
        ),
        text((LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 10), below, fill=SOFT_INK),
        _line(first, highest, stroke_dasharray="5 4"),
        _line(spots, highest),
        *_discs(spots, highest, LINE, 4),
        *_discs([here], highest, HERE, 6),
        text(_beside(_at(*here, highest)), "this network", anchor="start", fill=HERE, bold=True, kind="here"),
    ]
    came = "" if report.output_error is None else f"; {report.output_error:.4f} came"
    label = f"At {report.share:.1%} of the multiplications the predicted error is {report.predicted_error:.4f}{came}"
    title = f"<title>{escape(label)}</title>"
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" '
        f'font-family="system-ui, sans-serif">{title}{"".join(parts)}</svg>'
    )


def _line(spots: Sequence[Point], highest: float, **options: str) -> str:
    path = points(_at(x, y, highest) for x, y in spots)
    return tag("polyline", points=path, fill="none", stroke=LINE, stroke_width=2, **options)


def _round_step(least: float) -> float:
    """The smallest of 1, 2 or 5 times a power of ten that is no less."""
    power = 10.0 ** floor(log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _at(share: float, error: float, highest: float) -> Point:
    x = LEFT + share * (WIDTH - LEFT - RIGHT)
    return x, HEIGHT - BOTTOM - error / highest * (HEIGHT - TOP - BOTTOM)


def _beside(at: Point) -> Point:
    return min(at[0] + 12, WIDTH - RIGHT - 90), at[1] - 12


def _level(error: float, highest: float) -> str:
    (x, y), (end, _) = _at(0, error, highest), _at(1, error, highest)
    line = tag("line", x1=x, y1=y, x2=end, y2=y, stroke=INK if error == 0 else "var(--rule, #d1d5db)", stroke_width=1)
    return line + text((x - 8, y + 4), f"{error:.2g}", anchor="end", fill=SOFT_INK)


def _discs(spots: Sequence[Point], highest: float, color: str, radius: float) -> list[str]:
    discs = []
    for share, error in spots:
        x, y = _at(share, error, highest)
        discs.append(tag("circle", cx=x, cy=y, r=radius, fill=color))
    return discs
