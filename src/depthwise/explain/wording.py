"""What the page says of a layer, piece by piece, as HTML; `wording.js` says the same of the layer in the fields."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..cost import Cost, separable_cost
from ..geometry import AXES, Geometry
from .arithmetic import (
    Step,
    all_of,
    closed_form,
    decimal,
    headline,
    output_sizes,
    percent,
    plural,
    shape,
    signed,
    steps,
    times,
)
from .snippets import snippets
from .stage import SHOWN, Stage, lane

COLUMNS = ("input", "kernels", "output", "multiplications", "parameters", "bytes moved", "FLOPs per byte")
# Products are written out up to so many.
WRITTEN = 9


def layer_words(g: Geometry) -> dict[str, str]:
    """What holds for all output pixels."""
    cost, code = separable_cost(g), snippets(g, lit)
    whole, one, two = cost.dense.multiplications, cost.depthwise.multiplications, cost.pointwise.multiplications
    share, cheaper = percent(one + two, whole), one + two < whole
    return {
        "headline": headline(g),
        "axes": ", ".join(AXES[g.rank]),
        "total_dense": f"{whole:,}",
        "total_separable": f"{one + two:,}",
        "total_steps": f"{one:,} + {two:,} = {one + two:,}",
        "share": share,
        "verdict": "of the multiplications" if cheaper else "of the multiplications: NOT cheaper",
        **{f"formula_{step.name}": _formula(step) for step in steps(g)},
        "closed": _closed(g),
        "sizes": "".join(f"<li>{line}</li>" for line in output_sizes(g)),
        **{f"title_{name}": title for name, title in titles(g).items()},
        "say_dense": _say_dense(g),
        "say_depthwise": _say_depthwise(g),
        "say_pointwise": _say_pointwise(g, one, two),
        "say_saved": f"The dense way takes {whole:,} multiplications, the separable way {one + two:,}: {share}.",
        "say_lost": _say_lost(g, cheaper=cheaper),
        "say_drawn": _say_drawn(g),
        "rows": _rows(g),
        **{f"code_{kind}": text for kind, text in code.items()},
    }


def titles(g: Geometry) -> dict[str, str]:
    """What each scene is about."""
    mixed = "the channels are mixed" if g.depthwise_channels > 1 else "one channel, nothing to mix"
    return {
        "dense": "1. Dense: every filter looks at every channel",
        "depthwise": "2. Depthwise: every channel by itself",
        "pointwise": f"3. Pointwise: {mixed}",
        "both": "4. Side by side: what is saved, and what is lost",
    }


def pixel_words(stage: Stage) -> dict[str, str]:
    """What changes from one output pixel to the next."""
    cost, pixels = separable_cost(stage.g), 1
    for side in stage.g.out_spatial:
        pixels *= side
    done = stage.at + 1
    counts = (cost.dense.multiplications, cost.separable.multiplications)
    return {
        "position": f"output pixel {done:,} of {pixels:,}",
        "count_dense": f"{counts[0] // pixels * done:,}",
        "count_separable": f"{counts[1] // pixels * done:,}",
        "now_dense": _now_dense(stage),
        "now_depthwise": _now_depthwise(stage),
        "now_pointwise": _now_pointwise(stage),
        "now_both": _now_both(stage),
    }


def lit(term: str, content: str) -> str:
    """A piece of text that lights up together with everything else of the same argument."""
    return f'<span class="term" data-term="{term}">{content}</span>'


def _formula(step: Step) -> str:
    groups = []
    for group in step.factors:
        inner = "·".join(lit(name, str(value)) for name, value in group)
        groups.append(f"({inner})" if len(group) > 1 else inner)
    return f"{'·'.join(groups)} = {step.cost.multiplications:,}"


def _closed(g: Geometry) -> str:
    copies, filters, area = (
        lit("depth_multiplier", str(g.depth_multiplier)),
        lit("out_channels", str(g.output_size[0])),
        lit("kernel_size", str(g.kernel_area)),
    )
    return f"{copies}·(1/{filters} + 1/{area}) = {closed_form(g)}"


def _say_dense(g: Geometry) -> str:
    filters = g.output_size[0]
    each = "The one filter has" if filters == 1 else f"Each of the {filters:,} filters has"
    kernels = lit("kernel_size", times(g.kernel_size))
    channels = lit("in_channels", all_of(g.in_channels))
    return (
        f"{lit('out_channels', each)} a kernel of {kernels} weights for {channels}. It lies "
        f"on {'it' if g.in_channels == 1 else 'all of them at once'}, and each pixel of its output takes "
        f"{plural(g.in_channels * g.kernel_area, 'product')}. {_say_moves(g)}"
    )


def _say_moves(g: Geometry) -> str:
    """Stride, padding and dilation in a sentence."""
    zeros = any(before or after for before, after in g.padding)
    padding = f", over an input with {lit('padding', 'zeros around it')} (dashed)" if zeros else ""
    apart = f"; its weights lie {lit('dilation', _steps(g.dilation))} apart" if set(g.dilation) != {1} else ""
    return f"From one output pixel to the next it moves by {lit('stride', _steps(g.stride))}{padding}{apart}."


def _steps(values: Sequence[int]) -> str:
    return plural(values[0], "pixel") if len(set(values)) == 1 else f"{shape(values)} pixels"


def _say_depthwise(g: Geometry) -> str:
    copies = "One kernel" if g.depth_multiplier == 1 else f"{g.depth_multiplier:,} kernels"
    channels = "the one channel" if g.in_channels == 1 else f"each of the {g.in_channels:,} channels"
    return (
        f"{lit('depth_multiplier', copies)} of {lit('kernel_size', times(g.kernel_size))} weights for "
        f"{lit('in_channels', channels)}, and a kernel lies on its own channel alone: "
        f"{plural(g.kernel_area, 'product')} for each pixel."
    )


def _say_pointwise(g: Geometry, one: int, two: int) -> str:
    filters, channels = g.output_size[0], g.depthwise_channels
    each = "The one filter" if filters == 1 else f"Each of the {filters:,} filters"
    if channels == 1:
        does = "multiplies the one channel by a number: there is nothing to mix."
    else:
        does = (
            f"takes one number of {lit('in_channels', all_of(channels))} at a single pixel and mixes them: 1×1 kernels."
        )
    return (
        f"{lit('out_channels', each)} {does} Articles that count this step alone, {two:,}, forget the {one:,} of the "
        f"depthwise step."
    )


def _say_lost(g: Geometry, *, cheaper: bool) -> str:
    most, copies = min(g.output_size[0], g.kernel_area), g.depth_multiplier
    if copies >= most:
        saved = "" if cheaper else ", and nothing is saved"
        return (
            f"With {lit('depth_multiplier', plural(copies, 'kernel'))} for each channel every dense layer can be "
            f"written as a separable one: nothing is lost{saved}."
        )
    own = "multiples of one kernel" if copies == 1 else f"mixes of {copies:,} kernels"
    return (
        f"It is not the same function. For each input channel, the filters of a dense layer have kernels of their own "
        f"(their rank is up to {most:,}); those of a separable layer are {lit('depth_multiplier', own)} (rank "
        f"{copies:,}). Training makes up for much of that. With {plural(most, 'kernel')} for each channel it would "
        f"be the same function."
    )


def _say_drawn(g: Geometry) -> str:
    few = g.in_channels > SHOWN or g.output_size[0] > SHOWN or g.depth_multiplier > 1
    channels = " and the first channels and filters" if few else ""
    return (
        f"Drawn are the pixels around the kernel{channels}; the dots say where there are more. Numbers and sums are "
        f"those of the whole layer. Weights and pixels are made up."
    )


def _rows(g: Geometry) -> str:
    cost = separable_cost(g)
    total = percent(cost.separable.multiplications, cost.dense.multiplications)
    rows = [_row(step.name, (*_sizes(step), *_numbers(step.cost))) for step in steps(g)]
    last = _row(
        "separable", ("", "", "", *_numbers(cost.separable, f"<small>{total} of dense</small>")), ' class="sum"'
    )
    return "".join([*rows, last])


def _sizes(step: Step) -> tuple[str, str, str]:
    return shape(step.input_size), f"{step.kernels:,} of {shape(step.kernel_size)}", shape(step.output_size)


def _numbers(cost: Cost, more: str = "") -> tuple[str, str, str, str]:
    intensity = decimal(2 * cost.macs, cost.bytes_moved, 2)
    return f"{cost.multiplications:,}{more}", f"{cost.parameters:,}", f"{cost.bytes_moved:,}", intensity


def _row(name: str, cells: Iterable[str], attributes: str = "") -> str:
    """A row; each cell carries its column's name, which narrow screens show beside it."""
    spans = (f"<span>{cell}</span>" if cell else "" for cell in cells)
    written = "".join(f'<td data-label="{column}">{span}</td>' for column, span in zip(COLUMNS, spans, strict=True))
    return f'<tr{attributes}><th scope="row">{name}</th>{written}</tr>'


