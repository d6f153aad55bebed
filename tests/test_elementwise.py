"""Activations alone: torch's numbers, forward and backward, and which are torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from depthwise import backend
from depthwise.activations import ACTIVATIONS
from depthwise.backends.cpu import activations, machine
from depthwise.backends.eager import activate
from depthwise.backends.problem import Activation
from depthwise.elementwise import activation
from tests.layers.test_turns import image, nodes

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")
SLOPES = {"leaky_relu": 0.25, "elu": 1.0}
ALL: list[Activation] = [(name, SLOPES.get(name, 0.0)) for name in ACTIVATIONS]
GELU: Activation = ("gelu", 0.0)


def ours(x: Tensor, known: Activation = GELU) -> Tensor:
    out = activation(x, known)
    assert out is not None
    assert "_Activation" in nodes(out)
    return out


@pytest.mark.parametrize("known", ALL, ids=str)
def test_results_and_gradients_are_near_float64(known: Activation) -> None:
    torch.manual_seed(0)
    for x in (torch.randn(3, 7, 5) * 4, image(2, 3, 5, 4), torch.randn(1)):
        dy, mine, other = torch.randn_like(x), x.clone().requires_grad_(), x.double().requires_grad_()
        out, exact = ours(mine, known), activate(other, known)
        assert out.stride() == x.stride()
        torch.testing.assert_close(out.double(), exact, atol=2e-6, rtol=2e-6)
        (found,), (best,) = torch.autograd.grad(out, mine, dy), torch.autograd.grad(exact, other, dy.double())
        torch.testing.assert_close(found.double(), best, atol=4e-6, rtol=4e-6)


def test_gradients_that_lie_otherwise() -> None:
    x = torch.randn(2, 8, 5, 5).requires_grad_()
    for dy in (image(2, 8, 5, 5), torch.ones(1).expand(2, 8, 5, 5), torch._neg_view(torch.randn(2, 8, 5, 5))):
        found, expected = (torch.autograd.grad(run(x, GELU), x, dy)[0] for run in (ours, activate))
        torch.testing.assert_close(found, expected)


def test_gradients_of_gradients() -> None:
    x = torch.randn(2, 3).requires_grad_()
    results = []
    for run in (ours, activate):
        (dx,) = torch.autograd.grad(run(x, GELU).square().sum(), x, create_graph=True)
        results.append((dx, *torch.autograd.grad(dx.square().sum(), x)))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    "hook", [Tensor.double, Tensor.clone, torch._neg_view, Tensor.t], ids=["double", "clone", "neg", "turned"]
)
def test_tensors_that_hooks_give_back(hook: Any) -> None:
    x = torch.randn(4, 4).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, lambda kept: hook(kept.detach())):
        out = ours(x)
    found = torch.autograd.grad(out.sum(), x)[0]
    given = hook(x.detach()).clone().requires_grad_()
    torch.testing.assert_close(found.float(), torch.autograd.grad(activate(given, GELU).sum(), given)[0].float())


@pytest.mark.parametrize(
    "x",
    [
        "no tensor",
        torch.ones(2, dtype=torch.float64),
        torch.ones(0),
        torch.ones(4, 4).t()[:3],
        torch._neg_view(torch.ones(3)),
        torch.ones(2, device="meta"),
    ],
    ids=["object", "float64", "none", "strided", "negated", "meta"],
)
def test_what_is_torchs(x: Any) -> None:
    assert activation(x, GELU) is None


def test_where_something_listens_or_there_is_no_code_it_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(3, 11)
    with backend("eager"):
        assert activation(x, GELU) is None
    with torch.autocast("cpu"):
        assert activation(x, GELU) is None
    monkeypatch.setattr(activations, "compiles", lambda _: False)
    assert activation(torch.ones(3, 17), GELU) is None
