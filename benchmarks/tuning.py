"""`python -m benchmarks.tuning [NUMBER ...]`: numbers of this machine's tuning row, each beside another value.

    for number in numbers:
        for case in cases that it matters to:
            run the case with the row as it is and with the other value in turn, kernels and all

benchmarks/tuning.md says what was measured when they were chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from rich.console import Console
from rich.table import Table

from depthwise.backends import calls
from depthwise.backends.cpu.launch import machine
from depthwise.backends.cpu.plan.tuning import ROWS, Tuning, tuning_of
from depthwise.bench.calls import Call, ours
from depthwise.bench.cases import Case, layer, tensors_of
from depthwise.measure.turns import Effort, take_turns

EFFORT = Effort(rounds=9, sample_seconds=0.02, limit_seconds=3)


@dataclass(frozen=True, slots=True)
class Trial:
    """A number of the row, what takes its place, and cases to which it matters."""

    number: str
    other: Callable[[Tuning], Any]
    cases: tuple[Case, ...]
    layout: str = "channels_last"


def _alone(size: tuple[int, ...], kernel: int, **options: Any) -> Case:
    return layer("tuning", size, kernel, **options)


def _block(channels: int, size: int, out: int, kernel: int = 3, **options: Any) -> Case:
    return layer("tuning", (channels, size, size), kernel, out=out, **options)


TRIALS = (
    Trial("many_taps", lambda _: ((14, 7),), (_alone((128, 28, 28), 17), _alone((128, 28, 28), 21))),
    Trial(
        "direct_shares",
        lambda row: dict.fromkeys(row.direct_shares, (9.0, 9.0)),
        (_alone((128, 56, 56), 3), _alone((128, 56, 56), 5), _alone((64, 8, 28, 28), 3)),
        "contiguous",
    ),
    Trial("gathered_taps", lambda _: 9, (_alone((64, 224, 224), 4, stride=4, padding=0),), "contiguous"),
    Trial("gathered_columns", lambda _: 27, (_alone((64, 1000), 15, stride=2),), "contiguous"),
    Trial("patch_strides", lambda _: (), (_alone((64, 224, 224), 8, stride=8, padding=0),), "contiguous"),
    Trial("patch_lanes", lambda _: 0, (_alone((64, 224, 224), 8, stride=8, padding=0),)),
    Trial("direct_rows", lambda row: dict.fromkeys(row.direct_rows, 4), (_alone((64, 7, 28, 28), 3),), "contiguous"),
    Trial("paired_rows", lambda _: 2, (_alone((64, 8, 28, 28), 3), _alone((32, 8, 56, 56), 3)), "contiguous"),
    Trial(
        "tiles",
        lambda row: {vectors: heights[:1] for vectors, heights in row.tiles.items()},
        (_block(512, 2, 512), _block(1024, 4, 1024)),
    ),
    Trial("lanes_in_vain", lambda _: 1.0, (_block(96, 28, 24), _block(144, 28, 40))),
    Trial("pixels_in_vain", lambda _: 1.0, (_block(512, 5, 512), _block(256, 9, 256))),
    Trial("most_fetched_lines", lambda _: 4, (_block(96, 112, 24), _block(144, 56, 24))),
    Trial("far_strip_rows", lambda _: 1 << 30, (_alone((128, 56, 56), 3, batch=8),)),
    Trial("far_planes", lambda _: 0, (_alone((256, 33, 33), 3, dilation=2),), "contiguous"),
    Trial("fetched_blocks", lambda _: 64, (_alone((128, 56, 56), 3, batch=8), _alone((1024, 32, 32), 3))),
    Trial("fewest_pixels_far", lambda _: 24, (_block(512, 7, 1024),)),
    Trial("two_stages", lambda _: 1.0, (_block(960, 7, 160),)),
    Trial("uneven", lambda _: 0.0, (_block(64, 147, 128), _block(128, 74, 256), _block(128, 45, 128))),
)


def prepared(trial: Trial, case: Case) -> dict[tuple[str, str], Call]:
    """Calls that have run once: with the row as it is, and with the other value."""
    kind, row = machine().kind, tuning_of(machine())
    found = {}
    for name, tuned in ("as it is", row), ("other", replace(row, **{trial.number: trial.other(row)})):
        call = ours(case, tensors_of(case), trial.layout)
        # Each of its own plan, which would be remembered by the problem's value.
        with patch.dict(ROWS, {kind: tuned}), patch.object(calls, "bound", lambda _, bind: bind()):
            call()
        found[name, trial.layout] = call
    return found


def measured(trial: Trial, case: Case, effort: Effort) -> tuple[float, float]:
    """Microseconds as it is, and with the other value; medians."""
    samples = take_turns(prepared(trial, case), effort, lambda: None)
    as_it_is, other = (1e6 * median(samples[name, trial.layout]) for name in ("as it is", "other"))
    return as_it_is, other


def table(trials: Sequence[Trial], effort: Effort) -> Table:
    found = Table("number", "case", "layout", "as it is, us", "other, us", "other / as it is")
    for trial in trials:
        for case in trial.cases:
            as_it_is, other = measured(trial, case, effort)
            cells = f"{as_it_is:.0f}", f"{other:.0f}", f"{other / as_it_is:.2f}"
            found.add_row(trial.number, case.name, trial.layout, *cells)
    return found


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    numbers: Annotated[list[str] | None, typer.Argument(help="Names of numbers; all of them for none.")] = None,
    threads: Annotated[int, typer.Option(help="PyTorch's number of threads.")] = 1,
) -> None:
    """Measure numbers of this machine's tuning row beside other values."""
    known = [trial.number for trial in TRIALS]
    for number in numbers or []:
        if number not in known:
            raise typer.BadParameter(f"{number!r} has no trial; there are: {', '.join(known)}")
    torch.set_num_threads(threads)
    console = Console()
    console.print(f"{machine().kind}, {threads} threads")
    with torch.inference_mode(False), torch.no_grad():
        console.print(table([trial for trial in TRIALS if not numbers or trial.number in numbers], EFFORT))


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.tuning")