def _where(stage: Stage) -> str:
    return f"at {shape(stage.place[3 - stage.g.rank :])}"


def _now_dense(stage: Stage) -> str:
    g, values, f, at = stage.g, stage.values, stage.filter, stage.place
    shown = min(g.in_channels, SHOWN)
    parts = [values.dense_part(f, c, at) for c in range(shown)]
    products = [(values.dense(f, 0, tap), values.inputs(0, values.under(tap, at))) for tap in values.taps_few(WRITTEN)]
    first = f"channel 1: {_products(products)}{signed(parts[0])}"
    others = [f"channel {c + 1}: {signed(parts[c])}" for c in range(1, shown)]
    together = _together(values.dense_sum(f, at), parts, g.in_channels)
    return f"Filter {f + 1} {_where(stage)}: {'; '.join([first, *others])}{together}."


def _now_depthwise(stage: Stage) -> str:
    g, values, at = stage.g, stage.values, stage.place
    products = [(values.depthwise(0, tap), values.inputs(0, values.under(tap, at))) for tap in values.taps_few(WRITTEN)]
    sums = [values.depthwise_sum(j, at) for j in range(min(g.depthwise_channels, SHOWN))]
    others = "".join(f"; {lane(g, j)}: {signed(sums[j])}" for j in range(1, len(sums)))
    return f"Every channel by itself {_where(stage)}: {lane(g, 0)}: {_products(products)}{signed(sums[0])}{others}."


