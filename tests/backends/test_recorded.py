"""Calls that autograd records, seen before: the short way gives what the long one gives, or leaves the call to it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import depthwise
from depthwise import DepthwiseError, norms, operators
from depthwise.backends import calls, observed_choices
from depthwise.backends.base import Norm
from depthwise.backends.cpu import autograd, machine
from depthwise.functional import depthwise_conv, pointwise_conv, separable_conv
from depthwise.layers.turns import in_turn

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")
LAST = torch.channels_last
WINDOW = (1, 1, 1)


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_recorded", {})
    monkeypatch.setattr(norms, "_seen", calls.Seen())


def image(*size: int) -> Tensor:
    return torch.randn(*(size or (2, 8, 5, 5))).contiguous(memory_format=LAST)


class Model:
    """Both convolutions and a batch norm with its activation, and their parameters."""

    def __init__(self, *, bias: bool = True) -> None:
        torch.manual_seed(0)
        sizes = [(8, 1, 3, 3), (12, 8, 1, 1), *([(8,), (12,)] if bias else [])]
        self.depthwise, self.pointwise, *biases = (torch.randn(size, requires_grad=True) for size in sizes)
        self.biases: list[Any] = biases or [None, None]
        self.norm = nn.BatchNorm2d(12)
        self.parameters = [self.depthwise, self.pointwise, *biases, *self.norm.parameters()]

    def __call__(self, x: Tensor) -> Tensor:
        y = depthwise_conv(2, x, self.depthwise, self.biases[0], *WINDOW)
        y = pointwise_conv(2, y, self.pointwise, self.biases[1])
        return in_turn([self.norm, nn.SiLU()], y)

    def numbers(self, x: Tensor) -> list[Tensor]:
        """The result, its gradients and the norm's statistics after one call."""
        for buffer in self.norm.buffers():
            buffer.zero_()
        out = self(x)
        wanted = [tensor for tensor in (x, *self.parameters) if tensor.requires_grad]
        torch.manual_seed(1)
        found = torch.autograd.grad(out, wanted, torch.randn(out.shape).contiguous(memory_format=LAST))
        return [out.detach(), *found, *(buffer.clone() for buffer in self.norm.buffers())]

    def check(self, x: Tensor, around: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        with around():
            mine = self.numbers(x)
        with depthwise.backend("eager"), around():
            theirs = self.numbers(x)
        torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("of_input", [True, False])
def test_a_call_like_another_goes_the_short_way(of_input: bool, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(bias=bias)
    for _ in range(2):
        model.check(image().requires_grad_(of_input))

    with monkeypatch.context() as patch:
        patch.setattr(operators, "convolution", not_asked)
        patch.setattr(norms, "refusal", not_asked)
        patch.setattr(autograd, "_torch_gradients", not_asked)
        mine = model.numbers(x := image().requires_grad_(of_input))
    with depthwise.backend("eager"):
        torch.testing.assert_close(mine, model.numbers(x), atol=2e-4, rtol=2e-4)


class Seeing(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def frozen(model: Model) -> None:
    model.depthwise.requires_grad_(False)
    model.norm.weight.requires_grad_(False)


def strided(model: Model) -> None:
    for tensor in model.parameters:
        wide = torch.stack([tensor.detach(), torch.zeros_like(tensor)], -1)
        tensor.data = wide[..., 0]


CHANGES: dict[str, Callable[[Model], object]] = {
    "new numbers": lambda model: [tensor.data.mul_(2.0) for tensor in model.parameters],
    "frozen": frozen,
    "strided": strided,
    "statistics with strides": lambda model: setattr(model.norm, "running_var", torch.zeros(24)[::2]),
    "another momentum": lambda model: setattr(model.norm, "momentum", 0.7),
    "another slope of eps": lambda model: setattr(model.norm, "eps", 1e-2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_between_two_calls_is_seen(change: str) -> None:
    model = Model()
    for _ in range(2):
        model.check(image().requires_grad_())
    CHANGES[change](model)
    model.check(image().requires_grad_())
    model.check(image().requires_grad_())


INPUTS: dict[str, Callable[[], Tensor]] = {
    "planes": lambda: torch.randn(2, 8, 5, 5),
    "another size": lambda: image(3, 8, 7, 4),
    "a slice": lambda: image(4, 8, 5, 5)[::2],
    "negated": lambda: image()._neg_view(),
    "a parameter": lambda: nn.Parameter(image()),
    "needs no gradient": image,
}


@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_of_other_kinds_are_seen(kind: str) -> None:
    model = Model()
    for _ in range(2):
        model.check(image().requires_grad_())
    x = INPUTS[kind]()
    model.check(x if kind == "needs no gradient" else x.detach().requires_grad_())


AROUND: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "a mode": Seeing,
    "saved tensors": lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t, torch.Tensor.contiguous),
    "no cpu": lambda: depthwise.backend("eager"),
}


@pytest.mark.parametrize("kind", AROUND)
def test_what_is_around_a_call_is_seen(kind: str) -> None:
    model = Model()
    for _ in range(2):
        model.check(image().requires_grad_())
    model.check(image().requires_grad_(), AROUND[kind])


def test_observers_hear_of_calls_seen_before() -> None:
    model, seen = Model(), []
    for _ in range(2):
        model(image())
    with observed_choices(lambda choice: seen.append(choice.problem.operation)):
        model(image())
    assert seen == ["depthwise", "pointwise"]


def test_other_numbers_of_threads_are_other_calls() -> None:
    model, threads = Model(), torch.get_num_threads()
    try:
        for count in (1, 2, 1, 2):
            torch.set_num_threads(count)
            model.check(image().requires_grad_())
    finally:
        torch.set_num_threads(threads)


def test_a_weight_without_memory_is_an_error() -> None:
    model = Model()
    for _ in range(2):
        model(image())
    model.pointwise.untyped_storage().resize_(0)
    with pytest.raises(DepthwiseError, match="weight has no memory behind it"):
        model(image())


def test_a_bias_without_memory_is_an_error() -> None:
    model = Model()
    for _ in range(2):
        model(image())
    model.biases[1].untyped_storage().resize_(0)
    with pytest.raises(DepthwiseError, match="bias has no memory behind it"):
        model(image())


@pytest.mark.parametrize("part", ["convolution", "norm"])
def test_what_was_saved_and_lost_its_memory_is_an_error(part: str) -> None:
    model, x = Model(), image().requires_grad_()
    if part == "norm":
        x = image(2, 12, 5, 5).requires_grad_()

    def call() -> Tensor:
        return (
            in_turn([model.norm, nn.SiLU()], x)
            if part == "norm"
            else depthwise_conv(2, x, model.depthwise, None, *WINDOW)
        )

    for _ in range(2):
        torch.autograd.grad(call(), x, torch.ones_like(call()))
    out = call()
    dy = torch.ones_like(out)
    x.untyped_storage().resize_(0)
    with pytest.raises(DepthwiseError, match="has no memory behind it"):
        torch.autograd.grad(out, x, dy)


def test_without_gradients_nothing_is_recorded() -> None:
    model = Model()
    for _ in range(2):
        model(image())
    with torch.no_grad():
        assert model(image()).grad_fn is None
    assert model(image()).grad_fn is not None


def test_second_derivatives_of_a_call_seen_before() -> None:
    found = []
    for backend in ("cpu", "eager"):
        model = Model()
        with depthwise.backend(backend if backend == "eager" else None):
            for _ in range(3):
                torch.manual_seed(2)
                x = image().requires_grad_()
                (first,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
                second = torch.autograd.grad(first.square().sum(), (x, model.depthwise))
        found.append(second)
    torch.testing.assert_close(*found, atol=1e-2, rtol=1e-3)


class Separable:
    """A separable convolution in one call, its norms in eval mode."""

    def __init__(self, *, norms: bool) -> None:
        torch.manual_seed(0)
        sizes = [(8, 1, 3, 3), (12, 8, 1, 1), (8,), (12,)]
        self.parameters = [torch.randn(size, requires_grad=True) for size in sizes]
        self.norms = [norm_of(8), norm_of(12)] if norms else []
        self.activations: tuple[Any, Any] = (("leaky_relu", 0.1), "silu")

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        first, last, *biases = self.parameters
        weights, rest = (first, biases[0], last, biases[1]), (self.activations, residual, tuple(self.norms))
        return separable_conv(2, x, weights, (*WINDOW, 1), *rest)

    def check(self, x: Tensor, residual: Tensor | None = None) -> None:
        tensors = [
            x,
            *self.parameters,
            *(norm.weight for norm in self.norms),
            *([] if residual is None else [residual]),
        ]
        wanted = [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]
        found = []
        for backend in (None, "eager"):
            with depthwise.backend(backend):
                out = self(x, residual)
                found.append([out, *torch.autograd.grad(out.square().sum(), wanted)])
        torch.testing.assert_close(*found, atol=1e-2, rtol=1e-3)


def norm_of(channels: int) -> Norm:
    mean, var, bias = torch.randn(channels), torch.rand(channels) + 0.5, torch.randn(channels)
    return Norm(mean, var, torch.randn(channels, requires_grad=True), bias, 1e-5)


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
def test_a_separable_call_goes_the_short_way(
    layout: torch.memory_format, norms: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = Separable(norms=norms)
    x = torch.randn(2, 8, 5, 5).contiguous(memory_format=layout)
    block(x)
    expected = block(x)
    with monkeypatch.context() as patch:
        patch.setattr(operators, "convolution", not_asked)
        patch.setattr(autograd, "problem_of", not_asked)
        assert torch.equal(block(x), expected)
    block.check(x.requires_grad_())
    block.check(x, torch.randn(2, 12, 5, 5))
    block.parameters[1].data.mul_(2.0)
    block.check(x)
    block.activations = (None, "relu")
    block.check(x)
    block.parameters[0].requires_grad_(False)
    block.check(x)


def test_a_separable_call_whose_weight_lost_its_memory_is_an_error() -> None:
    block = Separable(norms=False)
    for _ in range(2):
        block(image())
    block.parameters[1].untyped_storage().resize_(0)
    with pytest.raises(DepthwiseError, match="pointwise_weight has no memory behind it"):
        block(image())


def not_asked(*_: object, **__: object) -> Any:
    raise AssertionError("the long way")
