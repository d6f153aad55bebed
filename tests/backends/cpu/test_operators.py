"""The backend's operators in compiled programs: calls like ones seen before are not planned again."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from depthwise import functional
from depthwise.backends import calls, weights
from depthwise.backends.cpu import machine, operators, plain

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")
NODES = torch.ops.depthwise
WINDOW = ([1, 1], [1, 1, 1, 1], [1, 1])


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_recorded", {})


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = NODES.cpu_depthwise_conv(x, weight, bias, *WINDOW)
    return out


def _torchs(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.conv2d(x, weight, bias, padding=1, groups=len(weight))


class Separable:
    """A separable convolution with everything that it can have."""

    def __init__(self, *, norms: bool) -> None:
        self.weights = [torch.randn(8, 1, 3, 3), torch.randn(6, 8, 1, 1)]
        self.biases, self.residual = [torch.randn(8), None], torch.randn(2, 6, 5, 5)
        self.norm = [torch.randn(6), torch.rand(6) + 0.5, torch.randn(6), torch.randn(6)]
        self.rest = (None, 0.0, self.norm, 1e-5) if norms else ()

    def __call__(self, x: Tensor, slope: float = 0.1) -> Tensor:
        values = (1, "leaky_relu", slope, "silu", 0.0)
        tensors = (*self.weights, *self.biases, self.residual)
        out: Tensor = NODES.cpu_separable_conv(x, *tensors, *WINDOW, *values, *self.rest)
        return out


def not_asked(*_: object, **__: object) -> Any:
    raise AssertionError("the long way")


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_depthwise_call_like_another_is_not_planned(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(2, 8, 5, 5), torch.randn(8, 1, 3, 3)
    call = partial(_depthwise, x, weight, torch.randn(8) if bias else None)
    expected = call()
    monkeypatch.setattr(operators, "problem_of", not_asked)
    assert torch.equal(call(), expected)


@pytest.mark.parametrize("norms", [True, False])
@torch.no_grad()
def test_a_separable_call_like_another_is_not_planned(norms: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, block = torch.randn(2, 8, 5, 5), Separable(norms=norms)
    expected = block(x)
    with monkeypatch.context() as patch:
        patch.setattr(operators, "problem_of", not_asked)
        assert torch.equal(block(x), expected)
    assert not torch.equal(block(x, slope=0.3), expected)
    for tensor in (*block.weights, block.biases[0], *(block.norm if norms else ())):
        assert tensor is not None
        before = block(x)
        tensor.add_(1.0)
        assert not torch.equal(found := block(x), before)
        # Of tensors that nobody has seen.
        assert torch.equal(found, deepcopy(block)(x))


@torch.no_grad()
def test_weights_in_training_are_packed_by_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = torch.randn(2, 8, 5, 5), torch.randn(8, 1, 3, 3, requires_grad=True), torch.randn(8)
    call = partial(_depthwise, x, weight, bias)
    call()
    with monkeypatch.context() as patch:
        patch.setattr(operators, "problem_of", not_asked)
        for tensor in (weight, bias, weight):
            tensor.mul_(-2.0)
            torch.testing.assert_close(call(), _torchs(x, weight, bias), atol=1e-4, rtol=1e-4)
        # Those that stay are worth a pack.
        with pytest.raises(AssertionError, match="the long way"):
            call()
    call()
    monkeypatch.setattr(plain._Afresh, "run", not_asked)
    torch.testing.assert_close(call(), _torchs(x, weight, bias), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_weights_in_training_may_lose_their_memory() -> None:
    x, weight = torch.randn(2, 8, 5, 5), torch.randn(8, 1, 3, 3, requires_grad=True)
    _depthwise(x, weight, None)
    weight.mul_(2.0)
    weight.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="has no memory behind it"):
        _depthwise(x, weight, None)


@torch.no_grad()
def test_a_bias_of_inference_mode_has_no_version() -> None:
    x, weight = torch.randn(2, 8, 5, 5), torch.randn(8, 1, 3, 3, requires_grad=True)
    with torch.inference_mode():
        bias = torch.randn(8)
    for _ in range(3):
        torch.testing.assert_close(_depthwise(x, weight, bias), _torchs(x, weight, bias), atol=1e-4, rtol=1e-4)
        weight.mul_(-2.0)


def test_a_compiled_step_of_training_sees_every_change(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    layer = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)

    def loss(x: Tensor) -> Tensor:
        return functional.depthwise_conv2d(x, layer.weight, layer.bias, padding=1).square().mean()

    compiled: Any = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for step in range(4):
        x = torch.randn(2, 8, 5, 5)
        if step == 2:
            monkeypatch.setattr(operators, "problem_of", not_asked)
        found, expected = compiled(x), _torchs(x, layer.weight, layer.bias).square().mean()
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
    assert not any(id(layer.weight) in identities for identities in weights.sets)
