"""Both ways side by side: from input to output, their multiplications as bars, and what their kernels can be."""

from __future__ import annotations

from collections.abc import Sequence

from ..cost import separable_cost
from ..page.svg import number
from .arithmetic import percent, plural, shape, signed
from .cells import Cells
from .stage import MARGIN, WIDTH, Scene, Stage, term, text, weights
from .values import Place, Values


def both(stage: Stage) -> Scene:
    """The two ways from input to output, their multiplications as bars, and what their kernels can be."""
    g, cost, kernel = stage.g, separable_cost(stage.g), stage.kernel_cells(3)
    whole, one, two = cost.dense.multiplications, cost.depthwise.multiplications, cost.pointwise.multiplications
    filters, ones = g.output_size[0], (1,) * g.rank
    dearer = "" if one + two < whole else ": NOT cheaper"
    parts = [
        text(MARGIN, 14, "dense", "title"),
        *_volumes(40, [(70, g.input_size, "c0"), (374, g.output_size, "out")]),
        *_way(115, 325, 40, plural(filters, "kernel"), shape((g.in_channels, *g.kernel_size)), f"{whole:,}", "dense"),
        text(MARGIN, 112, "separable", "title"),
        *_volumes(138, [(70, g.input_size, "c0"), (222, g.depthwise_size, "c0"), (374, g.output_size, "out")]),
        *_way(
            110, 180, 138, plural(g.depthwise_channels, "kernel"), shape((1, *g.kernel_size)), f"{one:,}", "depthwise"
        ),
        *_way(260, 330, 138, plural(filters, "kernel"), shape((g.depthwise_channels, *ones)), f"{two:,}", "pointwise"),
        text(MARGIN, 212, "multiplications", "title"),
        text(MARGIN, 230, f"dense {whole:,}", "name"),
        _bar(MARGIN, 235, whole, max(whole, one + two), "dense"),
        text(
            MARGIN,
            263,
            f"separable {one:,} + {two:,} = {one + two:,}, {percent(one + two, whole)}{dearer}",
            "name",
        ),
        _bar(MARGIN, 268, one, max(whole, one + two), "depthwise"),
        _bar(MARGIN + _length(one, max(whole, one + two)), 268, two, max(whole, one + two), "pointwise"),
        text(MARGIN, 302, "what a kernel can be: channel 1 of the first filters", "title"),
        *_dense_kernels(stage, kernel, 326),
        *_separable_kernels(stage, kernel, 326 + kernel.height + 34),
    ]
    label = f"Dense: {whole:,} multiplications. Separable: {one:,} and {two:,}, together {one + two:,}."
    return Scene(326 + 2 * kernel.height + 54, "".join(parts), label)


def _dense_kernels(stage: Stage, kernel: Cells, y: float) -> list[str]:
    parts = [
        text(MARGIN, y + kernel.height / 2 - 2, "dense:", "name"),
        text(MARGIN, y + kernel.height / 2 + 10, "each its own", "name"),
    ]
    for f in range(min(stage.g.output_size[0], 4)):
        x = 100 + 86 * f
        draw = weights(lambda tap, f=f: stage.values.dense(f, 0, tap))  # type: ignore[misc]
        parts += [
            text(x, y - 4, f"filter {f + 1}", "name"),
            kernel.draw(x, y, "cells dense", term("out_channels"), draw),
        ]
    return parts


def _separable_kernels(stage: Stage, kernel: Cells, y: float) -> list[str]:
    """Each a multiple of the channel's one filter, or a mix of its several."""
    values, copies = stage.values, stage.g.depth_multiplier
    own = weights(lambda tap: values.depthwise(0, tap))
    name = "the filter a" if copies == 1 else f"a, of {copies:,} filters"
    parts = [text(MARGIN, y - 4, name, "name"), kernel.draw(MARGIN, y, "cells c0", term("depth_multiplier"), own)]
    for f in range(min(stage.g.output_size[0], 4)):
        x = 100 + 86 * f

        def mixed(tap: Place, f: int = f) -> int:
            return sum(values.pointwise(f, m) * values.depthwise(m, tap) for m in range(copies))

        parts += [
            text(x, y - 4, f"filter {f + 1}", "name"),
            kernel.draw(x, y, "cells out", term("out_channels"), weights(mixed)),
            text(x, y + kernel.height + 12, _mix(values, f, copies), "name"),
        ]
    return parts


def _mix(values: Values, f: int, copies: int) -> str:
    first = f"{signed(values.pointwise(f, 0))} · a"
    return first if copies == 1 else f"{first} + …"


def _volumes(y: float, volumes: Sequence[tuple[float, Sequence[int], str]]) -> list[str]:
    parts = []
    for x, size, kind in volumes:
        sheets, wide, high = min(size[0], 4), 30, (0, 10, 30, 30)[len(size) - 1]
        deep = 8 if len(size) == 4 else 0
        drawn = "".join(
            _box(x - wide / 2 + 4 * i - 2 * (sheets - 1), y - high / 2 - 3 * i + 2 * (sheets - 1), wide, high, deep)
            for i in reversed(range(sheets))
        )
        parts.append(f'<g class="cells {kind}">{drawn}</g>' + text(x, y + 36, shape(size), "name middle"))
    return parts


def _box(x: float, y: float, wide: float, high: float, deep: float) -> str:
    edges = f"l{deep} -{deep}h{wide}v{high}l-{deep} {deep}v-{high}zM{number(x + wide)} {number(y)}l{deep} -{deep}"
    back = f"M{number(x)} {number(y)}{edges}" if deep else ""
    return f'<path class="in" d="{back}M{number(x)} {number(y)}h{wide}v{high}h-{wide}z"/>'


def _way(x: float, end: float, y: float, kernels: str, size: str, price: str, kind: str) -> list[str]:
    middle = (x + end) / 2
    return [
        text(middle, y - 20, kernels, "name middle"),
        text(middle, y - 8, size, "name middle"),
        f'<path class="way {kind}" d="M{number(x)} {number(y)}H{number(end - 6)}m0 -5l6 5l-6 5"/>',
        text(middle, y + 16, price, "title middle" if len(price) < 12 else "small middle"),
    ]


def _length(amount: int, most: int) -> float:
    return (WIDTH - 2 * MARGIN) * 8 * amount // most / 8


def _bar(x: float, y: float, amount: int, most: int, kind: str) -> str:
    wide = number(_length(amount, most))
    return f'<rect class="bar {kind}" x="{number(x)}" y="{number(y)}" width="{wide}" height="12"/>'
