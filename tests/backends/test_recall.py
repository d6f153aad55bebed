"""What is kept of weights: every way to change one, and whether the next call sees it by itself."""

from __future__ import annotations

import gc
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
from depthwise.backends import recall
from depthwise.backends.cpu import machine

X = torch.randint(-3, 4, (1, 8, 6, 6)).float()

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    depthwise.repack_()
    yield
    depthwise.repack_()


def layer() -> SeparableConv2d:
    return SeparableConv2d(
        8, 16, 3, padding=1, depthwise_norm=nn.BatchNorm2d, depthwise_activation=nn.ReLU, pointwise_norm=nn.BatchNorm2d
    ).eval()


def parts(model: SeparableConv2d) -> Tensor:
    """What PyTorch's modules give, one after another."""
    out = nn.functional.conv2d(X, model.depthwise.weight, model.depthwise.bias, padding=1, groups=8)
    for name, module in model.present_parts():
        out = out if name == "depthwise" else module(out)
    return out


def optimizer_step(model: SeparableConv2d) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with torch.enable_grad():
        model(X).square().mean().backward()
    optimizer.step()


def load_state_dict(model: SeparableConv2d) -> None:
    model.load_state_dict({name: 2 * value for name, value in model.state_dict().items()})


def assign_state_dict(model: SeparableConv2d) -> None:
    model.load_state_dict({name: 2 * value for name, value in model.state_dict().items()}, assign=True)


def set_data(model: SeparableConv2d) -> None:
    model.pointwise.weight.data = 2 * model.pointwise.weight.data


def set_data_twice(model: SeparableConv2d) -> None:
    """The second time the memory that the first freed may be found again."""
    for _ in range(2):
        model.depthwise.weight.data = 2 * model.depthwise.weight.data


def copy_without_gradients(model: SeparableConv2d) -> None:
    with torch.no_grad():
        model.depthwise.weight.copy_(2 * model.depthwise.weight)


def write_to_a_view(model: SeparableConv2d) -> None:
    with torch.no_grad():
        model.pointwise.weight[3, 2] += 1


def write_to_a_detached_tensor(model: SeparableConv2d) -> None:
    model.pointwise.weight.detach().mul_(2)


def write_in_inference_mode(model: SeparableConv2d) -> None:
    with torch.inference_mode():
        model.pointwise.weight.mul_(2)


def fused_update(model: SeparableConv2d) -> None:
    with torch.no_grad():
        torch._foreach_mul_([model.depthwise.weight, model.pointwise.weight], 2)


def initialise(model: SeparableConv2d) -> None:
    nn.init.ones_(model.pointwise.weight)


def convert_and_back(model: SeparableConv2d) -> None:
    with torch.no_grad():
        model.double().pointwise.weight.mul_(2)
    model.float()


def replace_the_parameter(model: SeparableConv2d) -> None:
    model.pointwise.weight = nn.Parameter(2 * model.pointwise.weight.detach())


def delete_and_make_another(model: SeparableConv2d) -> None:
    """Another parameter, where Python is likely to reuse the identity of the one that went."""
    values = 2 * model.pointwise.weight.detach()
    del model.pointwise.weight
    gc.collect()
    model.pointwise.weight = nn.Parameter(values)


def copy_statistics(model: SeparableConv2d) -> None:
    norm: Any = model.depthwise_norm
    norm.running_mean.copy_(torch.arange(8.0))
    norm.running_var.copy_(torch.arange(1.0, 9.0))


def train_the_statistics(model: SeparableConv2d) -> None:
    with torch.no_grad():
        model.train()(5 * X)
    model.eval()


def change_eps(model: SeparableConv2d) -> None:
    norm: Any = model.pointwise_norm
    norm.eps = 1.0


def change_the_norms_weight(model: SeparableConv2d) -> None:
    norm: Any = model.pointwise_norm
    nn.init.constant_(norm.weight, 3.0)


def data_in_place(model: SeparableConv2d) -> None:
    model.pointwise.weight.data.mul_(2)


def through_numpy(model: SeparableConv2d) -> None:
    view = model.pointwise.weight.detach().numpy()
    view *= 2


