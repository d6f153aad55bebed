"""The roofline: what each block reaches against what its arithmetic and its traffic allow.

Williams, Waterman, Patterson: Roofline, an insightful visual performance model, CACM 52(4), 2009.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .results import LAYOUT, BenchResult
from .rows import OURS, TORCH, Row, Timing
from .table import threads_text

FORMATS = (".svg", ".png", ".pdf")
UNCHANGED, PROMISED, MEASURED = "#c4c9d1", "#0072b2", "#e69f00"
# Text stays text; ids and with them the bytes are the same for the same plot.
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "depthwise", "font.size": 11}


def write_roofline(result: BenchResult, path: Path) -> None:
    """Draw GFLOP/s against FLOPs per byte, ours and PyTorch's, under the machine's roof."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    with rc_context(STYLE):
        figure = Figure(figsize=(9.5, 5.2), layout="constrained")
        axes = figure.add_subplot()
        axes.set(xscale="log", yscale="log", xlabel="arithmetic intensity, FLOPs per byte moved", ylabel="GFLOP/s")
        axes.set_title(f"MobileNetV1's blocks on {result.machine.cpu}, {threads_text(result.peaks.threads)}")
        axes.spines[["top", "right"]].set_visible(False)
        for axis in (axes.xaxis, axes.yaxis):
            # 50, not 5 x 10^1.
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
        _roof(axes, result)
        _points(axes, result, TORCH, UNCHANGED, "black")
        _points(axes, result, OURS, PROMISED, "white")
        figure.legend(loc="outside right center", fontsize=9, frameon=False, title=_numbered(result), title_fontsize=9)
        figure.savefig(path)


def _roof(axes: Any, result: BenchResult) -> None:
    intensities = [row.work.arithmetic_intensity for row in result.rows]
    memory, peak = result.peaks.memory_gbytes, result.peaks.fma_gflops
    ridge = 2 * max(intensities) if peak is None else peak / memory
    left, right = min(*intensities, ridge) / 2, 2 * max(*intensities, ridge)
    axes.plot([left, ridge], [left * memory, ridge * memory], color=MEASURED, label=f"memory, {memory:.0f} GB/s")
    if peak is not None:
        axes.plot([ridge, right], [peak, peak], color="black", label=f"FMA peak, {peak:.0f} GFLOP/s")


def _points(axes: Any, result: BenchResult, candidate: str, color: str, text_color: str) -> None:
    """A numbered disc for each block."""
    points = []
    for number, row in enumerate(result.rows, start=1):
        timing = _shown(row, candidate)
        reached = None if timing is None else row.gflops(timing.layout, candidate)
        if reached is not None:
            points.append((number, row.work.arithmetic_intensity, reached))
    label = "PyTorch's own, its faster layout" if candidate == TORCH else "depthwise"
    axes.plot([x for _, x, _ in points], [y for *_, y in points], "o", color=color, markersize=12, label=label)
    for number, x, y in points:
        axes.text(x, y, str(number), color=text_color, fontsize=8, ha="center", va="center_baseline")


def _shown(row: Row, candidate: str) -> Timing | None:
    return row.timing(candidate, LAYOUT) if candidate == OURS else row.best(candidate)


def _numbered(result: BenchResult) -> str:
    names = (f"{number}  {row.case.name}" for number, row in enumerate(result.rows, start=1))
    return "\n".join(names) + "\n"
