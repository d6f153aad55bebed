"""The runs of training: what is selected, memory in processes of their own, and the report, losses first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from benchmarks.suite import Commit
from benchmarks.training import alone, run
from benchmarks.training.report import document, losses
from depthwise.bench.rows import OURS
from depthwise.bench.training.networks import Step
from depthwise.bench.training.rows import BLOCKS, CONVOLUTIONS, MEMORY, STEPS, TrainingResult, TrainingRow
from depthwise.doctor import machine_report

ROWS = (
    TrainingRow(CONVOLUTIONS.name, "3x3", 1, 1.0, 4.0, "contiguous", 1.0),
    TrainingRow(STEPS.name, "a network", 1, 2.0, 1.0, "channels_last, compiled", 2.0),
    TrainingRow(BLOCKS.name, "a block", 2, 1.0, 0.9, "contiguous", None, 1.2, 0.4),
)


def test_a_part_of_a_name_selects() -> None:
    assert run.selected(["norm"]) == [
        "batch norm and activation, batch 8",
        "MobileNetV1's blocks with batch norms, batch 4",
    ]
    assert len(run.selected([])) == 6
    with pytest.raises(typer.BadParameter, match=r"nothing is called 'x0'; there are: depthwise, forward"):
        run.selected(["x0"])


def test_losses_come_first_and_what_was_asked_next() -> None:
    assert [row.name for row in losses(ROWS)] == ["a network", "a block"]
    page = document(TrainingResult(ROWS, ("torch.compile",), machine_report(), "today"), Commit("a" * 40, dirty=False))
    titles = [line for line in page.splitlines() if line.startswith("## ")]
    assert titles[:2] == ["## Where PyTorch is faster: 2 of 3", "## What was asked for"]
    assert "| a training step | a network | 1 | 2 ms | 1 ms | channels_last, compiled | 0.50 |" in page
    assert "| a training step | 1 |  | 0.50 | a network: 0.50 of 2.0 | **missed** |" in page
    assert (
        "| MobileNetV1's blocks with batch norms, batch 4 | 2 | 1.00 promise kept | 0.90; 1.20 |  | reached |" in page
    )
    assert page.rstrip().endswith("Not measured: torch.compile")


def test_a_run_is_written_after_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = (Step("one", 1, 8, 1.0), Step("two", 1, 8, 1.0))
    monkeypatch.setattr(run, "NETWORKS", steps)

    def memory_row(step: Step, threads: int) -> TrainingRow | None:
        if step.name.startswith("two"):
            assert len(json.loads(next(tmp_path.glob("training-*.json")).read_text())["training"]) == 1
            return None
        return TrainingRow(MEMORY.name, step.name, threads, 1.0, 2.0, "contiguous", 1.0)

    monkeypatch.setattr(run, "memory_row", memory_row)
    run.main(["memory"], "1", eager=True, results=tmp_path, quick=True)
    assert "0 of 1" in next(tmp_path.glob("training-*.md")).read_text()


def test_memory_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "STEPS", 1)
    sizes = {OURS: 3, "torch": 4}
    monkeypatch.setattr(alone, "in_a_process", lambda who, layout, *_: sizes[who] * 2**20 + (layout == "contiguous"))
    row = alone.memory_row(Step("a", 2, 32, 1.5), 1)
    assert row is not None
    assert (row.ours, row.torch, row.way, row.least, row.ratio) == (3.0, 4.0, "channels_last", 1.0, 4 / 3)
    monkeypatch.undo()
    found = alone.in_a_process("torch", "channels_last", Step("mobilenetv2_035", 2, 32, 1.0), 1)
    # 4 bytes of each of 1.7 million weights, as gradient and as momentum.
    assert found is None or 10 * 2**20 < found < 400 * 2**20
