"""The blocks in training: right gradients first, then times, and what they come to."""

from __future__ import annotations

from io import StringIO

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from depthwise import DepthwiseError
from depthwise.bench import training
from depthwise.bench.cases import MOBILENET_V1
from depthwise.bench.training import TrainingRow, measured


def test_a_small_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "MOBILENET_V1", MOBILENET_V1[-1:])
    monkeypatch.setattr(training, "BATCH", 1)
    printed = StringIO()
    result = training.run(Console(file=printed, width=100), quick=True)
    (row,) = result.rows
    assert min(row.ours, row.torch, row.dense) > 0
    assert result.promise_kept == pytest.approx(row.promise_kept)
    assert result.to_dict()["rows"][0]["promise_kept"] == row.promise_kept
    assert "geometric mean" in printed.getvalue()


def test_promises_of_made_up_numbers() -> None:
    row = TrainingRow("a block", ours=2.0, torch=8.0, dense=8.0, multiplications=(800, 100))
    assert (row.promise_kept, row.promise_of_torch) == (0.5, 0.125)


def test_wrong_gradients_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.module(x)
            return 1.1 * out

    own = training._by_torch
    monkeypatch.setattr(training, "_by_torch", lambda block: Wrong(own(block)))
    monkeypatch.setattr(training, "BATCH", 1)
    with pytest.raises(DepthwiseError, match=r"3x3 1024→1024 @7x7: a gradient is off by .* it is not timed"):
        measured(MOBILENET_V1[-1], training.QUICK)
    assert torch.is_grad_enabled()
