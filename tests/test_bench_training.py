"""Training beside PyTorch: right gradients first, then times, and what they come to."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from depthwise import DepthwiseError
from depthwise.backends.cpu import machine
from depthwise.bench import training
from depthwise.bench.cases import MOBILENET_V1
from depthwise.bench.training import blocks, convolutions, networks, norms, sides
from depthwise.bench.training.networks import Step
from depthwise.bench.training.rows import (
    BLOCKS,
    CONVOLUTIONS,
    KINDS,
    NORMS,
    STEPS,
    WEIGHTS,
    Kind,
    TrainingRow,
    row_of,
    verdicts,
)
from tests.support.networks import InvertedResidual

needs_kernels = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")


def small_network(_: str) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU6(), InvertedResidual(8, 16)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
    )


@pytest.fixture(name="short")
def fixture_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of each kind, the smallest."""
    monkeypatch.setattr(convolutions, "CASES", (convolutions._IN_CACHE((8, 9, 9), 3),))
    monkeypatch.setattr(convolutions, "SMALL_CASES", (convolutions._IN_CACHE((8, 40), 4, padding=3),))
    monkeypatch.setattr(norms, "SIZES", ((8, 5),))
    monkeypatch.setattr(norms, "ACTIVATIONS", (nn.ReLU6,))
    monkeypatch.setattr(blocks, "MOBILENET_V1", MOBILENET_V1[-1:])
    monkeypatch.setattr(blocks, "BATCH", 1)
    monkeypatch.setattr(networks.rows, "__kwdefaults__", {"quick": False, "steps": (Step("small", 2, 16, 1.5),)})


@needs_kernels
@pytest.mark.usefixtures("short")
def test_a_small_run() -> None:
    printed = StringIO()
    result = training.run(Console(file=printed, width=130), small_network, quick=True)
    assert [row.kind for row in result.rows] == [kind.name for kind in (CONVOLUTIONS, WEIGHTS, NORMS, BLOCKS, STEPS)]
    assert all(min(row.ours, row.torch) > 0 for row in result.rows)
    assert [row.share is None for row in result.rows] == [True, False, False, False, True]
    assert result.promise_kept == pytest.approx(result.rows[3].share)
    assert result.to_dict()["training"][0]["ratio"] == result.rows[0].ratio
    for kind in (CONVOLUTIONS, WEIGHTS, NORMS, BLOCKS, STEPS):
        assert kind.name in printed.getvalue()


@needs_kernels
@pytest.mark.usefixtures("short")
def test_without_networks_the_reason_is_told() -> None:
    printed = StringIO()
    result = training.run(Console(file=printed, width=130), None, absent=("no networks [here]",), quick=True)
    assert STEPS.name not in {row.kind for row in result.rows}
    assert "no networks [here]" in printed.getvalue()


SAMPLES = {
    ("depthwise", "channels_last"): [0.002, 0.003, 0.001],
    ("depthwise", "contiguous"): [0.004],
    ("torch", "channels_last"): [0.009],
    ("torch", "channels_last, compiled"): [0.008],
}


def test_the_fastest_ways_are_compared() -> None:
    row = row_of(CONVOLUTIONS, "a", 1, SAMPLES)
    assert (row.ours, row.torch, row.way, row.ratio) == (2.0, 8.0, "channels_last, compiled", 4.0)
    assert (row.least, row_of(STEPS, "a", 1, SAMPLES, 1.3).least) == (1.0, 1.3)


def row(kind: Kind, ratio: float, share: float | None = None, threads: int = 1) -> TrainingRow:
    return TrainingRow(kind.name, "a", threads, 1.0, ratio, "contiguous", kind.least_each, share)


@pytest.mark.parametrize(
    ("rows", "reached"),
    [
        ([row(CONVOLUTIONS, 1.0), row(CONVOLUTIONS, 9.0)], True),
        ([row(CONVOLUTIONS, 1.0), row(CONVOLUTIONS, 8.9)], False),
        ([row(CONVOLUTIONS, 0.9), row(CONVOLUTIONS, 90.0)], False),
        ([row(WEIGHTS, 0.5, 0.4)], True),
        ([row(WEIGHTS, 5.0, 0.39)], False),
        ([row(NORMS, 2.0, 0.69)], False),
        ([row(NORMS, 1.9, 0.8)], False),
        ([replace(row(STEPS, 1.4), least=1.5)], False),
    ],
)
def test_what_was_asked_for(rows: list[TrainingRow], reached: bool) -> None:
    (verdict,) = verdicts(rows)
    assert verdict.reached is reached


def test_each_number_of_threads_is_judged_by_itself() -> None:
    found = verdicts([row(BLOCKS, 1.0, 0.9), row(BLOCKS, 1.0, 1.1, threads=2)])
    assert [(each.threads, each.reached) for each in found] == [(1, False), (2, True)]
    assert len({kind.name for kind in KINDS}) == len(KINDS)


class Wrong(nn.Module):
    """What a module gives, a little too much of it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.module(x)
        return 1.1 * out


def test_wrong_gradients_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    own = blocks._by_torch
    monkeypatch.setattr(blocks, "_by_torch", lambda block: Wrong(own(block)))
    monkeypatch.setattr(blocks, "BATCH", 1)
    with pytest.raises(DepthwiseError, match=r"3x3 1024→1024 @7x7: a gradient is off by .* it is not timed"):
        blocks.block(MOBILENET_V1[-1], sides.QUICK, compiled=False)
    assert torch.is_grad_enabled()


def test_a_wrong_first_loss_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(model: Any) -> None:
        with torch.no_grad():
            model[-1].weight.mul_(2)

    monkeypatch.setattr(networks, "accelerate_", spoil)
    with pytest.raises(DepthwiseError, match=r"small, batch 2, 16x16: the first loss of depthwise is .* not timed"):
        networks.network(Step("small", 2, 16, 1.5), small_network, compiled=False, rounds=1)
