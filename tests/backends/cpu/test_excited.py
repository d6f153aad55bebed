"""Sums beside a depthwise result, and gates within a pointwise convolution: values, and faults that must show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from depthwise.backends.cpu.emit import depthwise, gated, pointwise, row_sums
from depthwise.backends.cpu.lower.expanded import lower_expanded
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.series import plan
from depthwise.backends.pixels import Mean
from depthwise.backends.problem import Problem
from depthwise.backends.series import Step
from tests.backends.cpu.test_mutants import Mutant, planted
from tests.backends.cpu.test_mutants import _code_of_its_own as _code_of_its_own
from tests.backends.cpu.test_plan import MACHINES
from tests.support.excited import GATED, SUMMED, Gated, Summed, check_gated, check_summed, rolling, series_of
from tests.support.kernels import HERE, Roomy
from tests.support.series import run_series

on_each_machine = pytest.mark.parametrize("target", HERE, ids=lambda target: target.isa)
some_machine = pytest.mark.skipif(not HERE, reason="no generator serves this machine")


@on_each_machine
@pytest.mark.parametrize("case", SUMMED, ids=str)
def test_sums_are_exact_on_small_integers(case: Summed, target: Machine) -> None:
    for team in (1, 2, 3):
        check_summed(case, target, team)


@on_each_machine
@pytest.mark.parametrize("case", GATED, ids=str)
def test_gated_convolutions_are_exact_on_small_integers(case: Gated, target: Machine) -> None:
    for team in (1, 2, 3):
        check_gated(case, target, team)


@on_each_machine
def test_the_bits_of_a_mean_do_not_depend_on_the_threads(target: Machine) -> None:
    generator = torch.Generator().manual_seed(0)
    case = Summed(21, (3, 75), batch=1)
    series, tensors, _ = series_of(case, lambda size: torch.randn(size, generator=generator))
    one, *others = (run_series(series, tensors, target, team)["m"] for team in (1, 2, 3, 8))
    assert all(torch.equal(one, other) for other in others)


@pytest.mark.parametrize("target", MACHINES, ids=lambda target: target.isa)
def test_their_code_is_valid_for_every_machine(target: Machine) -> None:
    for case in SUMMED[2], SUMMED[7]:
        series, _, _ = series_of(case)
        with rolling():
            program = plan(series, target, 1).program
        assert len(program.stages) == 2
        # Verified and compiled on the way.
        assert program.assembly().count("kernel:") == 2


@some_machine
def test_no_sums_where_the_mean_is_of_something_else() -> None:
    series, _, _ = series_of(SUMMED[0])
    depthwise_step, mean = series.steps

    def summed(*steps: Step) -> bool:
        kernels = plan(replace(series, steps=steps), HERE[0], 1).program.kernels
        return any("sums" in kernel.writes for kernel in kernels)

    assert summed(depthwise_step, mean)
    assert not summed(depthwise_step)
    # Of squares; of half as many images of twice as many pixels; of something that two steps write.
    assert not summed(depthwise_step, replace(mean, problem=Mean(2, 35, 16, "norm")))
    assert not summed(depthwise_step, replace(mean, problem=Mean(1, 70, 16)))
    assert not summed(depthwise_step, depthwise_step, mean)


@some_machine
def test_an_expansion_with_a_gate_is_a_stage_of_its_own() -> None:
    expand, after, _ = series_of(SUMMED[-1])[0].steps
    assert isinstance(expand.problem, Problem)
    assert isinstance(after.problem, Problem)
    with rolling():
        assert lower_expanded(expand.problem, after.problem, HERE[0], 1) is not None
        assert lower_expanded(replace(expand.problem, gated=True), after.problem, HERE[0], 1) is None


def one_column_twice(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda e, place, tile, seen: right(e, place, tile, e.whole(0))


def of_the_first_row(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda e, k, unit, count: replace(rows := right(e, k, unit, count), sums=rows.sums and e.pointer("sums"))


def of_the_first_image(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda e, k, gate, panel: right(e, k, replace(gate, factors=e.pointer("gate")), panel)


def the_first_panel(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda e, k, band, panels: right(e, k, band, (panels[0], panels[0] + 1))


MUTANTS: dict[str, tuple[Any, str, Mutant]] = {
    "columns of two tiles counted twice": (row_sums, "add", one_column_twice),
    "sums begun where they were": (row_sums, "clear", lambda right: lambda *_: None),
    "all rows' sums in one place": (depthwise, "_rows_from", of_the_first_row),
    "a tile of one column": (row_sums, "pairwise", lambda right: lambda vectors: vectors[0]),
    "the first image's gate": (pointwise, "_gated", of_the_first_image),
    "no gate": (pointwise, "_gated", lambda right: lambda e, k, gate, panel: panel),
    "each panel at the first one's channels": (gated, "write_product", the_first_panel),
}


def check() -> None:
    for summed in SUMMED[2:4]:
        check_summed(summed, HERE[-1], 2, Roomy())
    check_gated(GATED[1], HERE[-1], 2, Roomy())


@some_machine
def test_without_a_mutant_the_check_passes() -> None:
    check()


@some_machine
@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, *MUTANTS[name])
    with pytest.raises(AssertionError, match="elements differ"):
        check()
