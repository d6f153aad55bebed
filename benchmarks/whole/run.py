"""`python -m benchmarks.whole [--only NAME] [--threads 1,2]`: time whole networks, and write a JSON and a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

from depthwise import optimize
from depthwise.bench.run import progress
from depthwise.doctor import machine_report
from depthwise.errors import DepthwiseError
from depthwise.measure.turns import Effort, take_turns
from tests.support.whole import real_model

from ..run import RESULTS, parse_threads
from ..suite import Commit, commit, versions
from .alone import cost
from .engines import Call, Engine, present
from .rows import NETWORKS, SIZES, Row, Taken, document

FULL = Effort(rounds=15, sample_seconds=0.05, limit_seconds=20)
QUICK = Effort(rounds=2, sample_seconds=0, limit_seconds=0)
# Of the largest output: more is another network, not another order of sums.
TOLERANCE = 1e-2

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def measured(network: str, batch: int, size: int, threads: int, engines: Sequence[Engine], effort: Effort) -> Row:
    """All engines on one network, in turn, once their outputs are right."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _measured(network, batch, size, threads, engines, effort)
    finally:
        torch.set_num_threads(before)


def _measured(network: str, batch: int, size: int, threads: int, engines: Sequence[Engine], effort: Effort) -> Row:
    model = real_model(network)
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = deepcopy(model).double()(x.double())
        ran_on = optimize(model, x).report.summary
        calls: dict[tuple[str, str], Call] = {}
        taken = []
        for engine in engines:
            error = _checked(engine, model, x, threads, exact, calls)
            taken.append((engine.name, error))
        samples = take_turns(calls, effort, lambda: None)
    return Row(network, batch, size, threads, ran_on, tuple(_taken(name, error, samples) for name, error in taken))


def _checked(
    engine: Engine, model: nn.Module, x: Tensor, threads: int, exact: Tensor, calls: dict[tuple[str, str], Call]
) -> float | str:
    """Its error, the call put among the others; or why it is not timed."""
    try:
        call = engine.build(model, x, threads)
        error = ((call().double() - exact).abs().max() / exact.abs().max()).item()
    # Every engine has errors of its own: a row says what went wrong, and the others go on.
    except Exception as failure:  # noqa: BLE001
        return f"{type(failure).__name__}: {(str(failure).splitlines() or [''])[0][:80]}"
    if not error < TOLERANCE:
        return f"wrong by {error:.0e}"
    calls[engine.name, ""] = call
    return error


def _taken(name: str, error: float | str, samples: dict[tuple[str, str], list[float]]) -> Taken:
    if isinstance(error, str):
        return Taken(name, None, None, error)
    return Taken(name, 1000 * median(samples[name, ""]), error)


@app.command()
def main(
    only: Annotated[list[str] | None, typer.Option(help="A network, by a part of its name; repeat it.")] = None,
    threads: Annotated[str, typer.Option(help="Numbers of threads, joined by commas.")] = "1,2",
    batch: Annotated[int, typer.Option(help="Images in a call.", min=1)] = 1,
    size: Annotated[int | None, typer.Option(help="Pixels of an image's side; none: 224, Xception's 299.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="An engine, by a part of its name; repeat it.")] = None,
    results: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the JSON and the table go.")] = RESULTS,
    quick: Annotated[bool, typer.Option("--quick", help="Every step, with too few samples to mean much.")] = False,
) -> None:
    """Time whole networks of timm, with random weights, through `optimize` and through other engines."""
    names = [name for name in NETWORKS if not only or any(word in name for word in only)]
    if not names:
        raise DepthwiseError(f"no network is called {' or '.join(only or ())}; there are: {', '.join(NETWORKS)}")
    engines, absent = present(without or ())
    counts, console = parse_threads(threads), Console()
    at, date = commit(), datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    rows: list[Row] = []
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"networks-{date[:10]}-{at.sha[:7]}"
    with progress(console) as shown:
        task = shown.add_task("networks", total=len(names) * len(counts))
        for name in names:
            for count in counts:
                shown.update(task, description=f"{name}, {count} threads")
                pixels = size or SIZES.get(name, 224)
                row = measured(name, batch, pixels, count, engines, QUICK if quick else FULL)
                rows.append(row if quick else replace(row, cost=cost(name, batch, pixels, count)))
                # After every row: a long run that is cut short has shown what it had.
                _write(path, rows, absent, at, date)
                shown.advance(task)
    console.print(path.with_suffix(".md").read_text(encoding="utf-8"), highlight=False, markup=False, soft_wrap=True)


def _write(path: Path, rows: list[Row], absent: dict[str, str], at: Commit, date: str) -> None:
    machine = machine_report()
    text = document(rows, f"{machine.cpu}, {date}, commit {at}", absent)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    content: dict[str, Any] = {"date": date, "commit": str(at), "machine": machine.to_dict(), "versions": versions()}
    content |= {"absent": absent, "rows": [row.to_dict() for row in rows]}
    path.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
