"""Errors planted in the kernels of batch norms: a check must see each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from depthwise.backends.cpu.emit import derivatives, norm_backward, norm_columns, norm_forward, norm_tiles
from depthwise.backends.cpu.lower import norms as lower_norms
from depthwise.backends.cpu.lower.norms import NormProblem
from depthwise.backends.cpu.machine import Machine
from tests.backends.cpu.test_mutants import Mutant, planted
from tests.backends.cpu.test_mutants import _code_of_its_own as _code_of_its_own
from tests.support.kernels import HERE, Roomy
from tests.support.norms import assert_exact, assert_near, given, run

pytestmark = pytest.mark.skipif(not HERE, reason="no generator serves this machine")


def check(target: Machine) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("depthwise.backends.cpu.plan.norm._SERIAL_ELEMENTS", 0)
        for channels, pixels, threads in ((17, 64, 1), (9, 128, 2)):
            problem = NormProblem(pixels, channels, 3.0, ("relu6", 0.0), residual=True)
            assert_exact(problem, target, threads, Roomy())
    # An odd number of pixels.
    problem = NormProblem(67, 9, 1e-3, ("leaky_relu", 0.25), residual=True, momentum=0.1)
    torch.manual_seed(0)
    numbers = given(problem, torch.randn)
    assert_near(problem, numbers, run(problem, numbers, target, 1, Roomy()))


def check_chunks() -> None:
    check(replace(HERE[-1], l2_bytes=0))


def check_columns() -> None:
    check(HERE[-1])
    problem = NormProblem(4 * 67, 9, 1e-3, ("silu", 0.0), residual=True, plane=67, momentum=0.1)
    torch.manual_seed(0)
    numbers = given(problem, torch.randn)
    assert_near(problem, numbers, run(problem, numbers, HERE[-1], 1, Roomy()))


def only_whole_tiles(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda e, lanes, start, pixels, body: right(e, lanes, start, pixels, body) if pixels > 1 else None


def one_chunk_less(right: Callable[..., Any]) -> Callable[..., Any]:
    def added(e: Any, lanes: int, slot: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            number = e.number
            patch.setattr(e, "number", lambda name: number(name) - int(name == "chunks"))
            return right(e, lanes, slot)

    return added


MUTANTS: dict[str, tuple[Any, str, Mutant]] = {
    "the pixels left over skipped": (norm_tiles, "_write_vectors", only_whole_tiles),
    "the last vector of channels one too early": (norm_tiles, "least", lambda right: lambda a, b: right(a, b - 1)),
    "sums not cleared": (norm_forward, "clear", lambda right: lambda *_: None),
    "the last chunk's sums left out": (norm_forward, "added", one_chunk_less),
    "the mean over one pixel too many": (norm_forward, "of_count", lambda right: lambda n, lanes: right(n + 1, lanes)),
    "gradients over a pixel too many": (
        norm_backward,
        "of_count",
        lambda right: lambda n, lanes: right(n + 1, lanes),
    ),
    "running statistics of the last channel forgotten": (
        norm_forward,
        "store_first",
        lambda right: lambda place, count, vector: right(place, count - 1, vector),
    ),
    "no derivative of the activation": (norm_backward, "through", lambda right: lambda dy, z, activation: dy),
    "a derivative that passes everywhere": (derivatives, "select", lambda right: lambda condition, yes, no: yes),
    "no activation": (norm_forward, "activated", lambda right: lambda x, activation: x),
    "the residual left out": (
        lower_norms,
        "norm_plan",
        lambda right: lambda *arguments, residual: right(*arguments, residual=False),
    ),
}


# Of the kernels that go by columns.
COLUMN_MUTANTS: dict[str, tuple[Any, str, Mutant]] = {
    "running statistics move twice where vectors overlap": (
        norm_forward,
        "first_alone",
        lambda right: lambda channel, _: channel,
    ),
    "the last column one too early": (norm_columns, "least", lambda right: lambda a, b: right(a, b - 1)),
    "lanes beside a plane counted": (norm_tiles, "load_first", lambda right: lambda place, _, lanes: place.load(lanes)),
    "the last vector of a plane not written": (norm_tiles, "store_first", lambda right: lambda *_: None),
    "half of the lanes added up": (
        norm_columns,
        "added_up",
        lambda right: lambda sums: right(sums.merged(sums, range(sums.lanes // 2))),
    ),
    "gradients kept before the activation": (
        norm_backward,
        "through",
        lambda right: lambda dy, z, activation: dy,
    ),
    "gradients over a pixel too many": (
        norm_backward,
        "of_count",
        lambda right: lambda n, lanes: right(n + 1, lanes),
    ),
    "the mean over one pixel too many": (norm_forward, "of_count", lambda right: lambda n, lanes: right(n + 1, lanes)),
}


@pytest.mark.parametrize("checks", [check_chunks, check_columns])
def test_without_a_mutant_the_check_passes(checks: Callable[[], None]) -> None:
    checks()


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, *MUTANTS[name])
    with pytest.raises(AssertionError, match="elements differ"):
        check_chunks()


@pytest.mark.parametrize("name", COLUMN_MUTANTS)
def test_every_mutant_of_columns_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, *COLUMN_MUTANTS[name])
    with pytest.raises(AssertionError, match="elements differ"):
        check_columns()
