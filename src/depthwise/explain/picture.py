"""The figure: the dense convolution, the two steps of the separable one, the whole path, and the sums as bars."""

from __future__ import annotations

from ..geometry import Geometry
from . import lanes, mixing, totals
from .arithmetic import headline, plural, steps
from .layout import MARGIN, Columns
from .svg import FONT, SOFT_INK, WHITE, number, tag, text, words
from .volumes import Volumes

LEAST_WIDTH = 1000.0
HEADER = 78.0
FOOTER = 24.0
SPACE = 20.0


def draw(g: Geometry) -> str:
    """The figure of `g` as one SVG document."""
    volumes = Volumes.of(g)
    columns = Columns.of(volumes, max(LEAST_WIDTH, mixing.least_width(volumes), lanes.least_width(volumes)))
    dense, _, pointwise = steps(g)
    panels = (
        mixing.dense_panel(volumes, dense, columns),
        lanes.depthwise_panel(volumes, columns),
        mixing.pointwise_panel(volumes, pointwise, columns),
        totals.path_panel(volumes, columns),
        totals.bars_panel(g, columns),
    )
    parts, y = [_header(g, columns.width)], HEADER
    for panel in panels:
        parts.append(tag("g", panel.content, transform=f"translate(0 {number(y)})"))
        y += panel.height + SPACE
        parts.append(
            tag("path", d=f"M{MARGIN} {number(y - SPACE / 2)}H{number(columns.width - MARGIN)}", stroke="#d1d5db")
        )
    for note in notes(volumes):
        parts.append(
            text((MARGIN, y + 12), note, size=12.5, anchor="start", fill=SOFT_INK, room=columns.width - 2 * MARGIN)
        )
        y += FOOTER - 5
    return _document(g, parts, columns.width, y + 12)


def notes(volumes: Volumes) -> list[str]:
    """How to read the figure: the order of the sizes, and what is not in proportion."""
    g = volumes.g
    axes = {1: "length × channels", 2: "height × width × channels", 3: "depth × height × width × channels"}[g.rank]
    found = [f"Sizes are {axes}. Pale: data. Strong: the kernels, the pixels under a kernel, the pixel they become."]
    if g.rank == 3:
        found.append("Each block is one channel, depth × height × width; of many channels three are drawn.")
    if any(before or after for before, after in g.padding):
        found.append("Dashed: zeros added around the input (padding).")
    return found + _shortened(volumes)


def _shortened(volumes: Volumes) -> list[str]:
    beyond = []
    if not volumes.pixels.exact:
        beyond.append(f"sides beyond {plural(volumes.pixels.exact_until, 'pixel')}")
    if volumes.g.rank < 3 and not volumes.channels.exact:
        beyond.append(f"stacks beyond {plural(volumes.channels.exact_until, 'channel')}")
    return [f"Not in proportion: {' and '.join(beyond)} are drawn shortened; the numbers are true."] if beyond else []


def _header(g: Geometry, width: float) -> str:
    room = width - 2 * MARGIN
    sentence = "The same job in two ways: with one dense step, or with a depthwise step and a pointwise step."
    return text((MARGIN, 38), headline(g), size=22, anchor="start", bold=True, room=room) + text(
        (MARGIN, 62), sentence, size=14, anchor="start", fill=SOFT_INK, room=room
    )


def _document(g: Geometry, parts: list[str], width: float, height: float) -> str:
    wide, high = number(width), number(height)
    dense, one, two = (step.cost.multiplications for step in steps(g))
    title = f"{headline(g)}: dense and depthwise separable"
    description = (
        f"Dense: {dense:,} multiplications. Depthwise step: {one:,}, every channel by itself. "
        f"Pointwise step: {two:,}, mixing channels. Together {one + two:,}."
    )
    return tag(
        "svg",
        words("title", title),
        words("desc", description),
        tag("rect", width=width, height=height, fill=WHITE),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {wide} {high}",
        width=wide,
        height=high,
        role="img",
        font_family=FONT,
    )
