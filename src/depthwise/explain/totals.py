"""The panels that compare: both ways from input to output, and their multiplications as bars."""

from __future__ import annotations

from collections.abc import Sequence

from ..cost import closed_form_ratio, separable_cost
from ..geometry import Geometry
from .arithmetic import Step, percent, steps
from .layout import CAPTION, HEADING, MARGIN, NEAR, Columns, Panel, caption, heading, sides
from .svg import Point, arrow, tag, text, text_width
from .volumes import MIXED, Volumes, volume

DETOUR = 40.0
BAR = 26.0
BAR_START = 128.0
DENSE, DEPTHWISE, POINTWISE = "#6b7280", "#d55e00", MIXED


def path_panel(volumes: Volumes, columns: Columns) -> Panel:
    """Input, middle and output; the dense convolution as the arrow above."""
    first, middle, last = volumes.input(), volumes.middle(), volumes.output()
    dense, one, two = steps(volumes.g)
    xs = (columns.first, columns.width / 2, columns.last)
    tallest = max(solid.extent[1] for solid in (first, middle, last))
    top = HEADING + DETOUR
    y, label = top + tallest / 2, top + tallest + 24
    parts = [heading("Both ways from input to output", "The numbers are multiplications.", columns.width)]
    sizes = (one.input_size, two.input_size, two.output_size)
    for x, solid, size, name in zip(xs, (first, middle, last), sizes, ("input", "after step 1", "output"), strict=True):
        parts += [solid.draw((x, y)), caption((x, label), volume(size), name)]
    spans = [
        (sides(first, xs[0])[1] + NEAR, sides(middle, xs[1])[0] - NEAR),
        (sides(middle, xs[1])[1] + NEAR, sides(last, xs[2])[0] - NEAR),
    ]
    parts += [
        _way(span, y, step, color) for span, step, color in zip(spans, (one, two), (DEPTHWISE, POINTWISE), strict=True)
    ]
    ends = ((xs[0], y - first.extent[1] / 2 - 6), (xs[2], y - last.extent[1] / 2 - 8))
    parts.append(_detour(ends, HEADING + 12, dense))
    return Panel("".join(parts), top + tallest + CAPTION)


def _way(span: tuple[float, float], y: float, step: Step, color: str) -> str:
    start, end = span
    middle, room = (start + end) / 2, end - start
    return (
        text((middle, y - 11), step.name, size=14, bold=True, room=room)
        + arrow([(start, y), (end, y)], color=color, width=3)
        + text((middle, y + 22), f"{step.cost.multiplications:,}", size=14, bold=True, room=room)
    )


def _detour(ends: tuple[Point, Point], y: float, step: Step) -> str:
    (x0, y0), (x1, y1) = ends
    middle = (x0 + x1) / 2
    return arrow([(x0, y0), (x0, y), (x1, y), (x1, y1)], color=DENSE, width=3) + text(
        (middle, y - 9), f"{step.name}: {step.cost.multiplications:,}", size=14, bold=True
    )


def bars_panel(g: Geometry, columns: Columns) -> Panel:
    """The multiplications of both ways as bars of one scale."""
    dense, one, two = (step.cost.multiplications for step in steps(g))
    cost = separable_cost(g)
    cheaper = one + two < dense
    verdict = f"{percent(cost.ratio)} of the dense one's" + ("" if cheaper else ": NOT cheaper")
    rows = (
        ("dense", ((dense, DENSE),), [f"{dense:,}"]),
        ("separable", ((one, DEPTHWISE), (two, POINTWISE)), [f"{one:,} + {two:,} = {one + two:,}", verdict]),
    )
    beside = max(text_width(label, 14) for _, _, labels in rows for label in labels) + 10
    unit = (columns.width - BAR_START - beside - MARGIN) / max(dense, one + two)
    parts = [heading("Multiplications", _closed_form(g), columns.width)]
    for index, (name, pieces, labels) in enumerate(rows):
        parts.append(_bar(HEADING + index * BAR * 1.6, name, pieces, labels, unit))
    return Panel("".join(parts), HEADING + 3.2 * BAR + 4)


def _bar(y: float, name: str, pieces: Sequence[tuple[int, str]], labels: Sequence[str], unit: float) -> str:
    parts = [text((BAR_START - 12, y + BAR / 2 + 5), name, size=14, anchor="end")]
    x = BAR_START
    for amount, color in pieces:
        parts.append(tag("rect", x=x, y=y, width=amount * unit, height=BAR, fill=color))
        x += amount * unit
    lift = 6 if len(labels) > 1 else 0
    for index, label in enumerate(labels):
        at = (x + 10, y + BAR / 2 + 5 - lift + 17 * index)
        parts.append(text(at, label, size=14, anchor="start", bold=True))
    return "".join(parts)


def _closed_form(g: Geometry) -> str:
    share = f"{g.depth_multiplier}·(1/{g.output_size[0]} + 1/{g.kernel_area})"
    share += f" = {closed_form_ratio(g):.4f}"
    return f"separable / dense = depth multiplier·(1/output channels + 1/kernel area) = {share}"
