"""Measure training by kinds and threads, and write a JSON and a report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from depthwise.bench.peaks import torch_threads
from depthwise.bench.run import progress
from depthwise.bench.table import ratio, threads_text
from depthwise.bench.training import Rows, lists_of, result_of
from depthwise.bench.training.networks import NETWORKS
from depthwise.bench.training.rows import KINDS, MEMORY, TrainingResult, TrainingRow, verdicts
from depthwise.bench.training.sides import has_compiler

from ..run import RESULTS, STYLES, parse_threads
from ..suite import commit, versions
from .alone import memory_row
from .models import build
from .report import document

NO_COMPILER = "torch.compile: no compiler was found"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def selected(only: Sequence[str]) -> list[str]:
    """The kinds whose names contain one of these; all of them for none."""
    names = [kind.name for kind in KINDS]
    for word in only:
        if not any(word.lower() in name.lower() for name in names):
            raise typer.BadParameter(f"nothing is called {word!r}; there are: {', '.join(names)}")
    return [name for name in names if not only or any(word.lower() in name.lower() for word in only)]


@app.command()
def main(
    only: Annotated[list[str] | None, typer.Option(help="A kind, by a part of its name; repeat it.")] = None,
    threads: Annotated[str, typer.Option(help="Numbers of threads, joined by commas.")] = "1,2",
    eager: Annotated[bool, typer.Option("--eager", help="PyTorch's ways without torch.compile.")] = False,
    results: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the JSON and the report go.")] = RESULTS,
    quick: Annotated[bool, typer.Option("--quick", help="Every step, with too few samples to mean much.")] = False,
) -> None:
    """Time training, ours beside PyTorch's fastest way: convolutions, norms, blocks, networks, and memory."""
    console, names = Console(), selected(only or ())
    compiled = not eager and has_compiler()
    absent = () if eager or compiled else (NO_COMPILER,)
    rows: list[TrainingRow] = []
    with progress(console) as shown:
        for count in parse_threads(threads):
            lists = {kind.name: found for kind, found in lists_of(build, compiled=compiled, quick=quick).items()}
            lists[MEMORY.name] = partial(_memory, count)
            for name in names:
                task = shown.add_task(f"{name}, {threads_text(count)}", total=None)
                for row in _on(count, lists[name]):
                    rows.append(row)
                    shown.update(task, description=row.name, advance=1)
                    # After every row: a long run that is cut short has shown what it had.
                    result = result_of(rows, absent)
                    paths = _write(result, results)
                shown.remove_task(task)
    for verdict in verdicts(result.rows):
        status = "reached" if verdict.reached else "missed"
        line = f"{status:<8} {ratio(verdict.ratio):<6} {verdict.kind.name}, {threads_text(verdict.threads)}"
        console.print(line, style=STYLES[status], highlight=False, markup=False)
    for path in paths:
        console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)


def _on(threads: int, rows: Rows) -> Iterator[TrainingRow]:
    with torch_threads(threads):
        yield from rows()


def _memory(threads: int) -> Iterator[TrainingRow]:
    for step in NETWORKS:
        row = memory_row(step, threads)
        if row is not None:
            yield row


def _write(result: TrainingResult, folder: Path) -> tuple[Path, Path]:
    at = commit()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"training-{result.date[:10]}-{at.sha[:7]}"
    content = result.to_dict() | {"commit": asdict(at), "versions": versions()}
    path.with_suffix(".json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(document(result, at), encoding="utf-8")
    return path.with_suffix(".json"), path.with_suffix(".md")
