"""Calls seen before: which are, what is kept of them, and whether each gives what it gave when it was looked at."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import depthwise
from depthwise import DepthwiseError, SeparableConv2d, functional, operators
from depthwise.backends import calls, weights
from depthwise.backends.cpu import machine

X = torch.randint(-3, 4, (1, 8, 6, 6)).float()

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    depthwise.repack_()
    yield
    depthwise.repack_()


def layer() -> SeparableConv2d:
    return SeparableConv2d(8, 16, 3, padding=1, depthwise_norm=nn.BatchNorm2d, pointwise_norm=nn.BatchNorm2d).eval()


def settings() -> list[calls.Settings]:
    """All that are kept, each once."""
    kept = (settings for own in weights.sets.values() for settings in own.calls.values())
    return [*{id(settings): settings for settings in kept}.values()]


Call = Callable[[Tensor], Tensor]


def as_parameter(call: Call) -> object:
    return call(nn.Parameter(X, requires_grad=False))


def negated(call: Call) -> object:
    return call(X._neg_view())


def with_a_gradient(call: Call) -> object:
    return call(X.clone().requires_grad_())


def as_double(call: Call) -> object:
    with pytest.raises(DepthwiseError, match="dtype"):
        call(X.double())
    return X


def under_a_dispatch_mode(call: Call) -> object:
    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    with Mode():  # type: ignore[no-untyped-call]
        return call(X)


def on_a_fake_tensor(call: Call) -> object:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return call(mode.from_tensor(X))


def under_vmap(call: Call) -> object:
    return torch.vmap(lambda _: call(X), out_dims=None)(torch.ones(2))


def under_a_gradient_transform(call: Call) -> object:
    return torch.func.grad(lambda x: call(x).sum())(X)


def traced(call: Call) -> object:
    with warnings.catch_warnings(action="ignore"):
        return torch.jit.trace(call, X, check_trace=False)(X)


def traced_by_fx(call: Call) -> object:
    return make_fx(call)(X)(X)


def under_autocast(call: Call) -> object:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return call(X)


OTHERWISE = [
    as_parameter,
    negated,
    with_a_gradient,
    as_double,
    under_a_dispatch_mode,
    on_a_fake_tensor,
    under_vmap,
    under_a_gradient_transform,
    traced,
    traced_by_fx,
    under_autocast,
]


class TestKept:
    """Directly at the functional form, where every tensor is a local one."""

    weight = torch.ones(8, 1, 3, 3)

    def test_a_kept_runner_is_used_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        out = functional.depthwise_conv2d(X, self.weight)

        def never(*_: object) -> None:
            raise AssertionError("looked at anew")

        monkeypatch.setattr(operators, "convolution", never)
        assert torch.equal(functional.depthwise_conv2d(X.clone(), self.weight), out)
        with pytest.raises(AssertionError, match="looked at anew"):
            functional.depthwise_conv2d(X, self.weight, padding=1)

    def test_arguments_made_anew_are_known_by_value(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def call(one: float) -> Tensor:
            return functional.depthwise_conv2d(X, self.weight, None, (one, one), ((one, 0), (0, one)))  # type: ignore[arg-type]

        out = call(1)
        looked_at = operators.convolution
        monkeypatch.setattr(operators, "convolution", None)
        assert torch.equal(call(1), out)
        monkeypatch.setattr(operators, "convolution", looked_at)
        with pytest.raises(DepthwiseError):
            call(1.0)
        with pytest.raises(DepthwiseError):
            call(True)

    def test_no_more_is_kept_where_arguments_are_made_anew(self) -> None:
        for size in range(3, 103):
            functional.depthwise_conv2d(torch.ones(1, 8, size, 3), self.weight, None, 1, (1, 1))
        (own,), (kept,) = weights.sets.values(), settings()
        assert len(own.calls) == 2
        assert len(kept.kept) == 64

    @pytest.mark.parametrize("way", OTHERWISE, ids=lambda way: way.__name__)
    def test_looked_at_anew(self, way: Callable[[Call], object], monkeypatch: pytest.MonkeyPatch) -> None:
        """The same numbers in another kind of tensor, or where something listens to operators."""
        pointwise, seen = torch.ones(8, 8, 1, 1), []

        def call(x: Tensor) -> Tensor:
            return functional.separable_conv2d(x, self.weight, pointwise)

        call(X)
        found = calls.found

        def listening(*arguments: Any) -> Any:
            seen.append(found(*arguments))
            return seen[-1]

        monkeypatch.setattr(calls, "found", listening)
        call(X)
        assert seen.pop() is not None
        way(call)
        assert seen == [None]

    def test_both_of_two_kinds_are_kept(self) -> None:
        for _ in range(2):
            functional.depthwise_conv2d(X, self.weight)
            with torch.inference_mode():
                functional.depthwise_conv2d(X, self.weight)
            functional.depthwise_conv2d(X.to(memory_format=torch.channels_last), self.weight)
        (kept,) = settings()
        assert len(kept.kept) == 3

    def test_the_latest_comes_first(self) -> None:
        small, large = torch.ones(1, 8, 5, 5), torch.ones(1, 8, 6, 6)
        functional.depthwise_conv2d(small, self.weight)
        functional.depthwise_conv2d(large, self.weight)
        (kept,) = settings()
        two, one = kept.kept
        functional.depthwise_conv2d(large, self.weight)
        assert kept.kept == (two, one)
        functional.depthwise_conv2d(small, self.weight)
        assert kept.kept == (one, two)

    def test_an_input_that_is_its_own_residual_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pointwise = torch.ones(8, 8, 1, 1)
        out = functional.separable_conv2d(X, self.weight, pointwise, padding=1, residual=X)
        monkeypatch.setattr(operators, "convolution", None)
        assert torch.equal(functional.separable_conv2d(X, self.weight, pointwise, padding=1, residual=X), out)

    def test_an_input_without_a_batch_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pointwise, residual = torch.ones(8, 8, 1, 1), torch.ones(8, 6, 6)
        expected = functional.separable_conv2d(X, self.weight, pointwise, padding=1, residual=residual[None])
        alone = functional.depthwise_conv2d(X, self.weight)
        for number in range(2):
            out = functional.separable_conv2d(X[0], self.weight, pointwise, padding=1, residual=residual)
            assert torch.equal(out, expected[0])
            assert torch.equal(functional.depthwise_conv2d(X[0], self.weight), alone[0])
            if number == 0:
                monkeypatch.setattr(operators, "convolution", None)

    def test_inputs_are_not_held(self) -> None:
        x = X.clone()
        functional.depthwise_conv2d(x, self.weight)
        held = weakref.ref(x)
        del x
        assert held() is None

    def test_a_gradient_of_the_residual_alone_counts(self) -> None:
        pointwise, residual = torch.ones(8, 8, 1, 1), torch.zeros(1, 8, 4, 4)
        functional.separable_conv2d(X, self.weight, pointwise, residual=residual)
        out = functional.separable_conv2d(X, self.weight, pointwise, residual=residual.requires_grad_())
        out.sum().backward()
        assert residual.grad is not None

    def test_a_list_is_not_kept(self) -> None:
        stride = [1, 1]
        one = functional.depthwise_conv2d(X, self.weight, stride=stride)
        stride[:] = [2, 2]
        two = functional.depthwise_conv2d(X, self.weight, stride=stride)
        assert (one.shape, two.shape) == ((1, 8, 4, 4), (1, 8, 2, 2))
        padding: Any = ([1, 0], [1, 0])
        one = functional.depthwise_conv2d(X, self.weight, padding=padding)
        padding[0][:] = [0, 0]
        assert functional.depthwise_conv2d(X, self.weight, padding=padding).shape == (1, 8, 4, 5)
        assert settings() == []

    @pytest.mark.parametrize("value", [1.0, True])
    def test_one_is_not_what_equals_it(self, value: Any) -> None:
        functional.depthwise_conv2d(X, self.weight, stride=1)
        functional.separable_conv2d(X, self.weight, torch.ones(4, 8, 1, 1), groups=1)
        with pytest.raises(DepthwiseError, match=f"stride.*{value}"):
            functional.depthwise_conv2d(X, self.weight, stride=value)
        with pytest.raises(DepthwiseError, match=f"groups.*{value}"):
            functional.separable_conv2d(X, self.weight, torch.ones(4, 8, 1, 1), groups=value)

    def test_at_most_64_inputs_for_each_setting(self) -> None:
        for size in range(3, 103):
            functional.depthwise_conv2d(torch.ones(1, 8, size, 3), self.weight)
        (own,), (kept,) = weights.sets.values(), settings()
        assert len(kept.kept) == 64
        assert len(own.packs) == 1
        assert functional.depthwise_conv2d(torch.ones(1, 8, 3, 3), self.weight).max() == 9
        assert len(kept.kept) == 64

    def test_at_most_16_settings_for_a_set_of_weights(self) -> None:
        pointwise = torch.ones(8, 8, 1, 1)
        for slope in range(1, 41):
            for _ in range(2):
                activation = ("leaky_relu", 1 / slope)
                out = functional.separable_conv2d(-X, self.weight, pointwise, pointwise_activation=activation)
        assert len(settings()) == 16
        linear = functional.separable_conv2d(-X, self.weight, pointwise)
        assert torch.equal(out, nn.functional.leaky_relu(linear, 1 / 40))

    def test_forward_gradients(self) -> None:
        functional.depthwise_conv2d(X, self.weight)
        with torch.no_grad(), forward_ad.dual_level(), warnings.catch_warnings(action="ignore"):
            out = functional.depthwise_conv2d(forward_ad.make_dual(X, torch.ones_like(X)), self.weight)
            tangent = forward_ad.unpack_dual(out).tangent
        assert tangent is not None
        assert torch.equal(tangent, torch.full((1, 8, 4, 4), 9.0))

    def test_a_layer_checks_channels_that_its_weights_would_fit(self) -> None:
        conv = depthwise.DepthwiseConv2d(8, 3).requires_grad_(False)
        conv(X)
        window = conv.stride, conv.padding, conv.dilation
        assert functional.depthwise_conv2d(X[:, :4], conv.weight, conv.bias, *window).shape[1] == 8
        with pytest.raises(DepthwiseError, match="the layer has in_channels=8; the input has 4 channels"):
            conv(X[:, :4])

    def test_another_layout_dtype_or_backend_is_another_call(self) -> None:
        out = functional.depthwise_conv2d(X, self.weight)
        last = functional.depthwise_conv2d(X.to(memory_format=torch.channels_last), self.weight)
        assert torch.equal(last, out)
        assert last.is_contiguous(memory_format=torch.channels_last)
        with depthwise.backend("eager"):
            assert torch.equal(functional.depthwise_conv2d(X, self.weight), out)
        with pytest.raises(DepthwiseError, match=r"weight has dtype torch\.float32 and x torch\.float64"):
            functional.depthwise_conv2d(X.double(), self.weight)

    def test_the_same_weights_for_other_channels(self) -> None:
        weight = torch.arange(8.0 * 9).reshape(8, 1, 3, 3)
        for channels in (8, 4, 1, 8):
            x = X[:, :channels]
            expected = nn.functional.conv2d(x, weight, groups=channels)
            assert torch.equal(functional.depthwise_conv2d(x, weight), expected)

    def test_the_same_weights_with_other_settings(self) -> None:
        pointwise, bias = torch.ones(8, 8, 1, 1), torch.ones(8)

        def call(**options: Any) -> Tensor:
            return functional.separable_conv2d(X, self.weight, pointwise, **options)

        linear = call()
        assert torch.equal(call(pointwise_activation="relu"), linear.relu())
        slope = call(pointwise_activation=("leaky_relu", 0.5))
        assert torch.equal(slope, nn.functional.leaky_relu(linear, 0.5))
        other = call(pointwise_activation=("leaky_relu", 0.25))
        assert torch.equal(other, nn.functional.leaky_relu(linear, 0.25))
        assert torch.equal(call(residual=torch.ones(1, 8, 4, 4)), linear + 1)
        assert torch.equal(call(pointwise_bias=bias), linear + 1)
        assert torch.equal(call(depthwise_bias=bias), linear + 8)
        assert torch.equal(call(), linear)
