"""What the figure's panels share: columns, headings and captions."""

from __future__ import annotations

from dataclasses import dataclass

from .solids import Solid
from .svg import INK, SOFT_INK, Point, arrow, text, text_width
from .volumes import Volumes, volume

MARGIN = 30.0
HEADING = 62.0
CAPTION = 62.0
# Between a volume and the sign or the arrow beside it.
NEAR = 14.0
# Shortest arrow that arithmetic fits under.
ARROW = 190.0


@dataclass(frozen=True, slots=True)
class Columns:
    """The figure's width, and where every panel has its first and its last volume."""

    width: float
    first: float
    last: float

    @classmethod
    def of(cls, volumes: Volumes, width: float) -> Columns:
        first, last = end_widths(volumes)
        return cls(width, MARGIN + first / 2, width - MARGIN - last / 2)


def end_widths(volumes: Volumes) -> tuple[float, float]:
    """Widths of the first and the last column: of their widest volume or caption."""
    labels = (volume(volumes.g.input_size), volume(volumes.g.output_size), "stacked again")
    caption_width = max(text_width(label, 13) for label in labels)
    firsts = (volumes.input(window=True), volumes.middle())
    lasts = (volumes.output(), volumes.middle())
    first, last = (max(caption_width, *(solid.extent[0] for solid in solids)) for solids in (firsts, lasts))
    return first, last


@dataclass(frozen=True, slots=True)
class Panel:
    """A drawing from its own top edge down."""

    content: str
    height: float


def heading(title: str, sentence: str, width: float) -> str:
    room = width - 2 * MARGIN
    return text((MARGIN, 22), title, size=17, anchor="start", bold=True, room=room) + text(
        (MARGIN, 43), sentence, size=13.5, anchor="start", fill=SOFT_INK, room=room
    )


def caption(at: Point, size: str, note: str, *, room: float = 170) -> str:
    """A size in bold with a note below."""
    x, y = at
    return text((x, y), size, bold=True, room=room) + text((x, y + 17), note, size=12.5, fill=SOFT_INK, room=room)


def priced_arrow(start: float, end: float, y: float, formula: str, result: str) -> str:
    """An arrow to the right with its arithmetic below."""
    middle, room = (start + end) / 2, end - start - 8
    return (
        arrow([(start, y), (end, y)])
        + text((middle, y + 20), formula, room=room)
        + text((middle, y + 38), result, bold=True, room=room)
    )


def convolved(x: float, y: float) -> str:
    """The sign between a volume and the kernels it is convolved with."""
    return text((x, y + 9), "∗", size=28, fill=INK)


def sides(solid: Solid, x: float) -> tuple[float, float]:
    """Left and right end of a solid drawn around x."""
    half = solid.extent[0] / 2
    return x - half, x + half
