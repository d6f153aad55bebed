"""`python -m benchmarks [--only NAME | --random COUNT --seed SEED] [--threads 1,2] [--quick]`.

Measure, and write a dated JSON and a report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from depthwise.bench.candidates import STANDARD, Prepared, measure, prepared
from depthwise.bench.cases import Case
from depthwise.bench.peaks import measured_peaks
from depthwise.bench.roofline import Peaks
from depthwise.bench.rows import Row
from depthwise.bench.run import progress
from depthwise.bench.table import ratio, threads_text
from depthwise.doctor import machine_report
from depthwise.measure.turns import Effort

from . import clusters
from .cases import CASES
from .draws import drawn
from .peers import Absent, candidates
from .report import document, losses
from .suite import ROOT, Suite, commit, versions
from .targets import Verdict, verdicts

# Samples long enough that their first call, which finds other candidates' data in the cache, weighs little.
FULL = Effort(rounds=15, sample_seconds=0.02, limit_seconds=3)
# Of hundreds of calls.
SHORT = Effort(rounds=5, sample_seconds=0.002, limit_seconds=0.3)
QUICK = Effort(rounds=2, sample_seconds=0, limit_seconds=0)
# Ours and PyTorch's own operators.
RANDOM_CANDIDATES = tuple(candidate for candidate in STANDARD if not candidate.is_dense)
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


def run(
    console: Console,
    cases: Sequence[Case],
    threads: Sequence[int],
    row_of: Callable[[Prepared, Peaks], Row],
) -> tuple[tuple[Row, ...], tuple[Peaks, ...]]:
    """Measure the cases on each number of threads."""
    rows = []
    with progress(console) as shown:
        task = shown.add_task("measure the machine's peaks", total=len(cases) * len(threads))
        peaks = {count: measured_peaks(count) for count in threads}
        for case in cases:
            shown.update(task, description=f"{case.network}: {case.name}")
            ready = prepared(case)
            for count in threads:
                rows.append(row_of(ready, peaks[count]))
                shown.advance(task)
    return tuple(rows), tuple(peaks.values())


def suite_of(rows: tuple[Row, ...], peaks: tuple[Peaks, ...], absent: tuple[Absent, ...], effort: Effort) -> Suite:
    """A run that ends now."""
    return Suite(
        rows=rows,
        peaks=peaks,
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
    random: Annotated[int, typer.Option(metavar="COUNT", min=0, help="So many random calls in place of lists.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the random calls.")] = 0,
    threads: Annotated[str, typer.Option(help="Numbers of threads, joined by commas.")] = "1,2",
    results: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the JSON and the report go.")] = RESULTS,
    quick: Annotated[bool, typer.Option("--quick", help="Every step, with too few samples to mean much.")] = False,
) -> None:
    """Measure layers of networks, or random calls, on this library and its peers."""
    if random and only:
        raise typer.BadParameter("--random and --only exclude each other")
    console, counts = Console(), parse_threads(threads)
    if random:
        _main_random(console, drawn(random, seed), counts, results, quick=quick)
    else:
        _main_lists(console, selected(only or ()), counts, results, QUICK if quick else FULL)


def _main_lists(console: Console, cases: Sequence[Case], threads: Sequence[int], results: Path, effort: Effort) -> None:
    taking_part, absent = candidates()
    found = run(console, cases, threads, lambda ready, peaks: measure(ready, taking_part, peaks, effort))
    suite = suite_of(*found, absent, effort)
    written = suite.write(results), _written(results / "report.md", document(suite))
    for verdict in verdicts(suite.rows):
        if verdict.measured:
            console.print(_line(verdict), style=STYLES.get(verdict.status), highlight=False, markup=False)
    console.print(f"{len(losses(suite.rows))} losses; {sum(len(row.failures) for row in suite.rows)} not timed")
    _say_written(console, written)


def _main_random(
    console: Console, cases: Sequence[Case], threads: Sequence[int], results: Path, *, quick: bool
) -> None:
    effort = QUICK if quick else SHORT

    def row_of(ready: Prepared, peaks: Peaks) -> Row:
        row = measure(ready, RANDOM_CANDIDATES, peaks, effort)
        # What seems to lose is looked at for longer: of so many short samples some are somebody else's time.
        return measure(ready, RANDOM_CANDIDATES, peaks, FULL) if clusters.loses(row) and not quick else row

    suite = suite_of(*run(console, cases, threads, row_of), (), effort)
    written = suite.write(results, "random-"), _written(results / "random.md", clusters.document(suite))
    for count in threads:
        own = clusters.calls([row for row in suite.rows if row.threads == count])
        console.print(f"{clusters.summary(own)}, {threads_text(count)}", highlight=False, markup=False)
    console.print(f"{sum(len(row.failures) for row in suite.rows)} not timed")
    _say_written(console, written)


def _written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def _say_written(console: Console, paths: Sequence[Path]) -> None:
    for path in paths:
        console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)


def _line(verdict: Verdict) -> str:
    target, reached = verdict.target, ratio(verdict.reached)
    asked = f"{reached} of {target.least_mean[verdict.threads]:.2f}"
    return f"{verdict.status:<12} {asked:<13} {target.what}, {threads_text(verdict.threads)}"
