"""The scenes of the dense convolution, the depthwise step and the pointwise step, and with them all four.

A scene is drawn for one output pixel: what the kernel lies on, the weights and the pixel they make stand out;
`scenes.js` draws the same, line by line, and moves it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..page.svg import number
from .arithmetic import plural, shape, signed
from .cells import SLANT_X, SLANT_Y, Cell, Cells
from .comparison import both
from .stage import MARGIN, SHOWN, WIDTH, Scene, Stage, hue, lane, term, text, weights
from .values import Axis, Place

TOP = 40
# A volume's name above it, and what keeps it from the one above.
NAME, APART = 16, 6
# Outputs that are not at work show their values where these take no more products than this.
QUICK = 200


@dataclass(frozen=True, slots=True)
class Row:
    """One channel on its way into a sum."""

    name: str
    kind: str
    source: Cell
    weight: Callable[[Place], int]
    part: int


def scenes(stage: Stage) -> list[Scene]:
    return [dense(stage), depthwise(stage), pointwise(stage), both(stage)]


def dense(stage: Stage) -> Scene:
    g, values, f = stage.g, stage.values, stage.filter
    rows = [
        Row(
            f"channel {c + 1}",
            f"c{c}",
            _input(stage, c),
            lambda tap, c=c: values.dense(f, c, tap),  # type: ignore[misc]
            values.dense_part(f, c, stage.place),
        )
        for c in range(min(g.in_channels, SHOWN))
    ]
    label = f"Filter {f + 1} lies on {plural(g.in_channels, 'channel')} at once and makes one pixel of its output."
    size = (g.in_channels, *g.kernel_size)
    return _mixing(
        stage, "input", g.input_size, stage.input_cells(), size, stage.kernel_cells(5), rows, values.dense_sum, label
    )


def pointwise(stage: Stage) -> Scene:
    g, values, f = stage.g, stage.values, stage.filter
    rows = [
        Row(
            lane(g, j),
            hue(g, j),
            _middle(stage, j, done=True),
            lambda _, j=j: values.pointwise(f, j),  # type: ignore[misc]
            values.pointwise(f, j) * values.depthwise_sum(j, stage.place),
        )
        for j in range(min(g.depthwise_channels, SHOWN))
    ]
    label = f"Filter {f + 1} mixes {plural(g.depthwise_channels, 'channel')} at one pixel."
    name, size, kernel = "after depthwise", g.depthwise_size, (g.depthwise_channels, *(1,) * g.rank)
    return _mixing(stage, name, size, stage.output_cells(), kernel, stage.one_cell(), rows, values.pointwise_sum, label)


def _mixing(
    stage: Stage,
    name: str,
    size: Sequence[int],
    cells: Cells,
    kernel_size: Sequence[int],
    kernel: Cells,
    rows: Sequence[Row],
    total: Callable[[int, Place], int | None],
    label: str,
) -> Scene:
    """Channels on the left, one filter's kernel in the middle, a sum, and the first filters' outputs on the right."""
    g, made = stage.g, stage.output_cells()
    filters = min(g.output_size[0], SHOWN)
    pitch, out_pitch = max(cells.height, kernel.height) + NAME + APART, made.height + NAME + APART
    high = max(len(rows) * pitch, filters * out_pitch)
    top, out_top = TOP + (high - len(rows) * pitch) / 2, TOP + (high - filters * out_pitch) / 2
    right = WIDTH - MARGIN - 8 - max(made.width, 40)
    x = MARGIN + cells.width + (right - MARGIN - cells.width - kernel.width) * 7 // 16
    sum_x, sum_y = right - 30, TOP + high / 2
    several = len(rows) > 1 or size[0] > 1
    parts = _captions(
        x + kernel.width / 2,
        (name, shape(size), cells),
        (f"kernel {stage.filter + 1} of {g.output_size[0]:,}", shape(kernel_size), kernel),
        ("output", shape(g.output_size), made),
        g.rank,
    )
    for index, row in enumerate(rows):
        y = top + index * pitch + NAME + (pitch - NAME - APART) / 2
        parts += [
            text(MARGIN, y - cells.height / 2 - 4, row.name, "name"),
            cells.draw(MARGIN, y - cells.height / 2, f"cells {row.kind}", term("in_channels"), row.source),
            text((MARGIN + cells.width + x) / 2, y + 5, "∗", "sign"),
            kernel.draw(x, y - kernel.height / 2, f"cells {row.kind}", term("kernel_size"), weights(row.weight)),
            text(x + kernel.width + 5, y + 3.5, signed(row.part), "part"),
            _line((min(x + kernel.width + 30, sum_x - 14), y), (sum_x - 9, sum_y)) if several else "",
        ]
    target = out_top + stage.filter * out_pitch + NAME + _middle_of(stage, made)
    if several:
        parts.append(f'<circle class="node" cx="{number(sum_x)}" cy="{number(sum_y)}" r="9"/>')
        parts.append(text(sum_x, sum_y + 4, "Σ", "sum"))
    parts.append(_arrow((sum_x + 9 if several else x + kernel.width + 30, sum_y), (right - 4, target)))
    for f in range(filters):
        y = out_top + f * out_pitch + NAME
        kind = "cells out at-work" if f == stage.filter else "cells out"
        parts += [
            text(right, y - 4, f"filter {f + 1}", "name"),
            made.draw(right, y, kind, term("out_channels") + _grid(stage, made, f), _output(stage, f, total)),
        ]
    whole = total(stage.filter, stage.place)
    rest = "" if whole is None else f", together {signed(whole - sum(row.part for row in rows))}"
    parts.append(_more(MARGIN, TOP + high + 10, size[0] - len(rows), "channel", rest, "note"))
    parts.append(_more(WIDTH - MARGIN, TOP + high + 10, g.output_size[0] - filters, "filter", "", "note end"))
    return Scene(TOP + high + 18, "".join(parts), label)


def depthwise(stage: Stage) -> Scene:
    g, values = stage.g, stage.values
    cells, kernel, made = stage.input_cells(), stage.kernel_cells(5), stage.output_cells()
    channels, copies = min(g.in_channels, SHOWN if g.depth_multiplier == 1 else 2), min(g.depth_multiplier, 2)
    each = max(kernel.height, made.height) + NAME + APART
    pitch = max(cells.height + NAME + APART, copies * each)
    right = WIDTH - MARGIN - 8 - max(made.width, 40)
    x = MARGIN + cells.width + (right - MARGIN - cells.width - kernel.width) * 7 // 16
    parts = _captions(
        x + kernel.width / 2,
        ("input", shape(g.input_size), cells),
        (plural(g.depthwise_channels, "kernel"), shape((1, *g.kernel_size)), kernel),
        ("after depthwise", shape(g.depthwise_size), made),
        g.rank,
    )
    for c in range(channels):
        y = TOP + c * pitch + NAME + (pitch - NAME - APART) / 2
        parts.append(text(MARGIN, y - cells.height / 2 - 4, f"channel {c + 1}", "name"))
        parts.append(cells.draw(MARGIN, y - cells.height / 2, f"cells c{c}", term("in_channels"), _input(stage, c)))
        for m in range(copies):
            j, middle = c * g.depth_multiplier + m, y + (m - (copies - 1) / 2) * each
            kind, end = f"cells {hue(g, j)}", middle - made.height / 2
            parts += [
                text((MARGIN + cells.width + x) / 2, middle + 5, "∗", "sign"),
                kernel.draw(
                    x,
                    middle - kernel.height / 2,
                    kind,
                    term("kernel_size"),
                    weights(lambda tap, j=j: values.depthwise(j, tap)),  # type: ignore[misc]
                ),
                _arrow((x + kernel.width + 8, middle), (right - 4, end + _middle_of(stage, made))),
                text(right, end - 4, lane(g, j), "name"),
                made.draw(
                    right,
                    end,
                    kind,
                    term("depth_multiplier") + _grid(stage, made, stage.filter),
                    _middle(stage, j, done=False),
                ),
            ]
    bottom = TOP + channels * pitch
    parts.append(_more(MARGIN, bottom + 10, g.in_channels - channels, "channel", "", "note"))
    others = g.depth_multiplier - copies
    parts.append(_more(WIDTH - MARGIN, bottom + 10, others, "kernel", " for each channel", "note end"))
    label = f"{plural(g.depth_multiplier, 'kernel')} for each channel; a kernel sees its own channel and no other."
    return Scene(bottom + 18, "".join(parts), label)


def _input(stage: Stage, c: int) -> Cell:
    axes, at, solid, values = stage.values.axes, stage.place, stage.solid, stage.values

    def cell(place: Place) -> tuple[str, str]:
        under = all(_is_tap(axis, i, p) for axis, i, p in zip(axes, at, place, strict=True))
        inside = all(0 <= p < axis.n for axis, p in zip(axes, place, strict=True))
        if solid:
            return ("tap", str(values.inputs(c, place))) if under else ("", "")
        return ("tap" if under else "in") + ("" if inside else " pad"), str(values.inputs(c, place))

    return cell


def _is_tap(axis: Axis, at: int, place: int) -> bool:
    offset = place - at * axis.s + axis.before
    return 0 <= offset < axis.reach and offset % axis.d == 0


def _middle(stage: Stage, j: int, *, done: bool) -> Cell:
    """A channel after the depthwise step: all of it, or as far as it is."""
    quick = stage.g.kernel_area <= QUICK

    def cell(place: Place) -> tuple[str, str]:
        index = stage.index(place)
        if stage.solid and place[0] != stage.place[0]:
            return "", ""
        if index == stage.at:
            return ("tap" if done else "now"), signed(stage.values.depthwise_sum(j, place))
        if index > stage.at and not done:
            return "later", ""
        return ("in" if done else "done"), signed(stage.values.depthwise_sum(j, place)) if quick else ""

    return cell


def _output(stage: Stage, f: int, total: Callable[[int, Place], int | None]) -> Cell:
    quick = stage.g.depthwise_channels * stage.g.kernel_area <= QUICK

    def cell(place: Place) -> tuple[str, str]:
        index = stage.index(place)
        if index > stage.at or (stage.solid and place[0] != stage.place[0]):
            return ("", "") if stage.solid and place[0] != stage.place[0] else ("later", "")
        if index == stage.at:
            return "now", signed(total(f, place))
        return "done", signed(total(f, place)) if quick else ""

    return cell


def _grid(stage: Stage, made: Cells, f: int) -> str:
    """For a pointer: the filter, the first place that is drawn, and where its face lies."""
    depth = made.z.places.index(stage.place[0])
    across, down = (SLANT_X * depth, made.rise - SLANT_Y * depth) if stage.solid else (0, 0)
    return f' data-grid="{f} {stage.place[0]} {made.y.places[0]} {made.x.places[0]} {across} {down}"'


def _middle_of(stage: Stage, made: Cells) -> float:
    """How far down in `made` the pixel at work is."""
    row = made.y.starts(made.unit)[made.y.places.index(stage.place[1])]
    depth = made.z.places.index(stage.place[0])
    return row + made.unit / 2 + (made.rise - SLANT_Y * depth if stage.solid else 0)


def _captions(
    middle: float,
    first: tuple[str, str, Cells],
    second: tuple[str, str, Cells],
    third: tuple[str, str, Cells],
    rank: int,
) -> list[str]:
    """What each column is, its size, and how much of it is drawn."""
    parts = []
    for at, kind, (name, size, cells) in (
        (float(MARGIN), "", first),
        (middle, " middle", second),
        (float(WIDTH - MARGIN), " end", third),
    ):
        parts += [text(at, 12, name, f"title{kind}"), text(at, 25, size, f"name{kind}")]
        if not (cells.z.whole and cells.y.whole and cells.x.whole):
            lines = (cells.z, cells.y, cells.x)[3 - rank :]
            few, all_ = (
                "×".join(f"{count:,}" for count in counts)
                for counts in ([len(line.places) for line in lines], [line.stop - line.first for line in lines])
            )
            parts.append(text(at, 37, f"drawn: {few} of {all_}", f"small{kind}"))
    return parts


def _line(start: tuple[float, float], end: tuple[float, float]) -> str:
    return f'<path class="line" d="M{number(start[0])} {number(start[1])}L{number(end[0])} {number(end[1])}"/>'


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    return (
        f'<path class="line" d="M{number(start[0])} {number(start[1])}L{number(end[0] - 8)} {number(end[1])}'
        'h8m-5 -4l5 4l-5 4"/>'
    )


def _more(x: float, y: float, count: int, thing: str, rest: str, kind: str) -> str:
    return text(x, y, f"and {count:,} more {thing}{'s' * (count != 1)}{rest}", kind) if count > 0 else ""
