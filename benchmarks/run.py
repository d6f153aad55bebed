"""`python -m benchmarks [--only NAME] [--threads 1,2] [--quick]`: measure, and write a dated JSON and report.md."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from depthwise.bench.candidates import measure, prepared
from depthwise.bench.cases import Case
from depthwise.bench.peaks import measured_peaks
from depthwise.bench.run import progress
from depthwise.bench.table import ratio, threads_text
from depthwise.doctor import machine_report
from depthwise.measure.turns import Effort

from .cases import CASES
from .peers import candidates
from .report import document, losses
from .suite import ROOT, Suite, commit, versions
from .targets import Verdict, verdicts

# Samples long enough that their first call, which finds other candidates' data in the cache, weighs little.
FULL = Effort(rounds=15, sample_seconds=0.02, limit_seconds=3)
QUICK = Effort(rounds=2, sample_seconds=0, limit_seconds=0)
RESULTS = ROOT / "benchmarks" / "results"
STYLES = {"reached": "green", "missed": "red"}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def parse_threads(text: str) -> tuple[int, ...]:
    """(1, 2) from "1,2"."""
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{text!r} is not numbers joined by commas, such as 1,2")
    return tuple(int(part) for part in parts)


def selected(only: Sequence[str]) -> list[Case]:
    """The cases of the networks and lists whose names contain one of these; all of them for none."""
    for word in only:
        if not any(word.lower() in name.lower() for name in CASES):
            raise typer.BadParameter(f"no network or list is called {word!r}; there are: {', '.join(CASES)}")
    names = [name for name in CASES if not only or any(word.lower() in name.lower() for word in only)]
    return [case for name in names for case in CASES[name]]


def run(console: Console, cases: Sequence[Case], threads: Sequence[int], effort: Effort) -> Suite:
    """Measure the cases on each number of threads."""
    taking_part, absent = candidates()
    rows = []
    with progress(console) as shown:
        task = shown.add_task("measure the machine's peaks", total=len(cases) * len(threads))
        peaks = {count: measured_peaks(count) for count in threads}
        for case in cases:
            shown.update(task, description=f"{case.network}: {case.name}")
            ready = prepared(case)
            for count in threads:
                rows.append(measure(ready, taking_part, peaks[count], effort))
                shown.advance(task)
    return Suite(
        rows=tuple(rows),
        peaks=tuple(peaks.values()),
        absent=absent,
        machine=machine_report(),
        versions=versions(),
        commit=commit(),
        date=datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        effort=effort,
    )


@app.command()
def main(
    only: Annotated[list[str] | None, typer.Option(help="A network or list, by a part of its name; repeat it.")] = None,
    threads: Annotated[str, typer.Option(help="Numbers of threads, joined by commas.")] = "1,2",
    results: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the JSON and report.md go.")] = RESULTS,
    quick: Annotated[bool, typer.Option("--quick", help="Every step, with too few samples to mean much.")] = False,
) -> None:
    """Measure layers of networks on this library and its peers."""
    console = Console()
    suite = run(console, selected(only or ()), parse_threads(threads), QUICK if quick else FULL)
    path = suite.write(results)
    report = results / "report.md"
    report.write_text(document(suite), encoding="utf-8")
    for verdict in verdicts(suite.rows):
        if verdict.measured:
            console.print(_line(verdict), style=STYLES.get(verdict.status), highlight=False, markup=False)
    console.print(f"{len(losses(suite.rows))} losses; {sum(len(row.failures) for row in suite.rows)} not timed")
    for written in (path, report):
        console.print(f"wrote {written}", highlight=False, markup=False, soft_wrap=True)


def _line(verdict: Verdict) -> str:
    target, reached = verdict.target, ratio(verdict.reached)
    asked = f"{reached} of {target.least_mean[verdict.threads]:.2f}"
    return f"{verdict.status:<12} {asked:<13} {target.what}, {threads_text(verdict.threads)}"
