"""Writing SVG: tags, text and arrows, with numbers rounded so that the same figure is always the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from math import hypot

INK = "#1f2937"
SOFT_INK = "#4b5563"
WHITE = "#ffffff"
FONT = "system-ui, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"

# Width of a character over the font size: digits are 0.56 in Arial, 0.64 in DejaVu Sans. Only room is reckoned with it.
CHARACTER = 0.6

Point = tuple[float, float]


def tag(name: str, *content: str, **attributes: str | float) -> str:
    """One element; underscores in attribute names stand for hyphens.

    >>> tag("rect", x=1.0, stroke_width=0.5)
    '<rect x="1" stroke-width="0.5"/>'
    """
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items())
    return f"<{name}{written}>{''.join(content)}</{name}>" if content else f"<{name}{written}/>"


def words(name: str, content: str, **attributes: str | float) -> str:
    """An element that holds text."""
    return tag(name, escape(content), **attributes)


def number(value: float) -> str:
    # Adding zero turns -0.0 into 0.0.
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def points(corners: Iterable[Point]) -> str:
    return " ".join(f"{number(x)},{number(y)}" for x, y in corners)


def lines(segments: Iterable[tuple[Point, Point]]) -> str:
    """Path data of straight lines."""
    return "".join(f"M{number(a)} {number(b)}L{number(c)} {number(d)}" for (a, b), (c, d) in segments)


def text_width(content: str, size: float) -> float:
    """Room a line of text needs at most, roughly."""
    return CHARACTER * size * len(content)


def text(
    at: Point,
    content: str,
    *,
    size: float = 13,
    anchor: str = "middle",
    bold: bool = False,
    fill: str = INK,
    room: float = 0,
) -> str:
    """A line of text; set smaller where it would need more than `room`."""
    wide = text_width(content, size)
    if 0 < room < wide:
        size *= room / wide
    weight = {"font_weight": "bold"} if bold else {}
    x, y = at
    return words("text", content, x=x, y=y, font_size=size, text_anchor=anchor, fill=fill, **weight)


def arrow(path: Sequence[Point], *, color: str = INK, width: float = 2.0) -> str:
    """A line through the points of `path` with a head at its end."""
    (x0, y0), (x1, y1) = path[-2], path[-1]
    length = hypot(x1 - x0, y1 - y0)
    dx, dy = (x1 - x0) / length, (y1 - y0) / length
    head, wing = 4 + 2.5 * width, 2 + 1.25 * width
    neck = (x1 - head * dx, y1 - head * dy)
    corners = [(x1, y1), (neck[0] - wing * dy, neck[1] + wing * dx), (neck[0] + wing * dy, neck[1] - wing * dx)]
    way = points([*path[:-1], neck])
    return tag("polyline", points=way, fill="none", stroke=color, stroke_width=width, stroke_linejoin="round") + tag(
        "polygon", points=points(corners), fill=color
    )


def mixed(color: str, other: str, share: float) -> str:
    """`color` with a share of `other` in it.

    >>> mixed("#000000", "#ffffff", 0.5)
    '#808080'
    """
    pairs = zip(_channels(color), _channels(other), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def _channels(color: str) -> list[int]:
    return [int(color[i : i + 2], 16) for i in (1, 3, 5)]


def _value(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else number(value)
