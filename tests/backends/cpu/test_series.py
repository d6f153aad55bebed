"""Problems one after another in one program: values, memory used again, and faults that must show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from depthwise.backends import CPU
from depthwise.backends.cpu import launch, machine, series
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.run import arena, jit, program
from depthwise.backends.cpu.run.arena import Life
from depthwise.backends.cpu.run.program import Stage
from depthwise.backends.packs import Packs
from depthwise.backends.pixels import Elementwise, Term
from depthwise.backends.series import Series, Step
from tests.support.kernels import HERE
from tests.support.series import check_example, check_network, example

on_each_machine = pytest.mark.parametrize("target", HERE, ids=lambda target: target.isa)
here = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")


@pytest.fixture(autouse=True)
def _all_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depthwise.backends.cpu.plan.elementwise.FEWEST_SHARED", 0)


@on_each_machine
@pytest.mark.parametrize("team", [1, 2, 3])
@pytest.mark.parametrize("apart", [False, True])
def test_a_block_gives_pytorchs_numbers(team: int, apart: bool, target: Machine) -> None:
    check_example(target, team, apart=apart)


@on_each_machine
def test_a_network_of_everything(target: Machine) -> None:
    check_network(target, 2)


def of_elements(*reads: tuple[str, ...], gives: str = "", sizes: dict[str, int] | None = None) -> Series:
    """Steps that add: each reads these values, and writes a, b, c, ..."""
    letters = "abcdefgh"[: len(reads)]
    steps = []
    for out, names in zip(letters, reads, strict=True):
        terms = tuple(Term("add", "each") for _ in names[1:])
        buffers = {"x": names[0], **{f"operand_{i}": name for i, name in enumerate(names[1:])}, "out": out}
        steps.append(Step(Elementwise(1, 1, 16, terms), tuple(buffers.items())))
    return Series(tuple(steps), frozenset("x"), frozenset(gives), dict.fromkeys(letters, 16) | (sizes or {}))


@here
def test_the_last_reader_writes_over_what_it_reads() -> None:
    def in_place(made: Series) -> dict[str, str]:
        return series._in_place(made, {})

    assert in_place(of_elements(("x",), ("a",), ("b",), gives="c")) == {"a": "c", "b": "c"}
    # Not what is the caller's, or read later, or of another size.
    assert in_place(of_elements(("x",), gives="a")) == {}
    assert in_place(of_elements(("x",), ("a",), ("a", "b"), gives="c")) == {"a": "c"}
    assert in_place(of_elements(("x",), ("a",), ("a",), gives="abc")) == {}
    assert in_place(of_elements(("x",), ("a",), gives="b", sizes={"a": 8})) == {}
    # The second operand where the first lives on.
    assert in_place(of_elements(("x",), ("x",), ("a", "b"), ("a", "c"), gives="d")) == {"c": "b", "a": "d"}


@on_each_machine
def test_memory_is_used_again(target: Machine) -> None:
    found = series.plan(example()[0], target, 2).program
    _, elements = found.arena
    assert elements < sum(size for _, size in found.between)


@here
def test_a_series_is_bound_and_run() -> None:
    torch.set_num_threads(2)
    made, tensors, given = example()
    compiled = CPU.compiled(made, Packs())
    assert compiled is not None
    for _ in range(3):
        out = {name: torch.full((made.elements[name],), torch.nan) for name in given}
        compiled.run({name: tensor.data_ptr() for name, tensor in (tensors | out).items()})
        for name, expected in given.items():
            assert torch.equal(out[name].view(2, 4, 8, -1).permute(0, 3, 1, 2), expected)
    figures = CPU.figures(made)
    assert figures is not None
    assert figures.stages == len(made.steps)
    assert 0 < figures.barriers < figures.stages


@here
def test_packs_are_shared_by_series_of_other_sizes() -> None:
    made = example()[0]
    packs = Packs()
    CPU.compiled(made, packs)
    before = dict(packs._packs)
    assert len(before) == 5
    CPU.compiled(made, packs)
    assert packs._packs == before


@here
def test_code_that_cannot_be_made_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise jit.CompilationError("no")

    monkeypatch.setattr(jit, "load", fails)
    monkeypatch.setattr(launch, "_failed", set())
    with pytest.warns(UserWarning, match="could not be compiled, PyTorch's operators run instead"):
        assert CPU.compiled(example()[0], Packs()) is None
    assert CPU.compiled(example()[0], Packs()) is None


def slot_reused_too_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Life, "meets", lambda self, other: self.first < other.last and other.first < self.last)


def slot_of_another(patch: pytest.MonkeyPatch) -> None:
    whole = arena.places
    patch.setattr(program, "places", lambda buffers: (dict.fromkeys(whole(buffers)[0], 0), whole(buffers)[1]))


def buffers_swapped(patch: pytest.MonkeyPatch) -> None:
    whole = Stage.renamed

    def renamed(stage: Stage, names: Any) -> Stage:
        found = whole(stage, names)
        buffers = dict(found.buffers)
        if "residual" in buffers and buffers["residual"] != "nothing":
            buffers["residual"] = "shift"
        elif "operand_0" in buffers and buffers["operand_0"] == "a":
            buffers["operand_0"], buffers["x"] = buffers["x"], buffers["x"]
        return replace(found, buffers=tuple(buffers.items()))

    patch.setattr(Stage, "renamed", renamed)


def in_place_before_the_last_reader(patch: pytest.MonkeyPatch) -> None:
    def first_reads(made: Series, _: object) -> dict[str, int]:
        uses = [(name, n) for n, step in enumerate(made.steps) for key, name in step.buffers if key != "out"]
        return dict(reversed(uses))

    patch.setattr(series, "_last_uses", first_reads)


MUTANTS = [slot_reused_too_early, slot_of_another, buffers_swapped, in_place_before_the_last_reader]


@here
@pytest.mark.parametrize("plant", MUTANTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_shows(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="elements differ"):
        check_example(HERE[-1], 1)


@here
def test_every_barrier_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left out, two threads would meet: told from the program, as a race need not show."""
    found = series.plan(example()[0], HERE[-1], 2).program
    own = found.arena[0]
    accesses = [found._access(stage, own) for stage in found.stages]

    def meets(waits: tuple[bool, ...]) -> bool:
        begun = 0
        for number, access in enumerate(accesses):
            begun = number if waits[number] else begun
            if any(access.needs(before) for before in accesses[begun:number]):
                return True
        return False

    assert not meets(found.waits)
    for number, waits in enumerate(found.waits):
        if waits:
            assert meets((*found.waits[:number], False, *found.waits[number + 1 :]))
    monkeypatch.setattr(program, "waits", lambda accesses: (False,) * len(accesses))
    assert meets(found.waits)
