"""The four scenes: the dense convolution, the depthwise step, the pointwise step, and both ways side by side.

A scene is drawn for one output pixel: what the kernel lies on, the weights and the pixel they make stand out. It is as
wide as a phone; `scenes.js` draws the same, line by line, and moves it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..cost import separable_cost
from ..geometry import Geometry
from ..page.svg import number
from .arithmetic import percent, plural, shape, signed
from .cells import SLANT_X, SLANT_Y, Cell, Cells, Line, input_line, kernel_line, output_line
from .values import Axis, Place, Values

WIDTH = 448
MARGIN = 8
TOP = 40
# A volume's name above it, and what keeps it from the one above.
NAME, APART = 16, 6
# Channels and filters drawn of many.
SHOWN = 3
# Outputs that are not at work show their values where these take no more products than this.
QUICK = 200

Draw = Callable[[float, float], str]


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture: its height, its markup, and what it shows in a sentence."""

    height: float
    content: str
    label: str


@dataclass(frozen=True, slots=True)
class Stage:
    """A layer at one of its output pixels, `at` in the order of memory, with one of its first filters at work."""

    values: Values
    at: int
    filter: int = 0

    @classmethod
    def of(cls, g: Geometry) -> Stage:
        """At the pixel in the middle."""
        values = Values(g)
        z, y, x = values.axes
        return cls(values, z.out // 2 * y.out * x.out + y.out // 2 * x.out + x.out // 2)

    @property
    def g(self) -> Geometry:
        return self.values.g

    @property
    def solid(self) -> bool:
        return self.g.rank == 3

    @property
    def place(self) -> Place:
        _, y, x = self.values.axes
        return self.at // (y.out * x.out), self.at // x.out % y.out, self.at % x.out

    def index(self, place: Place) -> int:
        _, y, x = self.values.axes
        return (place[0] * y.out + place[1]) * x.out + place[2]

    def input_cells(self) -> Cells:
        rooms, most = ((5, 6, 6), 3) if self.solid else ((1, 9, 9), 5)
        sides = zip(self.values.axes, self.place, rooms, strict=True)
        return _cells([input_line(axis, at, room, most) for axis, at, room in sides], self.solid)

    def kernel_cells(self, most: int) -> Cells:
        return _cells([kernel_line(axis, 3 if self.solid else most) for axis in self.values.axes], self.solid)

    def output_cells(self) -> Cells:
        rooms = (4, 5, 5) if self.solid else (1, 6, 6)
        sides = zip(self.values.axes, self.place, rooms, strict=True)
        return _cells([output_line(axis, at, room) for axis, at, room in sides], self.solid)

    def one_cell(self) -> Cells:
        return _cells([kernel_line(Axis(1, 1, 1, 0, 0, 1, 1), 1)] * 3, self.solid)


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
            _text(MARGIN, y - cells.height / 2 - 4, row.name, "name"),
            cells.draw(MARGIN, y - cells.height / 2, f"cells {row.kind}", term("in_channels"), row.source),
            _text((MARGIN + cells.width + x) / 2, y + 5, "∗", "sign"),
            kernel.draw(x, y - kernel.height / 2, f"cells {row.kind}", term("kernel_size"), _weights(row.weight)),
            _text(x + kernel.width + 5, y + 3.5, signed(row.part), "part"),
            _line((min(x + kernel.width + 30, sum_x - 14), y), (sum_x - 9, sum_y)) if several else "",
        ]
    target = out_top + stage.filter * out_pitch + NAME + _middle_of(stage, made)
    if several:
        parts.append(f'<circle class="node" cx="{number(sum_x)}" cy="{number(sum_y)}" r="9"/>')
        parts.append(_text(sum_x, sum_y + 4, "Σ", "sum"))
    parts.append(_arrow((sum_x + 9 if several else x + kernel.width + 30, sum_y), (right - 4, target)))
    for f in range(filters):
        y = out_top + f * out_pitch + NAME
        kind = "cells out at-work" if f == stage.filter else "cells out"
        parts += [
            _text(right, y - 4, f"filter {f + 1}", "name"),
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
        parts.append(_text(MARGIN, y - cells.height / 2 - 4, f"channel {c + 1}", "name"))
        parts.append(cells.draw(MARGIN, y - cells.height / 2, f"cells c{c}", term("in_channels"), _input(stage, c)))
        for m in range(copies):
            j, middle = c * g.depth_multiplier + m, y + (m - (copies - 1) / 2) * each
            kind, end = f"cells {hue(g, j)}", middle - made.height / 2
            parts += [
                _text((MARGIN + cells.width + x) / 2, middle + 5, "∗", "sign"),
                kernel.draw(
                    x,
                    middle - kernel.height / 2,
                    kind,
                    term("kernel_size"),
                    _weights(lambda tap, j=j: values.depthwise(j, tap)),  # type: ignore[misc]
                ),
                _arrow((x + kernel.width + 8, middle), (right - 4, end + _middle_of(stage, made))),
                _text(right, end - 4, lane(g, j), "name"),
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


def both(stage: Stage) -> Scene:
    """The two ways from input to output, their multiplications as bars, and what their kernels can be."""
    g, cost, kernel = stage.g, separable_cost(stage.g), stage.kernel_cells(3)
    whole, one, two = cost.dense.multiplications, cost.depthwise.multiplications, cost.pointwise.multiplications
    filters, ones = g.output_size[0], (1,) * g.rank
    dearer = "" if one + two < whole else ": NOT cheaper"
    parts = [
        _text(MARGIN, 14, "dense", "title"),
        *_volumes(40, [(70, g.input_size, "c0"), (374, g.output_size, "out")]),
        *_way(115, 325, 40, plural(filters, "kernel"), shape((g.in_channels, *g.kernel_size)), f"{whole:,}", "dense"),
        _text(MARGIN, 112, "separable", "title"),
        *_volumes(138, [(70, g.input_size, "c0"), (222, g.depthwise_size, "c0"), (374, g.output_size, "out")]),
        *_way(
            110, 180, 138, plural(g.depthwise_channels, "kernel"), shape((1, *g.kernel_size)), f"{one:,}", "depthwise"
        ),
        *_way(260, 330, 138, plural(filters, "kernel"), shape((g.depthwise_channels, *ones)), f"{two:,}", "pointwise"),
        _text(MARGIN, 212, "multiplications", "title"),
        _text(MARGIN, 230, f"dense {whole:,}", "name"),
        _bar(MARGIN, 235, whole, max(whole, one + two), "dense"),
        _text(
            MARGIN,
            263,
            f"separable {one:,} + {two:,} = {one + two:,}, {percent(one + two, whole)}{dearer}",
            "name",
        ),
        _bar(MARGIN, 268, one, max(whole, one + two), "depthwise"),
        _bar(MARGIN + _length(one, max(whole, one + two)), 268, two, max(whole, one + two), "pointwise"),
        _text(MARGIN, 302, "what a kernel can be: channel 1 of the first filters", "title"),
        *_dense_kernels(stage, kernel, 326),
        *_separable_kernels(stage, kernel, 326 + kernel.height + 34),
    ]
    label = f"Dense: {whole:,} multiplications. Separable: {one:,} and {two:,}, together {one + two:,}."
    return Scene(326 + 2 * kernel.height + 54, "".join(parts), label)


def _dense_kernels(stage: Stage, kernel: Cells, y: float) -> list[str]:
    parts = [
        _text(MARGIN, y + kernel.height / 2 - 2, "dense:", "name"),
        _text(MARGIN, y + kernel.height / 2 + 10, "each its own", "name"),
    ]
    for f in range(min(stage.g.output_size[0], 4)):
        x = 100 + 86 * f
        draw = _weights(lambda tap, f=f: stage.values.dense(f, 0, tap))  # type: ignore[misc]
        parts += [
            _text(x, y - 4, f"filter {f + 1}", "name"),
            kernel.draw(x, y, "cells dense", term("out_channels"), draw),
        ]
    return parts


def _separable_kernels(stage: Stage, kernel: Cells, y: float) -> list[str]:
    """Each a multiple of the channel's one filter, or a mix of its several."""
    values, copies = stage.values, stage.g.depth_multiplier
    own = _weights(lambda tap: values.depthwise(0, tap))
    name = "the filter a" if copies == 1 else f"a, of {copies:,} filters"
    parts = [_text(MARGIN, y - 4, name, "name"), kernel.draw(MARGIN, y, "cells c0", term("depth_multiplier"), own)]
    for f in range(min(stage.g.output_size[0], 4)):
        x = 100 + 86 * f

        def mixed(tap: Place, f: int = f) -> int:
            return sum(values.pointwise(f, m) * values.depthwise(m, tap) for m in range(copies))

        parts += [
            _text(x, y - 4, f"filter {f + 1}", "name"),
            kernel.draw(x, y, "cells out", term("out_channels"), _weights(mixed)),
            _text(x, y + kernel.height + 12, _mix(values, f, copies), "name"),
        ]
    return parts


def _mix(values: Values, f: int, copies: int) -> str:
    first = f"{signed(values.pointwise(f, 0))} · a"
    return first if copies == 1 else f"{first} + …"


def lane(g: Geometry, j: int) -> str:
    """The name of a channel after the depthwise step; a letter where its input channel has several kernels."""
    c, m = divmod(j, g.depth_multiplier)
    return f"channel {c + 1}" if g.depth_multiplier == 1 else f"channel {c + 1}{chr(97 + m)}"


def hue(g: Geometry, j: int) -> str:
    c, m = divmod(j, g.depth_multiplier)
    return f"c{c} light" if m % 2 else f"c{c}"


def term(name: str) -> str:
    return f' data-term="{name}"'


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


def _weights(weight: Callable[[Place], int]) -> Cell:
    return lambda tap: ("weight", signed(weight(tap)))


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


def _cells(lines: Sequence[Line], solid: bool) -> Cells:
    z, y, x = lines
    return Cells(z, y, x, solid)


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
        parts += [_text(at, 12, name, f"title{kind}"), _text(at, 25, size, f"name{kind}")]
        if not (cells.z.whole and cells.y.whole and cells.x.whole):
            lines = (cells.z, cells.y, cells.x)[3 - rank :]
            few, all_ = (
                "×".join(f"{count:,}" for count in counts)
                for counts in ([len(line.places) for line in lines], [line.stop - line.first for line in lines])
            )
            parts.append(_text(at, 37, f"drawn: {few} of {all_}", f"small{kind}"))
    return parts


def _volumes(y: float, volumes: Sequence[tuple[float, Sequence[int], str]]) -> list[str]:
    parts = []
    for x, size, kind in volumes:
        sheets, wide, high = min(size[0], 4), 30, (0, 10, 30, 30)[len(size) - 1]
        deep = 8 if len(size) == 4 else 0
        drawn = "".join(
            _box(x - wide / 2 + 4 * i - 2 * (sheets - 1), y - high / 2 - 3 * i + 2 * (sheets - 1), wide, high, deep)
            for i in reversed(range(sheets))
        )
        parts.append(f'<g class="cells {kind}">{drawn}</g>' + _text(x, y + 36, shape(size), "name middle"))
    return parts


def _box(x: float, y: float, wide: float, high: float, deep: float) -> str:
    edges = f"l{deep} -{deep}h{wide}v{high}l-{deep} {deep}v-{high}zM{number(x + wide)} {number(y)}l{deep} -{deep}"
    back = f"M{number(x)} {number(y)}{edges}" if deep else ""
    return f'<path class="in" d="{back}M{number(x)} {number(y)}h{wide}v{high}h-{wide}z"/>'


def _way(x: float, end: float, y: float, kernels: str, size: str, price: str, kind: str) -> list[str]:
    middle = (x + end) / 2
    return [
        _text(middle, y - 20, kernels, "name middle"),
        _text(middle, y - 8, size, "name middle"),
        f'<path class="way {kind}" d="M{number(x)} {number(y)}H{number(end - 6)}m0 -5l6 5l-6 5"/>',
        _text(middle, y + 16, price, "title middle" if len(price) < 12 else "small middle"),
    ]


def _length(amount: int, most: int) -> float:
    return (WIDTH - 2 * MARGIN) * 8 * amount // most / 8


def _bar(x: float, y: float, amount: int, most: int, kind: str) -> str:
    wide = number(_length(amount, most))
    return f'<rect class="bar {kind}" x="{number(x)}" y="{number(y)}" width="{wide}" height="12"/>'


def _text(x: float, y: float, content: str, kind: str) -> str:
    return f'<text class="{kind}" x="{number(x)}" y="{number(y)}">{content}</text>'


def _line(start: tuple[float, float], end: tuple[float, float]) -> str:
    return f'<path class="line" d="M{number(start[0])} {number(start[1])}L{number(end[0])} {number(end[1])}"/>'


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    return (
        f'<path class="line" d="M{number(start[0])} {number(start[1])}L{number(end[0] - 8)} {number(end[1])}'
        'h8m-5 -4l5 4l-5 4"/>'
    )


def _more(x: float, y: float, count: int, thing: str, rest: str, kind: str) -> str:
    return _text(x, y, f"and {count:,} more {thing}{'s' * (count != 1)}{rest}", kind) if count > 0 else ""
