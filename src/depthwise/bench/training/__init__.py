"""Training on this machine: convolutions, norms, blocks and whole networks, ours beside PyTorch's fastest way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial

from rich.console import Console

from ...doctor import machine_report
from ..run import progress
from . import blocks, convolutions, networks, norms
from .networks import Build
from .rows import BLOCKS, CONVOLUTIONS, NORMS, STEPS, WEIGHTS, Kind, TrainingResult, TrainingRow
from .sides import FULL, QUICK
from .table import print_tables

Rows = Callable[[], Iterator[TrainingRow]]


def run(
    console: Console, build: Build | None, *, absent: tuple[str, ...] = (), compiled: bool = False, quick: bool = False
) -> TrainingResult:
    """Measure and print tables; `quick` takes every step, with too few samples to mean much.

    build:    makes a network by its name in timm; None leaves the networks out, and `absent` says why
    compiled: whether PyTorch's ways are tried through torch.compile too
    """
    rows: list[TrainingRow] = []
    lists = lists_of(build, compiled=compiled, quick=quick)
    with progress(console) as shown:
        for kind, found in lists.items():
            task = shown.add_task(kind.name, total=None)
            for row in found():
                rows.append(row)
                shown.update(task, description=row.name, advance=1)
            shown.remove_task(task)
    result = result_of(rows, absent)
    print_tables(console, result)
    return result


def lists_of(build: Build | None, *, compiled: bool, quick: bool) -> Mapping[Kind, Rows]:
    """What measures the rows of each kind, on the threads that torch is set to."""
    effort = QUICK if quick else FULL
    lists: dict[Kind, Rows] = {
        CONVOLUTIONS: partial(convolutions.rows, effort),
        WEIGHTS: partial(convolutions.weight_rows, effort),
        NORMS: partial(norms.rows, effort, compiled=compiled),
        BLOCKS: partial(blocks.rows, effort, compiled=compiled),
    }
    if build is not None:
        lists[STEPS] = partial(networks.rows, build, compiled=compiled, quick=quick)
    return lists


def result_of(rows: list[TrainingRow], absent: tuple[str, ...]) -> TrainingResult:
    """A run that ends now."""
    date = datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    return TrainingResult(tuple(rows), absent, machine_report(), date)
