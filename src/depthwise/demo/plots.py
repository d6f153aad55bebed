"""The three charts of the page."""

from __future__ import annotations

from ..page.chart import Bar, Dot, bars, dots
from .results import EAGER, OPTIMIZED, OURS, DemoResult, LayerResult
from .table import percent, times

MILLION = 1e6

WAYS = ((OPTIMIZED, "depthwise", "optimize"), (OURS, "pointwise", "layers"), (EAGER, "other", "PyTorch's"))
STAGES = {
    "svd": "plain SVD",
    "fitted": "fitted to outputs",
    "norms": "and norms: separate_",
    "distilled": "one epoch of distill",
}


def accuracy_plot(result: DemoResult) -> str:
    """The share of wrong digits for each stage on the way to a separable network; small ones show too."""
    rows = [Dot("dense", 1 - result.dense.accuracy, "dense", percent(result.dense.accuracy))]
    for each in result.separable:
        for stage, name in STAGES.items():
            share = getattr(each.accuracies, stage)
            note = f"{percent(share)}, {each.name}" if stage == "svd" else percent(share)
            rows.append(Dot(name, 1 - share, "gain", note, starts=stage == "svd"))
    wrong = [Dot(row.name, 100 * row.value, row.kind, row.note, row.starts) for row in rows]
    return dots("Wrong digits of the test; at the right, the accuracy", wrong, least=0.1, most=100, unit=" %")


def speedup_plot(result: DemoResult) -> str:
    """The promised speed-up above the measured ones, quartiles as whiskers, and a line where nothing is won."""
    rows = []
    for each in result.separable:
        promised = result.promised_speedup(each)
        rows.append(Bar(f"{each.name}: promised", ((promised, "gain"),), times(promised), starts=True))
        for size in result.batch_sizes:
            for operators, kind, whose in WAYS:
                speedup = result.measured_speedup(each, size, operators)
                kept = f"{times(speedup)}, kept {result.promise_kept(each, size, operators):.2f}"
                spread = result.speedup_range(each, size, operators)
                rows.append(Bar(f"batch {size}, {whose}", ((speedup, kind),), kept, spread))
    return bars("Speed-up over the dense network", rows, mark=(1.0, "no faster"))


def multiplications_plot(result: DemoResult) -> str:
    """Bars for each layer: the dense network's multiplications above the separable ones', step by step."""
    rows = []
    for number, layer in enumerate(result.smallest.layers):
        rows.append(Bar(layer.label, ((layer.dense / MILLION, "dense"),), _millions(layer.dense), starts=True))
        for each in result.separable:
            own = each.layers[number]
            lengths = (
                (own.depthwise / MILLION, "depthwise"),
                (own.pointwise / MILLION, "pointwise"),
                (own.other / MILLION, "other"),
            )
            rows.append(Bar(each.name, lengths, f"{_millions(own.separable)}, {_share(own)}"))
    return bars("Multiplications per image, in millions, and their share of the dense layer's", rows, width=860)


def _millions(count: int) -> str:
    return f"{count / MILLION:.2f}"


def _share(layer: LayerResult) -> str:
    return f"{layer.separable / layer.dense:.0%}" if layer.dense else "0%"