def buffer_through_numpy(model: SeparableConv2d) -> None:
    norm: Any = model.depthwise_norm
    norm.running_var.numpy()[:] = 9


def through_shared_memory(model: SeparableConv2d) -> None:
    torch.from_numpy(model.pointwise.weight.detach().numpy()).mul_(2)


SEEN = [
    optimizer_step,
    load_state_dict,
    assign_state_dict,
    set_data,
    set_data_twice,
    copy_without_gradients,
    write_to_a_view,
    write_to_a_detached_tensor,
    write_in_inference_mode,
    fused_update,
    initialise,
    convert_and_back,
    replace_the_parameter,
    delete_and_make_another,
    copy_statistics,
    train_the_statistics,
    change_eps,
    change_the_norms_weight,
]
UNSEEN = [data_in_place, through_numpy, buffer_through_numpy, through_shared_memory]


def name_of(change: Callable[[SeparableConv2d], None]) -> str:
    return change.__name__


def close(actual: Tensor, expected: Tensor) -> bool:
    return torch.allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", SEEN, ids=name_of)
def test_seen_by_itself(change: Callable[[SeparableConv2d], None]) -> None:
    model = layer()
    with torch.no_grad():
        before = model(X)
        assert close(before, parts(model))
    change(model)
    with torch.no_grad():
        after = model(X)
        assert close(after, parts(model))
    assert not close(after, before)


@pytest.mark.parametrize("change", UNSEEN, ids=name_of)
def test_needs_repack(change: Callable[[SeparableConv2d], None]) -> None:
    model = layer()
    with torch.no_grad():
        before = model(X)
        change(model)
        assert torch.equal(model(X), before)
        assert not close(before, parts(model))
        assert depthwise.repack_(model) == 1
        assert close(model(X), parts(model))


@pytest.mark.parametrize("channels", [8, 64, 512, 4096])
def test_no_address_counts_twice(channels: int) -> None:
    x, weight = torch.ones(1, channels, 3, 3), torch.ones(channels, 1, 3, 3)
    for turn in range(4):
        assert functional.depthwise_conv2d(x, weight).max() == 9 * 4**turn
        weight.data = 2 * weight.data
        weight.data = 2 * weight.data


