"""Squeeze-excite on kernels of ours: exact gradients, the same bits on any team, and what autograd may ask of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from depthwise.backends.cpu import gates
from depthwise.backends.cpu.emit import gate_gradient, gated_sums
from depthwise.backends.cpu.emit import gated as gated_kernels
from depthwise.backends.cpu.emit.ir import greatest
from depthwise.backends.cpu.lower.gates import GateProblem, gradient_program
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.run.bound import Bound
from depthwise.gates import squeeze_excite
from tests.backends.cpu.test_mutants import Mutant, planted
from tests.backends.cpu.test_mutants import _code_of_its_own as _code_of_its_own
from tests.layers.test_turns import image, nodes
from tests.support.gates import check_gate_gradients, check_gated_convolution
from tests.support.kernels import HERE, Roomy

pytestmark = pytest.mark.skipif(not HERE, reason="no generator serves this machine")
on_each_machine = pytest.mark.parametrize("target", HERE, ids=lambda target: target.isa)
LAST = torch.channels_last


@on_each_machine
def test_integers_are_exact(target: Machine) -> None:
    check_gate_gradients(target)


@on_each_machine
def test_a_team_shares_the_images(target: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depthwise.backends.cpu.plan.elementwise.FEWEST_SHARED", 0)
    for team in (2, 3, 4):
        check_gate_gradients(target, channels=(17,), pixels=(65,), team=team)


def test_any_number_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depthwise.backends.cpu.plan.elementwise.FEWEST_SHARED", 0)
    problem = GateProblem(5, 200, 33)
    x, dy = torch.randn(2, 5, 200, 33)
    factors, dx = torch.randn(5, 33), torch.empty_like(x)
    found = []
    for team in (1, 2, 3):
        sums = torch.empty_like(factors)
        tensors = {"x": x, "dy": dy, "factors": factors, "dx": dx, "factors_gradient": sums}
        Bound(gradient_program(problem, HERE[-1], team), 1.0).run({name: t.data_ptr() for name, t in tensors.items()})
        found.append(sums)
    assert all(torch.equal(found[0], each) for each in found)
    exact = (dy.double() * x.double()).sum(1)
    # Of sums of 200 products, each of which is rounded once.
    assert float((found[0] - exact).abs().max()) < 1e-5 * float((dy * x).abs().sum(1).max())


@on_each_machine
@pytest.mark.parametrize("l2_bytes", [4, 2**21], ids=["beyond L2", "in L2"])
def test_gated_convolutions_are_exact(target: Machine, l2_bytes: int) -> None:
    for team in (1, 2, 3):
        check_gated_convolution(replace(target, l2_bytes=l2_bytes), team=team)


@on_each_machine
def test_gated_convolutions_of_many_pieces_are_exact(target: Machine) -> None:
    check_gated_convolution(target, widths=((17, 33),), size=(20, 21))


MUTANTS: dict[str, tuple[Any, str, Mutant]] = {
    "a pixel too few at once": (gate_gradient, "least", lambda right: lambda a, b: right(a, b) - 1),
    "half of the sums": (gate_gradient, "pairwise", lambda right: lambda vectors: right(vectors[:1])),
    "the first channels alone": (
        gate_gradient,
        "each_vectors",
        lambda right: lambda e, channels, lanes, write: right(e, max(1, channels // 2), lanes, write),
    ),
    "one vector of several": (
        gate_gradient,
        "each_vectors",
        lambda right: (
            lambda e, channels, lanes, write: right(e, channels, lanes, lambda c, lanes, vectors: write(c, lanes, 1))
        ),
    ),
    "the sums of the first image for all": (
        gated_sums.GatedSumsKernel,
        "_of",
        lambda right: lambda self, sums, image, tile: right(self, sums, image * 0, tile),
    ),
    "rows that two tiles have counted twice": (gated_sums, "select", lambda _: lambda condition, yes, no: yes),
    "half of the rows": (gated_sums, "pairwise", lambda right: lambda vectors: right(vectors[:1])),
    "a tile's first row one too early": (
        gated_sums.GatedSumsKernel,
        "_first_row",
        lambda right: lambda self, tile: greatest(right(self, tile) - 1, 0),
    ),
    "factors of the first image for all": (
        gated_kernels.ScaledKernel,
        "own",
        lambda right: lambda self, e, band, image, thread: right(self, e, band, image * 0, thread),
    ),
    "nothing added to the product": (gated_kernels, "Affine", lambda right: lambda scale, _: right(scale, scale)),
}


def check() -> None:
    check_gate_gradients(HERE[-1], Roomy(), channels=(71,), pixels=(65,))
    check_gated_convolution(HERE[-1], Roomy(), widths=((17, 33),))


def test_without_a_mutant_the_check_passes() -> None:
    check()


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, *MUTANTS[name])
    with pytest.raises(AssertionError, match="elements differ"):
        check()


def halved(means: Tensor) -> Tensor:
    return (means * 0.5 + 0.25).tanh()


def by_torch(x: Tensor, factors_of: Callable[[Tensor], Tensor] = halved) -> Tensor:
    return x * factors_of(x.mean((2, 3), keepdim=True))


def gated(x: Tensor, factors_of: Callable[[Tensor], Tensor] = halved) -> Tensor:
    out = squeeze_excite(x, factors_of)
    assert out is not None
    return out


@pytest.mark.parametrize("size", [(2, 3, 1, 2), (3, 17, 5, 4), (1, 40, 9, 9)], ids=str)
def test_results_and_gradients_are_torchs(size: tuple[int, ...]) -> None:
    x = image(*size)
    dy, mine, other = image(*size), x.clone().requires_grad_(), x.double().requires_grad_()
    out, expected = gated(mine), by_torch(other)
    assert "_Excited" in nodes(out)
    assert out.is_contiguous(memory_format=LAST)
    torch.testing.assert_close(out.double(), expected, atol=1e-6, rtol=1e-5)
    (found,), (exact,) = torch.autograd.grad(out, mine, dy), torch.autograd.grad(expected, other, dy.double())
    torch.testing.assert_close(found.double(), exact, atol=2e-6, rtol=1e-5)


def test_gradients_that_lie_otherwise_or_are_expanded() -> None:
    x = image(2, 8, 5, 5).requires_grad_()
    expected = torch.autograd.grad(by_torch(x).sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(gated(x).sum(), x)[0], expected)
    dy = torch.randn(2, 8, 5, 5)
    assert not dy.is_contiguous(memory_format=LAST)
    for each in (dy, torch._neg_view(dy)):
        found = torch.autograd.grad(gated(x), x, each)[0]
        torch.testing.assert_close(found, torch.autograd.grad(by_torch(x), x, each)[0])


def test_gradients_twice_and_of_what_else_reads_the_image() -> None:
    x = image(2, 8, 5, 5).requires_grad_()
    dy = image(2, 8, 5, 5)
    out = gated(x) + x.square()
    found = [torch.autograd.grad(out, x, dy, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*found)
    torch.testing.assert_close(found[0], torch.autograd.grad(by_torch(x) + x.square(), x, dy)[0])
    # The caller's gradient is the caller's.
    before = dy.clone()
    gated(x).backward(dy)
    assert torch.equal(dy, before)


def test_gradients_of_gradients() -> None:
    x = image(1, 3, 2, 2).requires_grad_()
    results = []
    for run in (gated, by_torch):
        (dx,) = torch.autograd.grad(run(x).square().sum(), x, create_graph=True)
        results.append((dx, *torch.autograd.grad(dx.square().sum(), x)))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_factors_alone_or_means_alone_have_a_gradient() -> None:
    x, weight = image(2, 8, 5, 5), torch.ones(8, 1, 1, requires_grad=True)
    found = [torch.autograd.grad(run(x, lambda means: means * weight).sum(), weight)[0] for run in (gated, by_torch)]
    torch.testing.assert_close(*found)
    # What is made of the means goes nowhere, or leads no way back.
    x.requires_grad_()
    found = [torch.autograd.grad(run(x, Tensor.detach).sum(), x)[0] for run in (gated, by_torch)]
    torch.testing.assert_close(*found)
    seen: list[Tensor] = []
    gated(x, lambda means: seen.append(means) or means)  # type: ignore[func-returns-value]
    torch.testing.assert_close(torch.autograd.grad(seen[0].sum(), x)[0], torch.full_like(x, 1 / 25))


def test_factors_of_other_kinds_are_torchs() -> None:
    x = image(2, 8, 5, 5).requires_grad_()
    others: list[Callable[[Tensor], Tensor]] = [
        lambda means: means.double(),
        lambda means: means[:, :1],
        torch._neg_view,
        lambda means: torch.stack((means, means), -1)[..., 0],
    ]
    for factors_of in others:
        results = [run(x, factors_of) for run in (gated, by_torch)]
        torch.testing.assert_close(*results)
        torch.testing.assert_close(*(torch.autograd.grad(each.sum(), x)[0] for each in results))


@pytest.mark.parametrize(
    "hook",
    [Tensor.double, Tensor.clone, torch._neg_view, lambda x: x.contiguous()],
    ids=["double", "clone", "neg", "planes"],
)
def test_tensors_that_hooks_give_back(hook: Any) -> None:
    x = image(2, 8, 5, 5).requires_grad_()
    sign = -1.0 if hook is torch._neg_view else 1.0
    with torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, lambda kept: sign * hook(kept.detach())):
        out = gated(x)
        dx = torch.autograd.grad(out.sum(), x)[0]
    torch.testing.assert_close(dx.float(), torch.autograd.grad(by_torch(x).sum(), x)[0])


def test_there_is_none_where_there_is_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "compiles", lambda _: False)
    assert squeeze_excite(image(2, 11, 5, 5), halved) is None
