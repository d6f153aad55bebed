"""Charts as SVG, in the colours of the page around them: bars from zero, and dots on a scale of powers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import log10

from .svg import number, text_width

ROW = 22.0
NAMES = 150.0
SIZE = 12.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of a chart: lengths one after the other, each of a kind that has a colour, and what is said of them.

    spread: the ends of a whisker; starts: whether a group of rows begins here
    """

    name: str
    lengths: tuple[tuple[float, str], ...]
    note: str
    spread: tuple[float, float] | None = None
    starts: bool = False

    @property
    def end(self) -> float:
        return max(sum(length for length, _ in self.lengths), self.spread[1] if self.spread else 0.0)


@dataclass(frozen=True, slots=True)
class Dot:
    """A row of a chart with one value, of a kind that has a colour."""

    name: str
    value: float
    kind: str
    note: str
    starts: bool = False


def bars(title: str, rows: Sequence[Bar], *, width: float = 560.0, mark: tuple[float, str] | None = None) -> str:
    """Bars on one scale that begins at zero; `mark` is a value with a dashed line and a name."""
    notes = max(text_width(row.note, SIZE) for row in rows) + 12
    longest = max(*(row.end for row in rows), mark[0] if mark else 0.0)
    unit = (width - NAMES - notes) / (longest or 1.0)
    parts: list[str] = []
    y = 34.0 if mark is None else 52.0
    top = y
    for row in rows:
        y += ROW / 2 if row.starts and parts else 0
        parts.append(_text(NAMES - 8, y + 15, row.name, "end"))
        x = NAMES
        for length, kind in row.lengths:
            parts.append(
                f'<rect class="{kind}" x="{number(x)}" y="{number(y + 2)}" width="{number(length * unit)}" '
                'height="16"/>'
            )
            x += length * unit
        if row.spread:
            low, high = (NAMES + value * unit for value in row.spread)
            parts.append(f'<path class="rule" d="M{number(low)} {number(y + 6)}v8m0 -4H{number(high)}m0 -4v8"/>')
        # Beyond the whisker, and beyond the line where there is one.
        beside = NAMES + max(row.end, mark[0] if mark and row.spread else 0.0) * unit
        parts.append(_text(beside + 8, y + 15, row.note))
        y += ROW
    if mark:
        at = NAMES + mark[0] * unit
        parts.append(f'<path class="mark" d="M{number(at)} {number(top - 4)}V{number(y + 2)}"/>')
        parts.append(_text(at, top - 8, mark[1], "middle"))
    return _svg(title, width, y + 10, parts, "; ".join(f"{row.name}: {row.note}" for row in rows))


def dots(title: str, rows: Sequence[Dot], *, least: float, most: float, unit: str, width: float = 560.0) -> str:
    """Dots on a scale where ten times as much is always as far, with a line at each power of ten."""
    notes = max(text_width(row.note, SIZE) for row in rows) + 20
    room = (width - NAMES - notes) / log10(most / least)
    parts: list[str] = []
    y = 52.0
    top = y

    def at(value: float) -> float:
        return NAMES + log10(min(max(value, least), most) / least) * room

    for row in rows:
        y += ROW / 2 if row.starts and parts else 0
        parts.append(f'<path class="grid" d="M{number(NAMES)} {number(y + 10)}H{number(width - notes)}"/>')
        parts.append(f'<circle class="{row.kind}" cx="{number(at(row.value))}" cy="{number(y + 10)}" r="6"/>')
        parts += [_text(NAMES - 8, y + 14, row.name, "end"), _text(width - notes + 12, y + 14, row.note)]
        y += ROW
    power = least
    while power <= most * 1.001:
        parts.insert(0, f'<path class="grid" d="M{number(at(power))} {number(top - 4)}V{number(y)}"/>')
        parts.append(_text(at(power), top - 8, f"{power:g}{unit}", "middle"))
        power *= 10
    return _svg(title, width, y + 10, parts, "; ".join(f"{row.name}: {row.note}" for row in rows))


def _text(x: float, y: float, content: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{number(x)}" y="{number(y)}">{escape(content, quote=False)}</text>'


def _svg(title: str, width: float, height: float, parts: Sequence[str], says: str) -> str:
    head = f'<text class="head" x="0" y="16">{escape(title, quote=False)}</text>'
    return (
        f'<svg class="chart" viewBox="0 0 {number(width)} {number(height)}" role="img" '
        f'aria-label="{escape(f"{title}. {says}")}">{head}{"".join(parts)}</svg>'
    )
