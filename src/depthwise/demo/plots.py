"""The two plots of the page, as SVG; the colours are those of the picture, told apart with any eyes."""

from __future__ import annotations

from io import StringIO
from typing import Any

from ..explain.totals import DENSE, DEPTHWISE, POINTWISE
from .results import DemoResult
from .table import times

UNCHANGED, PROMISED, MEASURED = "#c4c9d1", "#0072b2", "#e69f00"
MILLION = 1e6

# Text stays text; ids and with them the bytes are the same for the same plot.
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "depthwise", "font.size": 11}


def multiplications_plot(result: DemoResult) -> str:
    """Bars for each layer: the dense network's multiplications above the separable one's, step by step."""
    figure, axes = _figure()
    places = range(len(result.layers))
    above, below = [place - 0.2 for place in places], [place + 0.2 for place in places]
    axes.barh(above, [layer.dense / MILLION for layer in result.layers], 0.38, color=DENSE, label="dense")
    left = [0.0] * len(result.layers)
    for part, color in (("depthwise", DEPTHWISE), ("pointwise", POINTWISE), ("other", UNCHANGED)):
        widths = [getattr(layer, part) / MILLION for layer in result.layers]
        label = "separable: the same as dense" if part == "other" else f"separable: {part}"
        axes.barh(below, widths, 0.38, left=left, color=color, label=label)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, layer in zip(below, result.layers, strict=True):
        share = layer.separable / layer.dense
        axes.annotate(
            f"{share:.1%}", (layer.separable / MILLION, place), (4, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(places, [layer.label for layer in result.layers])
    axes.invert_yaxis()
    axes.set_xlabel("multiplications per image, in millions")
    axes.set_title("Where the multiplications went\n(percentages: separable ÷ dense)")
    axes.legend(loc="lower right", fontsize=10)
    return _svg(figure)


def speedup_plot(result: DemoResult) -> str:
    """The promised speed-up beside the measured ones, their quartiles as whiskers, and a line where nothing is won."""
    figure, axes = _figure()
    measured = [result.measured_speedup(size) for size in result.batch_sizes]
    heights = [result.promised_speedup, *measured]
    names = ["promised:\nby multiplications", *(f"measured:\nbatch {size}" for size in result.batch_sizes)]
    colors = [PROMISED, *[MEASURED] * len(measured)]
    axes.bar(names, heights, 0.6, color=colors)
    for size, speedup, name in zip(result.batch_sizes, measured, names[1:], strict=True):
        low, high = result.speedup_range(size)
        axes.errorbar([name], [speedup], [[speedup - low], [high - speedup]], color="black", capsize=5)
    tops = [result.promised_speedup, *(result.speedup_range(size)[1] for size in result.batch_sizes)]
    kept = ["", *(f"\npromise kept {result.promise_kept(size):.2f}" for size in result.batch_sizes)]
    for name, height, top, note in zip(names, heights, tops, kept, strict=True):
        # Above the bar, its whisker and the line of no gain.
        axes.annotate(times(height) + note, (name, max(top, 1)), (0, 5), textcoords="offset points", ha="center")
    axes.axhline(1, color="black", linewidth=1, linestyle="--", label="no faster than dense")
    axes.set_ylim(0, 1.2 * max(tops))
    axes.set_ylabel("speed-up: dense ÷ separable")
    axes.set_title("Promised against measured\n(whiskers: quartiles)")
    axes.legend(loc="upper right", fontsize=10)
    return _svg(figure)


def _figure() -> tuple[Any, Any]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(5.8, 4.6), layout="constrained")
        axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    from matplotlib import rc_context

    text = StringIO()
    with rc_context(STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return text.getvalue()