def test_what_is_not_seen_is_documented() -> None:
    text = recall.repack_.__doc__ or ""
    assert "numpy or `.data`: `weight.data.mul_(2)`" in text
    assert "`load_state_dict`, `copy_` and `.data = ...` are seen" in text


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

        monkeypatch.setattr(operators, "runner", never)
        assert torch.equal(functional.depthwise_conv2d(X.clone(), self.weight), out)
        with pytest.raises(AssertionError, match="looked at anew"):
            functional.depthwise_conv2d(X, self.weight, padding=1)

    def test_arguments_made_anew_are_known_by_value(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def call(one: float) -> Tensor:
            return functional.depthwise_conv2d(X, self.weight, None, (one, one), ((one, 0), (0, one)))  # type: ignore[arg-type]

        out = call(1)
        looked_at = operators.runner
        monkeypatch.setattr(operators, "runner", None)
        assert torch.equal(call(1), out)
        monkeypatch.setattr(operators, "runner", looked_at)
        with pytest.raises(DepthwiseError):
            call(1.0)
        with pytest.raises(DepthwiseError):
            call(True)

    def test_no_more_is_kept_where_arguments_are_made_anew(self) -> None:
        for size in range(3, 103):
            functional.depthwise_conv2d(torch.ones(1, 8, size, 3), self.weight, None, 1, (1, 1))
        (settings,) = {id(settings): settings for settings in recall._settings.values()}.values()
        assert len(recall._settings) == 2
        assert len(settings.kept) == 64

    @pytest.mark.parametrize("way", OTHERWISE, ids=lambda way: way.__name__)
    def test_looked_at_anew(self, way: Callable[[Call], object], monkeypatch: pytest.MonkeyPatch) -> None:
        """The same numbers in another kind of tensor, or where something listens to operators."""
        pointwise, seen = torch.ones(8, 8, 1, 1), []

        def call(x: Tensor) -> Tensor:
            return functional.separable_conv2d(x, self.weight, pointwise)

        call(X)
        found = recall.find

        def listening(*arguments: Any) -> Any:
            seen.append(found(*arguments))
            return seen[-1]

        monkeypatch.setattr(recall, "find", listening)
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
        (settings,) = recall._settings.values()
        assert len(settings.kept) == 3

    def test_the_latest_comes_first(self) -> None:
        small, large = torch.ones(1, 8, 5, 5), torch.ones(1, 8, 6, 6)
        functional.depthwise_conv2d(small, self.weight)
        functional.depthwise_conv2d(large, self.weight)
        (settings,) = recall._settings.values()
        two, one = settings.kept
        functional.depthwise_conv2d(large, self.weight)
        assert settings.kept == (two, one)
        functional.depthwise_conv2d(small, self.weight)
        assert settings.kept == (one, two)

    def test_an_input_that_is_its_own_residual_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pointwise = torch.ones(8, 8, 1, 1)
        out = functional.separable_conv2d(X, self.weight, pointwise, padding=1, residual=X)
        monkeypatch.setattr(operators, "runner", None)
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
                monkeypatch.setattr(operators, "runner", None)

    def test_inputs_are_not_held(self) -> None:
        x = X.clone()
        functional.depthwise_conv2d(x, self.weight)
        held = weakref.ref(x)
        del x
        assert held() is None

    def test_repack_counts_and_keeps_the_others(self) -> None:
        first, second = layer(), layer()
        with torch.no_grad():
            first(X), second(X)
        assert depthwise.repack_(first) == 1
        assert depthwise.repack_(first) == 0
        assert depthwise.repack_() == 1
        assert depthwise.repack_() == 0

    def test_weights_are_kept_weakly(self) -> None:
        model = layer()
        with torch.no_grad():
            model(X)
        (kept,) = recall._known.values()
        (pack,) = kept.packs.values()
        packed = weakref.ref(pack.pointwise_weight)
        weight = weakref.ref(model.pointwise.weight)
        del kept, pack, model
        gc.collect()
        assert weight() is None
        assert packed() is None
        assert recall._known == {}
        assert recall._settings == {}

    def test_changed_weights_leave_nothing(self) -> None:
        weight = self.weight.clone()
        functional.depthwise_conv2d(X, weight)
        functional.depthwise_conv2d(X, weight, padding=1)
        assert len(recall._settings) == 2
        weight.add_(1)
        functional.depthwise_conv2d(X, weight)
        assert len(recall._settings) == len(recall._known) == 1

    def test_temporary_weights_leave_nothing(self) -> None:
        for factor in range(20):
            out = functional.depthwise_conv2d(X, self.weight * factor)
            assert torch.equal(out, nn.functional.conv2d(X, self.weight * factor, groups=8))
        assert recall._known == {}
        assert recall._settings == {}

    # Dense ones are compared as bytes, where the C library's function is found.
    @pytest.mark.parametrize(
        "form",
        [lambda w: w, lambda w: w.repeat(1, 1, 1, 2)[..., ::2], lambda w: w.neg()._neg_view(), None],
        ids=["dense", "gaps", "negated", "without memcmp"],
    )
    def test_inference_tensors_are_compared(
        self, monkeypatch: pytest.MonkeyPatch, form: Callable[[Tensor], Tensor] | None
    ) -> None:
        if form is None:
            monkeypatch.setattr(recall, "_compare", None)
            form = torch.clone
        with torch.inference_mode():
            weight, bias = form(torch.ones(8, 1, 3, 3)), torch.zeros(8)
        first = functional.depthwise_conv2d(X, weight, bias)
        ((kept,), (settings,)) = recall._known.values(), recall._settings.values()
        assert torch.equal(functional.depthwise_conv2d(X, weight, bias), first)
        assert (list(recall._known.values()), list(recall._settings.values())) == ([kept], [settings])
        with torch.inference_mode():
            weight[-1, 0, -1, -1] = 2
            changed = functional.depthwise_conv2d(X, weight, bias)
            assert torch.equal(changed, nn.functional.conv2d(X, weight, groups=8))
            assert not torch.equal(changed, first)
            weight.data = torch.ones(8, 1, 3, 3)
            assert torch.equal(functional.depthwise_conv2d(X.clone(), weight, bias), first)
        bias.data.numpy()[3] = 1
        assert not torch.equal(functional.depthwise_conv2d(X, weight, bias), first)

    def test_a_negated_weight_is_negated(self) -> None:
        with torch.inference_mode():
            weight = torch.ones(8, 1, 3, 3)._neg_view()
            first = functional.depthwise_conv2d(X, weight)
            weight.neg_()
            assert torch.equal(functional.depthwise_conv2d(X, weight), -first)

    def test_a_weight_loses_its_version(self) -> None:
        weight = torch.ones(8, 1, 3, 3)
        first = functional.depthwise_conv2d(X, weight)
        with torch.inference_mode():
            weight.data = torch.from_numpy(weight.numpy())
            assert weight.is_inference()
            assert torch.equal(functional.depthwise_conv2d(X, weight), first)
            weight.mul_(2)
            assert torch.equal(functional.depthwise_conv2d(X, weight), 2 * first)

    @pytest.mark.parametrize("filters", [30, 32])
    def test_what_is_packed_is_a_copy(self, filters: int) -> None:
        pointwise, bias = torch.ones(filters, 8, 1, 1), torch.ones(filters)
        first = functional.separable_conv2d(X, self.weight, pointwise, None, bias)
        bias.data.add_(1)
        assert torch.equal(functional.separable_conv2d(X, self.weight, pointwise, None, bias), first)

    def test_a_version_counts_beside_inference_tensors(self) -> None:
        with torch.inference_mode():
            bias = torch.zeros(8)
        weight = torch.ones(8, 1, 3, 3)
        first = functional.depthwise_conv2d(X, weight, bias)
        weight.mul_(2)
        assert torch.equal(functional.depthwise_conv2d(X, weight, bias), 2 * first)

    def test_nothing_is_kept_where_a_gradient_is_needed(self) -> None:
        weight = self.weight.clone().requires_grad_()
        functional.depthwise_conv2d(X, weight).sum().backward()
        assert recall._settings == {}
        with torch.no_grad():
            out = functional.depthwise_conv2d(X, weight)
        assert len(recall._known) == 1
        again = functional.depthwise_conv2d(X, weight)
        assert torch.equal(again, out)
        assert again.requires_grad
        assert functional.depthwise_conv2d(X.clone().requires_grad_(), weight.detach()).requires_grad

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
        assert recall._settings == {}

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
        (settings,) = recall._settings.values()
        assert len(settings.kept) == 64
        assert len(settings.weights.packs) == 1
        assert functional.depthwise_conv2d(torch.ones(1, 8, 3, 3), self.weight).max() == 9
        assert len(settings.kept) == 64

    def test_at_most_16_settings_for_a_set_of_weights(self) -> None:
        pointwise = torch.ones(8, 8, 1, 1)
        for slope in range(1, 41):
            for _ in range(2):
                activation = ("leaky_relu", 1 / slope)
                out = functional.separable_conv2d(-X, self.weight, pointwise, pointwise_activation=activation)
        assert len(recall._settings) == 16
        linear = functional.separable_conv2d(-X, self.weight, pointwise)
        assert torch.equal(out, nn.functional.leaky_relu(linear, 1 / 40))

    def test_weights_laid_out_otherwise_at_the_same_place(self) -> None:
        """`.data = ...` of a view leaves version and address as they are."""
        whole = torch.arange(8.0 * 9).reshape(8, 1, 3, 3)
        weight = nn.Parameter(whole.clone(), requires_grad=False)
        functional.depthwise_conv2d(X, weight)
        weight.data = weight.data.transpose(2, 3)
        assert torch.equal(functional.depthwise_conv2d(X, weight), nn.functional.conv2d(X, whole.mT, groups=8))
        weight.data = weight.data.mT[:4]
        few = nn.functional.conv2d(X[:, :4], whole[:4], groups=4)
        assert torch.equal(functional.depthwise_conv2d(X[:, :4], weight), few)

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
