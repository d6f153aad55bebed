"""Trials of the tuning row's numbers: each is a number of every row, makes other plans, and can be measured."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.tuning import TRIALS, Trial, app, measured, prepared
from depthwise.backends.cpu import launch, lower, machine
from depthwise.backends.cpu.lower.decision import Decision
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.plan.tuning import ROWS, Tuning
from depthwise.backends.problem import Problem
from depthwise.measure.turns import Effort

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")
QUICK = Effort(rounds=2, sample_seconds=0, limit_seconds=0)


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.number)
def test_each_trial_is_of_a_number_and_gives_another(trial: Trial) -> None:
    assert trial.number in {field.name for field in fields(Tuning)}
    assert any(trial.other(row) != getattr(row, trial.number) for row in ROWS.values())
    for row in ROWS.values():
        replace(row, **{trial.number: trial.other(row)})


@pytest.mark.parametrize("number", ["far_strip_rows", "direct_shares"])
def test_both_values_give_the_same_result(number: str) -> None:
    (trial,) = (trial for trial in TRIALS if trial.number == number)
    with torch.no_grad():
        one, two = (call() for call in prepared(trial, trial.cases[0]).values())
        torch.testing.assert_close(one, two)
        assert min(measured(trial, trial.cases[0], QUICK)) > 0


def test_each_value_has_a_plan_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []
    original = lower.lower

    def recording(problem: Problem, target: Machine, threads: int) -> Decision:
        planned.append(original(problem, target, threads))
        return planned[-1]

    monkeypatch.setattr(launch, "lower", recording)
    (trial,) = (trial for trial in TRIALS if trial.number == "tiles")
    for _ in range(2):
        planned.clear()
        with torch.no_grad():
            prepared(trial, trial.cases[0])
        one, two = planned
        assert one.program.name != two.program.name


def test_an_unknown_number() -> None:
    found = CliRunner().invoke(app, ["speed"])
    assert found.exit_code == 2
    assert "'speed' has no trial" in found.output
