"""Elementwise steps that become one, and those that must not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from depthwise.backends.pixels import Elementwise, Mean, Term
from depthwise.backends.series import Step
from depthwise.optimize import whole
from depthwise.optimize.frozen import optimized
from depthwise.optimize.lowering import fusing
from depthwise.optimize.lowering.fusing import fused
from tests.support.networks import Calls
from tests.support.whole import difference

RELU = Term("activation", activation=("relu", 0.0))


def step(out: str, x: str, *operands: str, terms: tuple[Term, ...], channels: int = 4) -> Step:
    buffers = {"x": x, **{f"operand_{i}": name for i, name in enumerate(operands)}, "out": out}
    return Step(Elementwise(1, 16 // channels, channels, terms), tuple(buffers.items()))


def each(operation: str) -> Term:
    return Term(operation, "each")  # type: ignore[arg-type]


def test_a_chain_is_one_step() -> None:
    steps = [
        step("a", "x", "s", terms=(Term("mul", "channel"),)),
        step("b", "a", "y", terms=(each("add"),)),
        step("c", "b", terms=(RELU,)),
    ]
    assert fused(steps, {"c"}) == (step("c", "x", "s", "y", terms=(Term("mul", "channel"), each("add"), RELU)),)


@pytest.mark.parametrize(("operation", "turned"), [("add", "add"), ("mul", "mul"), ("sub", "from")])
def test_the_second_operand_turns(operation: str, turned: str) -> None:
    steps = [step("a", "x", terms=(RELU,)), step("b", "y", "a", terms=(each(operation),))]
    assert fused(steps, {"b"}) == (step("b", "x", "y", terms=(RELU, each(turned))),)


def test_what_stays_apart() -> None:
    first = step("a", "x", terms=(RELU,))
    twice = [first, step("b", "a", "a", terms=(each("add"),))]
    read_later = [first, step("b", "a", terms=(RELU,)), step("c", "a", "b", terms=(each("add"),))]
    quotient = [first, step("b", "y", "a", terms=(each("div"),))]
    image = [first, step("b", "y", "a", terms=(Term("mul", "image"),))]
    other = [Step(Mean(1, 4, 4), (("x", "x"), ("out", "a"))), step("b", "a", terms=(RELU,))]
    rows = [
        step("a", "x", "s", terms=(Term("mul", "channel"),)),
        step("b", "a", "t", terms=(Term("mul", "channel"),), channels=8),
    ]
    many = [
        step("a", "x", "p", "q", "r", terms=(each("add"),) * 3),
        step("b", "a", "s", "t", terms=(each("add"),) * 2),
    ]
    for steps in (twice, read_later[:2] + read_later[2:], quotient, image, other, rows, many):
        assert fused(steps, {"b", "c"}) == tuple(steps)
    given = [first, step("b", "a", terms=(RELU,))]
    assert fused(given, {"a", "b"}) == tuple(given)


def test_rows_are_those_that_matter() -> None:
    flat = step("a", "x", terms=(RELU,), channels=16)
    scaled = step("b", "a", "s", terms=(Term("mul", "channel"),))
    assert fused([flat, scaled], {"b"}) == (step("b", "x", "s", terms=(RELU, Term("mul", "channel"))),)


def forward(x: Tensor) -> Tensor:
    y = F.relu(x * 2 + 1)
    z = x - F.silu(y * y.mean((2, 3), keepdim=True))
    return F.hardswish(z * x) / (y + 2)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_numbers_stay(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found, x = optimized(Calls(forward), torch.zeros(1, 12, 5, 6)), torch.randn(batch, 12, 5, 6)
    (few,) = found.report.programs
    assert difference(found, Calls(forward), x) <= 1
    monkeypatch.setattr(whole, "fused", lambda steps, _: tuple(steps))
    apart = optimized(Calls(forward), torch.zeros(1, 12, 5, 6))
    (many,) = apart.report.programs
    assert torch.equal(apart(x), found(x))
    assert few.stages < many.stages - 4


def test_a_term_turned_wrong_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusing, "_TURNED", {"add": "add", "mul": "mul", "sub": "sub"})
    found = optimized(Calls(forward), torch.zeros(1, 12, 5, 6))
    assert difference(found, Calls(forward), torch.randn(1, 12, 5, 6)) > 1
