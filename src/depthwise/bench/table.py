"""The table of `depthwise bench`."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from .results import LAYOUT, BenchResult
from .rows import DENSE, OURS, TORCH, Row, Timing


def console_table(result: BenchResult) -> Table:
    peaks = result.peaks
    machine = f"{result.machine.cpu}, {threads_text(peaks.threads)}"
    title = f"MobileNetV1's blocks, batch 1, float32: {escape(machine)}"
    table = Table(title=title, caption=escape(_caption(result)), box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("block", no_wrap=True)
    for heading in ("ms", "spread", "GFLOP/s", "of peak", "torch", "dense", "promise"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result.rows:
        table.add_row(*_cells(row))
    table.add_section()
    means = ("geometric mean", "", "", "", percent(result.peak_fraction), "", "", ratio(result.promise_kept))
    table.add_row(*means, style="bold")
    return table


def milliseconds(timing: Timing | None) -> str:
    """The median and, in parentheses, the quartiles.

    >>> from .rows import Spread
    >>> milliseconds(Timing("torch", "contiguous", Spread(0.0012, 0.0011, 0.00145, 30)))
    '1.200 (1.100–1.450)'
    """
    if timing is None:
        return "–"
    seconds = timing.seconds
    return f"{1000 * seconds.median:.3f} ({1000 * seconds.lower:.3f}–{1000 * seconds.upper:.3f})"


def threads_text(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _cells(row: Row) -> list[str]:
    reason = row.failure_of_ours(LAYOUT)
    if reason is not None:
        return [row.case.name, f"[red]not timed: {escape(reason)}[/]"]
    timing = row.timing(OURS, LAYOUT)
    return [
        row.case.name,
        _median(timing),
        "–" if timing is None else percent((timing.seconds.upper - timing.seconds.lower) / timing.seconds.median),
        number(row.gflops(LAYOUT)),
        percent(row.peak_fraction(LAYOUT)),
        _median(row.best(TORCH)),
        _median(row.best(DENSE)),
        ratio(row.promise_kept(LAYOUT)),
    ]


def _median(timing: Timing | None) -> str:
    return "–" if timing is None else f"{1000 * timing.seconds.median:.3f}"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _caption(result: BenchResult) -> str:
    peaks = result.peaks
    peak = peaks.reason if peaks.fma_gflops is None else f"FMA peak {peaks.fma_gflops:.0f} GFLOP/s"
    ran_on = "; ".join(dict.fromkeys(row.ran_on for row in result.rows))
    faster = "" if result.speedup is None else f"\n{result.speedup:.2f}× as fast as PyTorch's own separable blocks"
    return (
        f"{peak}; copying memory {peaks.memory_gbytes:.0f} GB/s\n"
        "spread: between the quartiles; torch, dense: ms, in their faster layouts\n"
        "promise kept = (dense ÷ separable time) ÷ (dense ÷ separable multiplications)"
        f"{faster}\nthe separable blocks ran on: {ran_on}"
    )
