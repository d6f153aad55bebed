"""Writing SVG and HTML: tags and text, with numbers rounded so that the same figure is always the same bytes."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

# In the colours of the page around, where it has any.
INK = "var(--ink, #1f2937)"
SOFT_INK = "var(--soft, #4b5563)"

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
    return tag(name, escape(content, quote=False), **attributes)


def number(value: float) -> str:
    """At most three decimals.

    >>> number(2.5), number(7), number(-0.0)
    ('2.5', '7', '0')
    """
    # Adding zero turns -0.0 into 0.0.
    return f"{round(value, 3) + 0.0:.3f}".rstrip("0").rstrip(".")


def points(corners: Iterable[Point]) -> str:
    return " ".join(f"{number(x)},{number(y)}" for x, y in corners)


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
    kind: str = "",
) -> str:
    """A line of text; set smaller where it would need more than `room`."""
    wide = text_width(content, size)
    if 0 < room < wide:
        size *= room / wide
    weight = ({"font_weight": "bold"} if bold else {}) | ({"class_": kind} if kind else {})
    x, y = at
    return words("text", content, x=x, y=y, font_size=size, text_anchor=anchor, fill=fill, **weight)


def _value(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else number(value)
