"""The three plots of the page, as SVG; the colours are those of the picture, told apart with any eyes."""

from __future__ import annotations

from io import StringIO
from typing import Any

DENSE, DEPTHWISE, POINTWISE = "#6b7280", "#d55e00", "#aa4499"
from .results import EAGER, OURS, DemoResult, LayerResult, SeparableResult
from .table import times

UNCHANGED, PROMISED, MEASURED, OTHERS = "#c4c9d1", "#0072b2", "#e69f00", "#999999"
MILLION = 1e6

# Text stays text; ids and with them the bytes are the same for the same plot.
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "depthwise", "font.size": 11}

STAGES = {
    "svd": "plain SVD",
    "fitted": "fitted to\noutputs",
    "norms": "and norms:\nseparate_",
    "distilled": "one epoch\nof distill",
}


def accuracy_plot(result: DemoResult) -> str:
    """Bars for each stage on the way to a separable network, one for each budget, and a line for the dense network."""
    figure, axes = _figure()
    width = 0.8 / len(result.separable)
    for number, (each, color) in enumerate(zip(result.separable, (PROMISED, MEASURED), strict=True)):
        places = [stage + (number - (len(result.separable) - 1) / 2) * width for stage in range(len(STAGES))]
        shares = [100 * getattr(each.accuracies, stage) for stage in STAGES]
        axes.bar(places, shares, 0.92 * width, color=color, label=each.name)
        for place, share in zip(places, shares, strict=True):
            axes.annotate(f"{share:.1f}", (place, share), (0, 6), textcoords="offset points", ha="center", fontsize=9)
    known = 100 * result.dense.accuracy
    axes.axhline(known, color="black", linewidth=1, linestyle="--", label=f"dense: {known:.1f}")
    axes.set_xticks(range(len(STAGES)), list(STAGES.values()))
    axes.set_ylim(0, 135)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("test accuracy, %")
    axes.set_title("Accuracy kept")
    axes.legend(loc="upper left", fontsize=10, ncols=2)
    return _svg(figure)


def multiplications_plot(result: DemoResult) -> str:
    """Bars for each layer: the dense network's multiplications above the separable ones', step by step."""
    figure, axes = _figure()
    labels = [layer.label for layer in result.smallest.layers]
    height = 0.8 / (1 + len(result.separable))
    places = [place - 0.4 + height / 2 for place in range(len(labels))]
    axes.barh(
        places, [layer.dense / MILLION for layer in result.smallest.layers], 0.9 * height, color=DENSE, label="dense"
    )
    for number, each in enumerate(result.separable, start=1):
        _separable_bars(axes, each, [place + number * height for place in places], 0.9 * height, named=number == 1)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("multiplications per image, in millions")
    axes.set_title(
        "Where the multiplications went\n(below dense: " + ", ".join(each.name for each in result.separable) + ")"
    )
    axes.legend(loc="lower right", fontsize=10)
    return _svg(figure)


def _separable_bars(axes: Any, each: SeparableResult, places: list[float], height: float, *, named: bool) -> None:
    left = [0.0] * len(each.layers)
    for part, color, label in (
        ("depthwise", DEPTHWISE, "separable: depthwise"),
        ("pointwise", POINTWISE, "separable: pointwise"),
        ("other", UNCHANGED, "separable: as in dense"),
    ):
        widths = [getattr(layer, part) / MILLION for layer in each.layers]
        axes.barh(places, widths, height, left=left, color=color, label=label if named else None)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, layer in zip(places, each.layers, strict=True):
        at = (layer.separable / MILLION, place)
        axes.annotate(_share(layer), at, (4, 0), textcoords="offset points", va="center", fontsize=8)


def _share(layer: LayerResult) -> str:
    return f"{layer.separable / layer.dense:.0%}"


def speedup_plot(result: DemoResult) -> str:
    """The promised speed-up above the measured ones, quartiles as whiskers, and a line where nothing is won."""
    figure, axes = _figure()
    labels, ends, row = [], [], 0.0
    for each in result.separable:
        promised = result.promised_speedup(each)
        axes.barh([row], [promised], 0.8, color=PROMISED)
        axes.annotate(times(promised), (promised, row), (6, 0), textcoords="offset points", va="center")
        labels.append((row, f"{each.name}: promised"))
        ends.append(promised)
        for size in result.batch_sizes:
            for operators, color, whose in ((OURS, MEASURED, "ours"), (EAGER, OTHERS, "PyTorch's")):
                row += 1
                speedup = result.measured_speedup(each, size, operators)
                low, high = result.speedup_range(each, size, operators)
                axes.barh([row], [speedup], 0.8, color=color)
                axes.errorbar([speedup], [row], xerr=[[speedup - low], [high - speedup]], color="black", capsize=3)
                kept = f"{times(speedup)}, kept {result.promise_kept(each, size, operators):.2f}"
                # Beyond the whisker and the line of no gain.
                axes.annotate(kept, (max(high, 1), row), (6, 0), textcoords="offset points", va="center", fontsize=10)
                labels.append((row, f"batch {size}, {whose}"))
                ends.append(high)
        row += 1.5
    axes.axvline(1, color="black", linewidth=1, linestyle="--")
    axes.set_yticks([place for place, _ in labels], [label for _, label in labels])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * max(ends))
    axes.set_xlabel("dense ÷ separable; dashed: no faster than dense")
    axes.set_title("Speed-up, promised and measured\n(kept: measured ÷ promised)")
    return _svg(figure)


def _figure() -> tuple[Any, Any]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(5.8, 4.8), layout="constrained")
        axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    from matplotlib import rc_context

    text = StringIO()
    with rc_context(STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return text.getvalue()