def _now_pointwise(stage: Stage) -> str:
    g, values, f, at = stage.g, stage.values, stage.filter, stage.place
    shown = range(min(g.depthwise_channels, SHOWN))
    products = [(values.pointwise(f, j), values.depthwise_sum(j, at)) for j in shown]
    parts = [weight * value for weight, value in products]
    written = " + ".join(_product(*pair) for pair in products)
    total = values.pointwise_sum(f, at)
    rest = "" if len(parts) == g.depthwise_channels else " + …"
    return f"Filter {f + 1} {_where(stage)}: {written}{rest} = <b>{signed(total)}</b>."


def _now_both(stage: Stage) -> str:
    f, at, values = stage.filter, stage.place, stage.values
    ways = (values.dense_sum(f, at), values.pointwise_sum(f, at))
    return f"Filter {f + 1} {_where(stage)}: dense {signed(ways[0])}, separable {signed(ways[1])}: two functions."


def _together(total: int | None, parts: list[int], channels: int) -> str:
    if channels == 1:
        return ""
    others = channels - len(parts)
    rest = "" if total is None else f": {signed(total - sum(parts))}"
    more = f"; {'the other' if others == 1 else f'{others:,} others'}{rest}" if others else ""
    return f"{more}; together <b>{signed(total)}</b>"


def _products(pairs: list[tuple[int, int]]) -> str:
    return "".join(f"{_product(*pair)}{' + ' if index < len(pairs) - 1 else ' = '}" for index, pair in enumerate(pairs))


def _product(weight: int, value: int) -> str:
    return f"{_bracketed(weight)}·{_bracketed(value)}"


def _bracketed(value: int) -> str:
    return f"({signed(value)})" if value < 0 else str(value)
