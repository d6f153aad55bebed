"""`python -m benchmarks.separating train | measure | table`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.run import RESULTS
from benchmarks.suite import ROOT

from . import table as tables
from .data import load_fashion
from .measuring import append, cells, measure, read
from .networks import NETWORKS
from .training import FULL, SHORT, epochs_done, train_epoch

ROWS = "rows.jsonl"
PAGE = ROOT / "docs" / "separate.md"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Folder = Annotated[Path, typer.Option(metavar="FOLDER", help="Of the folders of weights and rows.")]
Short = Annotated[bool, typer.Option("--short", help="One epoch of a third of the images in place of eight of all.")]
Threads = Annotated[int, typer.Option(metavar="N")]
Steps = Annotated[int, typer.Option(metavar="N", help="Stop after so many.")]


@app.command()
def train(steps: Steps = 1000, folder: Folder = RESULTS, short: Short = False, threads: Threads = 2) -> None:
    """Train the dense networks, epoch by epoch."""
    torch.set_num_threads(threads)
    fashion, course = load_fashion(), SHORT if short else FULL
    own = folder / course.name
    left = [name for epoch in range(course.epochs) for name in NETWORKS if epochs_done(name, own) <= epoch]
    for name in left[:steps]:
        done, reached = train_epoch(name, fashion, own, course)
        typer.echo(f"{name}: {done} of {course.epochs} epochs, {reached:.2f} %")


@app.command(name="measure")
def measure_cells(steps: Steps = 1000, folder: Folder = RESULTS, short: Short = False, threads: Threads = 2) -> None:
    """Measure what is not measured yet, a row at a time."""
    torch.set_num_threads(threads)
    fashion, course = load_fashion(), SHORT if short else FULL
    own = folder / course.name
    path = own / ROWS
    known = read(path)
    for cell in [cell for cell in cells() if cell not in known][:steps]:
        row = measure(cell, fashion, own, course)
        append(row, path)
        typer.echo(f"{cell}: {row.accuracy:.2f} %, {row.lost:.2f} lost at {row.share:.3f}")


@app.command()
def table(folder: Folder = RESULTS, short: Short = False) -> None:
    """Write the table of docs/separate.md, and the rows beside it."""
    course = SHORT if short else FULL
    published = PAGE.with_name(f"{course.name}.jsonl")
    shutil.copyfile(folder / course.name / ROWS, published)
    tables.write(PAGE, read(published), course)


app(prog_name="python -m benchmarks.separating")
