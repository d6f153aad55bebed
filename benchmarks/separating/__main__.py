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
from .training import EPOCHS, epochs_done, train_epoch

ROWS = "rows.jsonl"
FOLDER = RESULTS / "separating"
PAGE, PUBLISHED = ROOT / "docs" / "separate.md", ROOT / "docs" / "separating.jsonl"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Folder = Annotated[Path, typer.Option(metavar="FOLDER", help="Weights and rows.")]
Threads = Annotated[int, typer.Option(metavar="N")]
Steps = Annotated[int, typer.Option(metavar="N", help="Stop after so many.")]


@app.command()
def train(steps: Steps = 1000, folder: Folder = FOLDER, threads: Threads = 2) -> None:
    """Train the dense networks, epoch by epoch."""
    torch.set_num_threads(threads)
    fashion = load_fashion()
    left = [name for epoch in range(EPOCHS) for name in NETWORKS if epochs_done(name, folder) <= epoch]
    for name in left[:steps]:
        done, reached = train_epoch(name, fashion, folder)
        typer.echo(f"{name}: {done} of {EPOCHS} epochs, {reached:.2f} %")


@app.command(name="measure")
def measure_cells(steps: Steps = 1000, folder: Folder = FOLDER, threads: Threads = 2) -> None:
    """Measure what is not measured yet, a row at a time."""
    torch.set_num_threads(threads)
    fashion = load_fashion()
    path = folder / ROWS
    known = read(path)
    for cell in [cell for cell in cells() if cell not in known][:steps]:
        row = measure(cell, fashion, folder)
        append(row, path)
        typer.echo(f"{cell}: {row.accuracy:.2f} %, {row.lost:.2f} lost at {row.share:.3f}")


@app.command()
def table(folder: Folder = FOLDER) -> None:
    """Write the table of docs/separate.md, and the rows beside it."""
    shutil.copyfile(folder / ROWS, PUBLISHED)
    tables.write(PAGE, read(PUBLISHED))


app(prog_name="python -m benchmarks.separating")
