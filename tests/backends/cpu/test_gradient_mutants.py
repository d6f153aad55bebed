"""Errors planted in the emitters of gradients: the comparison of gradients with torch's must see each of them."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any
from weakref import WeakValueDictionary

import pytest

from depthwise.backends import calls
from depthwise.backends.cpu import launch
from depthwise.backends.cpu.emit import (
    filter_sums,
    fresh,
    input_gradient,
    ir,
    pointwise_gradient,
    tap_sums,
    weight_gradient,
)
from depthwise.backends.cpu.emit.ir import Block
from depthwise.backends.cpu.plan import input_gradient as phases
from depthwise.backends.cpu.run import jit
from tests.backends.cpu.test_gradients import Case, check
from tests.backends.cpu.test_pointwise_gradients import check_pointwise
from tests.support.fresh import check_fresh
from tests.support.kernels import HERE, Roomy

pytestmark = pytest.mark.skipif(not HERE, reason="no generator serves this machine")

EXAMPLES = [
    Case(2, 9, 1, (7, 11), (3, 3), 1, 1),
    Case(1, 9, 1, (7, 11), (3, 3), 1, 1, layout="planar", gradient_layout="planar"),
    Case(1, 9, 1, (7, 13), (5, 5), 1, 2),
    Case(1, 9, 2, (9, 13), (3, 3), 2, 1),
    Case(1, 9, 1, (9, 13), (3, 3), 2, 1, layout="planar"),
    # More taps in a row than a tile has, whatever the registers.
    Case(1, 9, 1, (2, 20), (1, 13), 1, (0, 6)),
    Case(1, 9, 1, (2, 40), (1, 33), 1, (0, 16)),
    # More boxes than slots, whatever the lanes.
    Case(4, 33, 1, (9, 11), (3, 3), 1, 1, small_cache=True),
]


@pytest.fixture(autouse=True)
def _code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTHWISE_CACHE_DIR", "off")
    monkeypatch.setattr(jit, "_loaded", WeakValueDictionary())
    monkeypatch.setattr(jit, "_kept", deque(maxlen=8))
    monkeypatch.setattr(calls, "_bound", OrderedDict())
    monkeypatch.setattr(launch, "_failed", set())


def check_pixels() -> None:
    check_pointwise(2, 17, 19, 1, (5, 9), threads=2)
    check_pointwise(1, 16, 96, 1, (5, 9), threads=2)


def check_strided() -> None:
    for case in EXAMPLES:
        if case.stride == 2:
            check(case)


def check_weights() -> None:
    for case in EXAMPLES:
        if case.stride == 1:
            check(case)


def check_packs() -> None:
    check_fresh(17, 33, 2, HERE[0], Roomy(), turned=False, bias=True)


CHECKS: dict[Any, Callable[[], None]] = {
    fresh: check_packs,
    pointwise_gradient: check_pixels,
    pointwise_gradient._Numbers: check_pixels,
    input_gradient: check_strided,
    phases: check_strided,
    filter_sums: check_strided,
}


Mutant = Callable[[Callable[..., Any]], Callable[..., Any]]


def changed(change: Callable[..., Any]) -> Mutant:
    """What a function returns, changed; `change` also sees the arguments."""
    return lambda right: lambda *arguments, **options: change(right(*arguments, **options), *arguments)


def shifted_padding(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda e, name: right(e, name) + int(name == "pad_x")


def without_last_slot(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda e, name: right(e, name) - int(name == "slots")


MUTANTS: dict[str, tuple[ModuleType | type, str, Mutant]] = {
    "padding shifted along a row": (Block, "number", shifted_padding),
    "columns at the edges left out": (
        tap_sums,
        "_columns",
        changed(lambda found, *_: (found[1], *found[1:3], found[2])),
    ),
    "the first row that a tap sees left out": (
        tap_sums,
        "outputs_inside",
        changed(lambda found, *_: (ir.least(found[0] + 1, found[1]), found[1])),
    ),
    "boxes begin their sums anew": (
        weight_gradient,
        "_write_box",
        lambda right: lambda *arguments: right(*arguments[:-1], arguments[3] < 0),
    ),
    "tiles of columns that look at no edge": (
        tap_sums,
        "_tiles",
        changed(lambda runs, *_: [(begin, end, count, False) for begin, end, count, _ in runs]),
    ),
    "rows in registers in another order": (
        tap_sums._Columns,
        "by_gradients",
        lambda right: lambda self, rows, row, sums: right(self, rows[::-1], row, sums),
    ),
    "gradients of a bundle's first block for all": (
        tap_sums._Columns,
        "_gradient",
        lambda right: lambda self, _, row, i: right(self, 0, row, i),
    ),
    "taps in another order": (
        weight_gradient,
        "_first_tap",
        changed(lambda tap, k, tile: (tap[0], tap[1], ir.least(tap[2] + 1, k.kernel[2] - k.tap_columns))),
    ),
    "the sums of the last slot left out": (Block, "number", without_last_slot),
    "the last block of filters one too early": (
        weight_gradient,
        "first_filter",
        lambda right: lambda k, block: ir.least(block * k.lanes, max(0, k.filters - k.lanes - 1)),
    ),
    "a tap of a phase left out": (
        input_gradient,
        "_users",
        changed(lambda users, *_: {output: own[:-1] if len(own) > 1 else own for output, own in users.items()}),
    ),
    "outputs of a phase one off": (
        phases,
        "phase_of",
        changed(lambda found, *_: found and replace(found, offset=found.offset + (found.first > 0))),
    ),
    "rows that reach one off": (
        input_gradient,
        "_reach",
        changed(lambda reach, *_: replace(reach, turns=(reach.turns[0], ir.greatest(reach.turns[1] - 1, 0)))),
    ),
    "what a box of planes needs one row too few": (
        input_gradient,
        "_reaching",
        changed(lambda found, e, k, axis, _: (found[0] + int(axis == 1), found[1])),
    ),
    "filters of a channel in another order": (
        filter_sums,
        "_apart",
        changed(lambda vectors, *_: [vectors[0], *vectors[:-1]]),
    ),
    "the last tile of output channels not overlapping": (
        pointwise_gradient,
        "_first_row",
        lambda right: lambda k, tile: ir.least(tile * k.rows, k.row_channels - k.rows - 1),
    ),
    "the last vector of a panel not overlapping": (
        fresh,
        "least",
        lambda right: lambda one, most: right(one, most + 1),
    ),
    "output channels of a vector in another order": (
        fresh,
        "planes_to_pixels",
        lambda right: lambda e, rows, *rest: right(e, [*rows[1:], rows[0]], *rest),
    ),
    "denormal weights kept": (fresh, "_without_denormals", lambda _: lambda e, vector: vector),
    "a vector of columns one too early": (
        pointwise_gradient,
        "_column",
        lambda right: lambda k, panel, vector: ir.greatest(right(k, panel, vector) - 1, 0),
    ),
    "the first pixel of a piece read for all": (
        pointwise_gradient._Numbers,
        "of",
        lambda right: lambda self, pixel: self.places,
    ),
    "the last pixel of a piece left out": (
        pointwise_gradient,
        "_product",
        lambda right: lambda e, k, count, *rest: right(e, k, count - 1, *rest),
    ),
}


def planted(monkeypatch: pytest.MonkeyPatch, owner: ModuleType | type, name: str, mutant: Mutant) -> None:
    right = getattr(owner, name)
    wrong = mutant(right)
    for place in {owner, input_gradient, tap_sums, weight_gradient}:
        if getattr(place, name, None) is right:
            monkeypatch.setattr(place, name, wrong)


@pytest.mark.parametrize("checks", [check_weights, check_strided, check_pixels, check_packs])
def test_without_a_mutant_the_check_passes(checks: Callable[[], None]) -> None:
    checks()


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, _, _ = MUTANTS[name]
    planted(monkeypatch, *MUTANTS[name])
    with pytest.raises(AssertionError, match="elements differ"):
        CHECKS.get(owner, check_weights)()
