"""What is asked of pixels beside convolutions: values, tails, teams, and results over what they are made of."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.plan.rearrange import merged
from depthwise.backends.eager import activate
from depthwise.backends.pixels import (
    Copy,
    Elementwise,
    LayerNorm,
    Mean,
    Nearest,
    Softmax,
    Term,
)
from tests.support.cases import small_integers
from tests.support.kernels import HERE, assert_same
from tests.support.pixels import CHANNELS, TEAMS, check_bilinear, check_group_norm, check_rearranged, check_totals
from tests.support.series import run_problem

on_each_machine = pytest.mark.parametrize("target", HERE, ids=lambda target: target.isa)


@pytest.fixture(autouse=True)
def _every_size_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depthwise.backends.cpu.plan.elementwise.FEWEST_SHARED", 0)


def by_torch(x: Tensor, terms: tuple[Term, ...], operands: list[Tensor]) -> Tensor:
    """x: (images, pixels, channels)"""
    rest = iter(operands)
    for term in terms:
        if term.operation == "activation":
            x = activate(x, term.activation)
            continue
        other: Any = next(rest) if term.reads else term.value
        if term.operation == "derivative":
            given = other.clone().requires_grad_()
            (x,) = torch.autograd.grad(activate(given, term.activation), given, x)
            continue
        if term.operand == "image":
            other = other[:, None]
        if term.operand == "pixel":
            other = other[..., None]
        x = {
            "add": lambda a, b: a + b,
            "sub": lambda a, b: a - b,
            "from": lambda a, b: b - a,
            "mul": lambda a, b: a * b,
            "div": lambda a, b: a / b,
        }[term.operation](x, other)
    return x


def operands_of(terms: tuple[Term, ...], images: int, pixels: int, channels: int) -> list[Tensor]:
    sizes = {"each": (images, pixels, channels), "image": (images, channels), "pixel": (images, pixels)}
    sizes["channel"] = (channels,)
    draw = small_integers(1)
    return [draw(sizes[term.operand]) for term in terms if term.operand in sizes]


TERMS = [
    (Term("add", "each"), Term("activation", activation=("relu", 0.0))),
    (Term("mul", "image"),),
    (Term("derivative", "each", activation=("relu6", 0.0)),),
    (Term("derivative", "each", activation=("leaky_relu", 0.25)), Term("add", "each")),
    (Term("mul", "channel"), Term("add", "channel"), Term("sub", "each"), Term("from", "image")),
    (Term("from", "number", 2.0), Term("mul", "number", -0.5), Term("activation", activation=("leaky_relu", 0.25))),
    (Term("sub", "number", 3.0), Term("div", "number", 4.0)),
    (Term("mul", "pixel"), Term("add", "channel"), Term("from", "pixel")),
]


@on_each_machine
@pytest.mark.parametrize("terms", TERMS, ids=lambda terms: " ".join(term.operation for term in terms))
def test_what_is_done_to_each_number(terms: tuple[Term, ...], target: Machine) -> None:
    for channels, pixels, team in zip(CHANNELS * 2, (1, 2, 3, 7, 50) * 6, TEAMS * 10, strict=False):
        images = 1 + channels % 3
        x = small_integers(0)((images, pixels, channels))
        operands = operands_of(terms, images, pixels, channels)
        tensors = {"x": x, **{f"operand_{i}": operand for i, operand in enumerate(operands)}}
        problem, expected = Elementwise(images, pixels, channels, terms), by_torch(x, terms, operands)
        what = f"{images} x {pixels} x {channels}, {team} threads"
        assert_same(run_problem(problem, tensors, tuple(x.shape), target, team), expected, what)
        assert_same(run_problem(problem, tensors, tuple(x.shape), target, team, in_place="x"), expected, what)
        if terms[0].operand == "each":
            again = run_problem(problem, tensors, tuple(x.shape), target, team, in_place="operand_0")
            assert_same(again, expected, what)


@on_each_machine
@pytest.mark.parametrize(("images", "pixels"), [(1, 1), (2, 3), (1, 64), (3, 65), (1, 131), (2, 784)])
def test_means(images: int, pixels: int, target: Machine) -> None:
    for channels, team in product(CHANNELS, TEAMS):
        # Sums of so few small numbers are exact; so is a product with a power of two.
        x = small_integers(0)((images, pixels, channels))
        out = run_problem(Mean(images, pixels, channels), {"x": x}, (images, channels), target, team)
        assert_same(out, x.sum(1) / pixels, f"{images} x {pixels} x {channels}, {team} threads")


@on_each_machine
def test_sums_and_roots_of_sums_of_squares(target: Machine) -> None:
    check_totals(target)


@on_each_machine
def test_numbers_at_other_places(target: Machine) -> None:
    check_rearranged(target)


def test_axes_that_are_one_in_both_places() -> None:
    assert merged((2, 3, 4), ((12, 12), (4, 4), (1, 1))) == ((24,), ((1, 1),))
    assert merged((2, 3, 1, 4), ((12, 24), (4, 8), (5, 5), (1, 1))) == ((6, 4), ((4, 8), (1, 1)))
    assert merged((2, 3), ((1, 3), (2, 1))) == ((2, 3), ((1, 3), (2, 1)))
    assert merged((1, 1), ((1, 1), (1, 1))) == ((), ())


@on_each_machine
def test_a_mean_of_many_rounds_little(target: Machine) -> None:
    x = torch.rand(1, 112 * 112, 40, generator=torch.Generator().manual_seed(0))
    out = run_problem(Mean(1, 112 * 112, 40), {"x": x}, (1, 40), target)
    assert ((out - x.double().mean(1)).abs() / x.double().mean(1)).max() < 16 * torch.finfo().eps


@on_each_machine
def test_copies_of_pieces(target: Machine) -> None:
    for channels, rows, team in zip(CHANNELS, (1, 2, 5, 9) * 4, TEAMS * 5, strict=False):
        x = small_integers(0)((rows, channels + 5))
        problem = Copy(rows, channels, (3, 2), (channels + 5, channels + 4))
        out = run_problem(problem, {"x": x}, (rows, channels + 4), target, team)
        assert_same(out[:, 2:-2], x[:, 3:-2], f"{rows} x {channels}, {team} threads")
        # What lies between is not touched.
        assert out[:, :2].isnan().all()
        assert out[:, -2:].isnan().all()


@on_each_machine
def test_the_check_can_fail(target: Machine) -> None:
    terms = (Term("add", "each"),)
    x, other = small_integers(0)((2, 3, 9)), small_integers(1)((2, 3, 9))
    out = run_problem(Elementwise(2, 3, 9, terms), {"x": x, "operand_0": other}, (2, 3, 9), target)
    with pytest.raises(AssertionError, match="elements differ"):
        assert_same(out, by_torch(x, (Term("sub", "each"),), [other]), "planted")


@on_each_machine
def test_pixels_that_are_repeated(target: Machine) -> None:
    for channels, columns, team in zip(CHANNELS, (1, 2, 5, 9) * 4, TEAMS * 5, strict=False):
        down, across = 1 + channels % 3, 1 + columns % 4
        x = small_integers(0)((2, 3, columns, channels))
        expected = x.repeat_interleave(down, 1).repeat_interleave(across, 2)
        problem = Nearest(6, columns, channels, down, across)
        out = run_problem(problem, {"x": x}, tuple(expected.shape), target, team)
        assert_same(out, expected, f"{columns} x {channels}, {down} x {across}, {team} threads")


@on_each_machine
def test_images_of_another_size(target: Machine) -> None:
    check_bilinear(target)


@on_each_machine
def test_norms_of_groups(target: Machine) -> None:
    check_group_norm(target)


@on_each_machine
def test_norms_of_rows(target: Machine) -> None:
    for channels, rows, team in zip(CHANNELS[1:], (1, 2, 5, 9) * 4, TEAMS * 5, strict=False):
        draw = torch.Generator().manual_seed(channels)
        x = torch.randn(rows, channels, generator=draw) + 3
        scale, shift = (torch.randn(channels, generator=draw) for _ in range(2))
        exact = F.layer_norm(x.double(), (channels,), scale.double(), shift.double(), 1e-3)
        tensors, problem = {"x": x, "scale": scale, "shift": shift}, LayerNorm(rows, channels, 1e-3, affine=True)
        allowed = 2e-6 * (1 + exact.abs() + scale.abs().double())
        for place in ("", "x"):
            out = run_problem(problem, tensors, (rows, channels), target, team, in_place=place)
            assert bool(((out - exact).abs() <= allowed).all()), (channels, rows, team)
        plain = run_problem(LayerNorm(rows, channels, 1e-3, affine=False), {"x": x}, (rows, channels), target, team)
        assert bool(((plain - F.layer_norm(x.double(), (channels,), eps=1e-3)).abs() <= 4e-6).all())


@on_each_machine
def test_softmax_of_rows(target: Machine) -> None:
    for channels, rows, team in zip(CHANNELS, (1, 2, 5, 9) * 4, TEAMS * 5, strict=False):
        x = 30 * torch.randn(rows, channels, generator=torch.Generator().manual_seed(channels))
        exact = x.double().softmax(1)
        # What is left out by rounding the distance to the greatest shows in the power.
        allowed = (8 + x.amax(1, keepdim=True) - x) * torch.finfo().eps * exact + 1e-37
        for place in ("", "x"):
            out = run_problem(Softmax(rows, channels), {"x": x}, (rows, channels), target, team, in_place=place)
            assert bool(((out - exact).abs() <= allowed).all()), (channels, rows, team)
    x = torch.tensor([[0.0, torch.inf, 1.0], [torch.nan, 1.0, 2.0], [-torch.inf, 0.0, 0.0], [-torch.inf] * 3])
    out = run_problem(Softmax(4, 3), {"x": x}, (4, 3), target)
    assert torch.allclose(out, x.softmax(1), equal_nan=True)
