"""Values written where they would be copied to: the numbers of a copy, and faults that must show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from depthwise.backends.cpu import parts, series
from depthwise.backends.cpu.lower import lower
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.parts import Part
from depthwise.backends.cpu.run.program import Table
from tests.support.kernels import HERE
from tests.support.series import check_beside

on_each_machine = pytest.mark.parametrize("target", HERE, ids=lambda target: target.isa)
here = pytest.mark.skipif(not HERE, reason="no generator serves this machine")


@on_each_machine
@pytest.mark.parametrize("team", [1, 2, 3])
@pytest.mark.parametrize("apart", [False, True])
def test_the_numbers_are_those_of_a_copy(team: int, apart: bool, target: Machine) -> None:
    check_beside(target, team, apart=apart)


def changed(**fields: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """Every part is another one."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = parts.parts_of

        def parts_of(*given: Any) -> dict[str, Part]:
            return {name: replace(part, **fields) for name, part in right(*given).items()}

        patch.setattr(series, "parts_of", parts_of)

    return plant


def offsets_lost(patch: pytest.MonkeyPatch) -> None:
    right = Table.__init__

    def made(self: Table, program: Any) -> None:
        right(self, replace(program, stages=tuple(replace(stage, offsets=()) for stage in program.stages)))

    patch.setattr(Table, "__init__", made)


def read_as_if_dense(patch: pytest.MonkeyPatch) -> None:
    right = parts.reading
    patch.setattr(series, "reading", lambda problem, part, *given: right(problem, replace(part, step=17), *given))


def other_readers_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(series, "reading", lambda problem, part, target, team: lower(problem, target, team).program)


def copied_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(parts, "_reads_rows", lambda *_: True)


@here
@pytest.mark.parametrize(
    "plant",
    [changed(start=9), changed(step=42), offsets_lost, read_as_if_dense, other_readers_forgotten, copied_twice],
    ids=["start", "step", "offsets_lost", "read_as_if_dense", "other_readers_forgotten", "copied_twice"],
)
def test_a_planted_fault_shows(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check_beside(HERE[0], 1, apart=False)
