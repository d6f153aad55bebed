"""Expansions in one stage with the convolution after them: values, when they are, and faults that must show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from depthwise.backends.cpu.emit import expanded
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.plan.expanded import expanded_bands, rolled_rows
from depthwise.backends.cpu.series import plan
from depthwise.geometry import geometry
from tests.backends.cpu.test_mutants import Mutant, planted
from tests.backends.cpu.test_mutants import _code_of_its_own as _code_of_its_own
from tests.backends.cpu.test_plan import MACHINES
from tests.support.expanded import TRIED, Expanded, check_expanded, series_of, tried
from tests.support.kernels import HERE, Roomy

on_each_machine = pytest.mark.parametrize("target", HERE, ids=lambda target: target.isa)
some_machine = pytest.mark.skipif(not HERE, reason="no generator serves this machine")
KIB = 1024


@on_each_machine
@pytest.mark.parametrize("case", TRIED, ids=str)
def test_bit_equal_on_small_integers(case: Expanded, target: Machine) -> None:
    for own, team, bands in tried():
        if own == case:
            check_expanded(case, target, team, bands)


@pytest.mark.parametrize("target", MACHINES, ids=lambda target: target.isa)
def test_its_code_is_valid_for_every_machine(target: Machine) -> None:
    small = replace(target, l2_bytes=40 * KIB)
    series, _, _ = series_of(Expanded(8, 32, 16, (64, 16), batch=1))
    program = plan(series, small, 1).program
    (kernel,) = program.kernels
    assert isinstance(kernel, expanded.ExpandedFusedKernel)
    # Verified and compiled on the way.
    assert "kernel:" in program.assembly()


def test_it_is_for_what_would_leave_l2() -> None:
    target = replace(MACHINES[0], l2_bytes=512 * KIB)
    g = geometry((96, 112, 112), 3, 2, 1, out_channels=24)
    bands = expanded_bands(16, g, 1, target, 2)
    assert bands is not None
    cut = rolled_rows(16, g, 1, target, 2, bands)
    assert cut.scratch_elements * 4 < target.l2_bytes
    assert bands % 2 == 0
    # What stays in L2 anyway; more threads than rows that a band is worth; rows of which none fits; most rows moved.
    assert expanded_bands(64, geometry((384, 14, 14), 3, 1, 1, out_channels=64), 1, target, 2) is None
    assert expanded_bands(16, g, 1, target, 64) is None
    assert expanded_bands(16, geometry((512, 112, 1120), 3, 1, 1, out_channels=24), 1, target, 1) is None
    assert expanded_bands(16, geometry((96, 112, 112), 13, 1, 6, out_channels=24), 1, target, 1) is None
    assert expanded_bands(16, geometry((96, 112, 112, 3), 3, 1, 1), 1, target, 1) is None


@some_machine
def test_a_result_that_others_read_is_made() -> None:
    target = replace(HERE[0], l2_bytes=40 * KIB)
    series, _, _ = series_of(Expanded(8, 32, 16, (64, 16), batch=1))
    assert len(plan(series, target, 1).program.stages) == 1
    given = replace(series, gives=frozenset({"a", "y"}))
    assert len(plan(given, target, 1).program.stages) == 2
    first, last = series.steps
    read_twice = replace(series, steps=(first, last, replace(last, buffers=(("x", "a"), ("out", "z")))))
    assert len(plan(read_twice, target, 1).program.stages) == 3


def one_row_less(right: Callable[..., Any]) -> Callable[..., Any]:
    def expand(self: Any, e: Any, task: Any, first: Any, rolled: Any) -> None:
        right(self, e, replace(task, last=task.last - 1), first, rolled)

    return expand


def a_pixel_off(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, e, source, target, pixels: right(self, e, source + self.expand.out_channels, target, pixels)


def of_another_image(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, e, image, band: right(self, e, e.whole(0), band)


MUTANTS: dict[str, tuple[Any, str, Mutant]] = {
    "the last row not expanded": (expanded.ExpandedKernel, "_expand", one_row_less),
    "nothing moved": (expanded.ExpandedKernel, "_move", lambda right: lambda *_: None),
    "moved from a pixel further on": (expanded.ExpandedKernel, "_move", a_pixel_off),
    "the first image alone": (expanded.ExpandedKernel, "_task", of_another_image),
    "results a row too far": (
        expanded,
        "_pixel",
        lambda right: lambda e, task: right(e, task) + e.number("out_x"),
    ),
}


def check() -> None:
    for case in TRIED[:4]:
        check_expanded(case, HERE[-1], 2, 2, Roomy())
        check_expanded(case, HERE[-1], 1, 3, Roomy())


@some_machine
def test_without_a_mutant_the_check_passes() -> None:
    check()


@some_machine
@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, *MUTANTS[name])
    with pytest.raises(AssertionError, match="elements differ"):
        check()
