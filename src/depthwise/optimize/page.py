"""The report and the profile of a network as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from ..page.document import document as page_around
from ..page.svg import INK, SOFT_INK, tag, text, words
from ..page.table import framed, html_table

if TYPE_CHECKING:
    from .profile import Profile
    from .report import NetworkReport

CLASS = "depthwise-optimize"
OURS, TORCH = "#0072b2", "#d55e00"
WIDTH, LEFT, BAR, GAP = 760.0, 260.0, 14.0, 4.0
# Bars for the slowest nodes; the table has them all.
MOST_BARS = 30


def document(report: NetworkReport, profile: Profile | None = None, lines: Sequence[str] = ()) -> str:
    """A whole page, which loads nothing from anywhere; `lines` are said first."""
    title = "What runs where"
    body = report_fragment(report, lines) + (profile_fragment(profile) if profile is not None else "")
    return page_around(title, words("h1", title) + body)


def report_fragment(report: NetworkReport, lines: Sequence[str] = ()) -> str:
    """The table of layers and what is said of the whole."""
    notes = "".join(words("li", note) for note in (*lines, *report.notes()))
    return framed(CLASS, f"<ul>{notes}</ul>{html_table(report.columns, report.rows())}")


def profile_fragment(profile: Profile) -> str:
    """A bar for each of the slowest nodes, and the table of all."""
    total = f"{1000 * profile.seconds:.2f} ms for a batch of {profile.batch} on {profile.threads} threads, node by node"
    return framed(CLASS, words("p", total) + _bars(profile) + html_table(profile.columns, profile.rows()))


def _bars(profile: Profile) -> str:
    slowest = sorted(profile.timings, key=lambda timing: -timing.seconds)[:MOST_BARS]
    longest = max((timing.seconds for timing in slowest), default=0.0) or 1.0
    parts = [
        text(
            (8, 16),
            "Milliseconds: blue by our kernels, orange by torch; dark: the least that the machine allows",
            anchor="start",
        )
    ]
    for number, timing in enumerate(slowest):
        y = 28 + number * (BAR + GAP)
        width = (WIDTH - LEFT - 80) * timing.seconds / longest
        color = TORCH if timing.engine == "torch" else OURS
        label = (timing.source or timing.name)[-34:]
        parts.append(text((LEFT - 8, y + 11), label, anchor="end", fill=SOFT_INK))
        parts.append(tag("rect", x=LEFT, y=y, width=max(width, 1), height=BAR, fill=color))
        if timing.least_share is not None:
            parts.append(
                tag("rect", x=LEFT, y=y + BAR - 3, width=width * min(timing.least_share, 1.0), height=3, fill=INK)
            )
        parts.append(text((LEFT + width + 6, y + 11), f"{1000 * timing.seconds:.3f}", anchor="start", fill=SOFT_INK))
    height = 34 + len(slowest) * (BAR + GAP)
    title = f"<title>{escape('The slowest nodes of the network')}</title>"
    drawn = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height:g}" role="img" '
        f'font-family="system-ui, sans-serif">{title}{"".join(parts)}</svg>'
    )
    # On a narrow screen it scrolls, as the table does: its words would be too small to read.
    return f'<div class="wide">{drawn}</div>'
