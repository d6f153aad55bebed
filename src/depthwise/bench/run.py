"""The short form: MobileNetV1's blocks on this machine, against its peak and against their promise."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..doctor import machine_report
from ..errors import DepthwiseError
from ..files import check_writable, writing
from ..measure.turns import Effort
from .candidates import STANDARD, measure, prepared
from .cases import MOBILENET_V1
from .peaks import measured_peaks
from .plot import FORMATS, write_roofline
from .results import BenchResult
from .roofline import Peaks
from .rows import Row
from .table import console_table

FULL = Effort(rounds=20, sample_seconds=0.015, limit_seconds=3)
QUICK = Effort(rounds=2, sample_seconds=0, limit_seconds=0)
NO_PLOT = "no plot: it needs matplotlib: pip install 'depthwise[demo]'"


def run(console: Console, out: Path | None, *, quick: bool = False) -> BenchResult:
    """Measure, print a table, and write the roofline plot to `out`, its format by its suffix: .svg, .png or .pdf.

    `quick` takes every step, with too few samples to mean much.
    """
    if out is not None and out.suffix not in FORMATS:
        raise DepthwiseError(f"the plot goes to a file ending in {', '.join(FORMATS)}; got {out}")
    if out is not None:
        check_writable(out)
    if out is not None and find_spec("matplotlib") is None:
        console.print(NO_PLOT, highlight=False, markup=False)
        out = None
    with progress(console) as shown:
        task = shown.add_task("measure the machine's peaks", total=len(MOBILENET_V1))
        peaks = measured_peaks(torch.get_num_threads())
        rows = _rows(peaks, QUICK if quick else FULL, lambda name: shown.update(task, description=name, advance=1))
    date = datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    result = BenchResult(rows, peaks, machine_report(), date, out)
    console.print(console_table(result))
    if out is not None:
        with writing(out):
            write_roofline(result, out)
        console.print(f"The roofline: {out}", highlight=False, markup=False, soft_wrap=True)
    return result


def progress(console: Console) -> Progress:
    """A bar that goes when it is done, with room for a case's name."""
    columns = (TextColumn("{task.description:<36}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


def _rows(peaks: Peaks, effort: Effort, on_case: Callable[[str], object]) -> tuple[Row, ...]:
    rows = []
    for case in MOBILENET_V1:
        rows.append(measure(prepared(case), STANDARD, peaks, effort))
        on_case(case.name)
    return tuple(rows)
