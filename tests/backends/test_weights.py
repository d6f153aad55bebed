"""What is kept of weights: every way to change one, and whether the next call sees it by itself."""

from __future__ import annotations

import copy
import gc
import io
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import depthwise
from depthwise import DepthwiseError, SeparableConv2d, functional
from depthwise.backends import weights
from depthwise.backends.cpu import launch, machine, pack

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


def data_filled(model: SeparableConv2d) -> None:
    model.depthwise.weight.data.fill_(0.5)


def data_of_a_sparse_weight(model: SeparableConv2d) -> None:
    """Nearly all are zeros, before and after."""
    model.pointwise.weight.data.mul_(2)


def data_of_every_other_filter(model: SeparableConv2d) -> None:
    model.pointwise.weight.data[1::2] += 1


def bias_data(model: SeparableConv2d) -> None:
    assert model.pointwise.bias is not None
    model.pointwise.bias.data[5] += 3


def statistics_data(model: SeparableConv2d) -> None:
    norm: Any = model.pointwise_norm
    norm.running_mean.data.copy_(torch.arange(16.0))


def exponential_average(model: SeparableConv2d) -> None:
    other = layer()
    for own, new in zip(model.parameters(), other.parameters(), strict=True):
        own.data.copy_(0.5 * own.data + 0.5 * new.data + 1)


def by_hand(model: SeparableConv2d) -> None:
    """As hand-written optimizers do it."""
    with torch.enable_grad():
        model(X).square().mean().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.data.add_(parameter.grad, alpha=-0.5)


def through_numpy(model: SeparableConv2d) -> None:
    view = model.pointwise.weight.detach().numpy()
    view *= 2


def buffer_through_numpy(model: SeparableConv2d) -> None:
    norm: Any = model.depthwise_norm
    norm.running_var.numpy()[:] = 9


def through_shared_memory(model: SeparableConv2d) -> None:
    torch.from_numpy(model.pointwise.weight.detach().numpy()).mul_(2)


def fused_step(model: SeparableConv2d) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5, fused=True)
    with torch.enable_grad():
        model(X).square().mean().backward()
    optimizer.step()


def fused_step_after_a_look(model: SeparableConv2d) -> None:
    """A call between the gradient and the step, which packs what the step then changes."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, fused=True)
    with torch.enable_grad():
        model(X).square().mean().backward()
    with torch.no_grad():
        model(X)
    optimizer.step()


def fused_step_in_training_mode(model: SeparableConv2d) -> None:
    """Part by part: torch runs the pointwise convolution and the norms itself."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5, fused=True)
    model.train()
    with torch.enable_grad():
        model(X).square().mean().backward()
    model.eval()
    with torch.no_grad():
        model(X)
    optimizer.step()


def few_by_a_fused_step(model: SeparableConv2d) -> None:
    """Gradients but for one element are zero, so the others stay as they are."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    with torch.enable_grad():
        model(X).square().mean().backward()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    grad = model.pointwise.weight.grad
    assert grad is not None
    grad.view(-1)[UNPRINTED] = 9
    with torch.no_grad():
        model(X)
    optimizer.step()


def one_by_hand(model: SeparableConv2d) -> None:
    """A single element, after a gradient was asked of it, and a look between."""
    with torch.enable_grad():
        model(X).square().mean().backward()
    with torch.no_grad():
        model(X)
    model.pointwise.weight.data.view(-1)[UNPRINTED] += 9


def one_by_hand_in_training_mode(model: SeparableConv2d) -> None:
    """The same where torch runs the parts."""
    model.train()
    with torch.enable_grad():
        model(X).square().mean().backward()
    model.eval()
    with torch.no_grad():
        model(X)
    model.pointwise.weight.data.view(-1)[UNPRINTED] += 9


SEEN = [
    one_by_hand_in_training_mode,
    data_in_place,
    data_filled,
    data_of_a_sparse_weight,
    data_of_every_other_filter,
    bias_data,
    statistics_data,
    exponential_average,
    by_hand,
    through_numpy,
    buffer_through_numpy,
    through_shared_memory,
    fused_step,
    fused_step_after_a_look,
    fused_step_in_training_mode,
    few_by_a_fused_step,
    one_by_hand,
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


def one_of_data(model: SeparableConv2d) -> None:
    model.pointwise.weight.data.view(-1)[UNPRINTED] += 9


def one_through_numpy(model: SeparableConv2d) -> None:
    model.pointwise.weight.detach().numpy().reshape(-1)[UNPRINTED] += 9


UNSEEN = [one_of_data, one_through_numpy]
# An element of the pointwise weight that is not among its prints.
UNPRINTED = min({*range(16 * 8)} - {place // 4 for place in weights._places((16, 8, 1, 1), (8, 1, 1, 1), 4)})


def name_of(change: Callable[[SeparableConv2d], None]) -> str:
    return change.__name__


def close(actual: Tensor, expected: Tensor) -> bool:
    return torch.allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", SEEN, ids=name_of)
def test_seen_by_itself(change: Callable[[SeparableConv2d], None]) -> None:
    model = layer()
    if change is data_of_a_sparse_weight:
        with torch.no_grad():
            model.pointwise.weight.mul_(torch.rand(16, 8, 1, 1) < 0.1)
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
    text = depthwise.repack_.__doc__ or ""
    assert "single elements that torch does not see, through numpy or `.data`" in text
    assert "fused ones too, `load_state_dict`, `copy_`, and whatever changes most" in text


WEIGHT = torch.ones(8, 1, 3, 3)


def test_repack_counts_and_keeps_the_others() -> None:
    first, second = layer(), layer()
    with torch.no_grad():
        first(X), second(X)
    assert depthwise.repack_(first) == 1
    assert depthwise.repack_(first) == 0
    assert depthwise.repack_() == 1
    assert depthwise.repack_() == 0


def test_weights_are_kept_weakly() -> None:
    model = layer()
    with torch.no_grad():
        model(X)
    (kept,) = weights.sets.values()
    (pack,) = kept.packs.values()
    packed = weakref.ref(pack.pointwise_weight)
    weight = weakref.ref(model.pointwise.weight)
    del kept, pack, model
    gc.collect()
    assert weight() is None
    assert packed() is None
    assert weights.sets == {}


def test_changed_weights_leave_nothing() -> None:
    weight = WEIGHT.clone()
    functional.depthwise_conv2d(X, weight)
    functional.depthwise_conv2d(X, weight, padding=1)
    (before,) = weights.sets.values()
    assert len(before.calls) == 2
    weight.add_(1)
    functional.depthwise_conv2d(X, weight)
    (after,) = weights.sets.values()
    assert len(after.calls) == 1


def test_temporary_weights_leave_nothing() -> None:
    for factor in range(20):
        out = functional.depthwise_conv2d(X, WEIGHT * factor)
        assert torch.equal(out, nn.functional.conv2d(X, WEIGHT * factor, groups=8))
    assert weights.sets == {}


# Dense ones are compared as bytes, where the C library's function is found.
@pytest.mark.parametrize(
    "form",
    [lambda w: w, lambda w: w.repeat(1, 1, 1, 2)[..., ::2], lambda w: w.neg()._neg_view(), None],
    ids=["dense", "gaps", "negated", "without memcmp"],
)
def test_inference_tensors_are_compared(
    monkeypatch: pytest.MonkeyPatch, form: Callable[[Tensor], Tensor] | None
) -> None:
    if form is None:
        monkeypatch.setattr(weights, "_compare", None)
        form = torch.clone
    with torch.inference_mode():
        weight, bias = form(torch.ones(8, 1, 3, 3)), torch.zeros(8)
    first = functional.depthwise_conv2d(X, weight, bias)
    (kept,) = weights.sets.values()
    assert torch.equal(functional.depthwise_conv2d(X, weight, bias), first)
    assert [*weights.sets.values()] == [kept]
    with torch.inference_mode():
        weight[-1, 0, -1, -1] = 2
        changed = functional.depthwise_conv2d(X, weight, bias)
        assert torch.equal(changed, nn.functional.conv2d(X, weight, groups=8))
        assert not torch.equal(changed, first)
        weight.data = torch.ones(8, 1, 3, 3)
        assert torch.equal(functional.depthwise_conv2d(X.clone(), weight, bias), first)
    bias.data.numpy()[3] = 1
    assert not torch.equal(functional.depthwise_conv2d(X, weight, bias), first)


def test_a_negated_weight_is_negated() -> None:
    with torch.inference_mode():
        weight = torch.ones(8, 1, 3, 3)._neg_view()
        first = functional.depthwise_conv2d(X, weight)
        weight.neg_()
        assert torch.equal(functional.depthwise_conv2d(X, weight), -first)


def test_a_weight_loses_its_version() -> None:
    weight = torch.ones(8, 1, 3, 3)
    first = functional.depthwise_conv2d(X, weight)
    with torch.inference_mode():
        weight.data = torch.from_numpy(weight.numpy())
        assert weight.is_inference()
        assert torch.equal(functional.depthwise_conv2d(X, weight), first)
        weight.mul_(2)
        assert torch.equal(functional.depthwise_conv2d(X, weight), 2 * first)


@pytest.mark.parametrize("filters", [30, 32])
def test_what_is_packed_is_a_copy(filters: int) -> None:
    pointwise, bias = torch.ones(filters, 8, 1, 1), torch.ones(filters)
    functional.separable_conv2d(X, WEIGHT, pointwise, None, bias)
    (own,) = weights.sets.values()
    (pack,) = own.packs.values()
    addresses = {tensor.data_ptr() for tensor in (WEIGHT, pointwise, bias)}
    assert not addresses & {*pack.addresses}


def test_a_version_counts_beside_inference_tensors() -> None:
    with torch.inference_mode():
        bias = torch.zeros(8)
    weight = torch.ones(8, 1, 3, 3)
    first = functional.depthwise_conv2d(X, weight, bias)
    weight.mul_(2)
    assert torch.equal(functional.depthwise_conv2d(X, weight, bias), 2 * first)


def test_nothing_is_kept_where_a_gradient_is_needed() -> None:
    weight = WEIGHT.clone().requires_grad_()
    functional.depthwise_conv2d(X, weight).sum().backward()
    assert weights.sets == {}
    with torch.no_grad():
        out = functional.depthwise_conv2d(X, weight)
    assert len(weights.sets) == 1
    again = functional.depthwise_conv2d(X, weight)
    assert torch.equal(again, out)
    assert again.requires_grad
    assert functional.depthwise_conv2d(X.clone().requires_grad_(), weight.detach()).requires_grad


def test_weights_laid_out_otherwise_at_the_same_place() -> None:
    """`.data = ...` of a view leaves version and address as they are."""
    whole = torch.arange(8.0 * 9).reshape(8, 1, 3, 3)
    weight = nn.Parameter(whole.clone(), requires_grad=False)
    functional.depthwise_conv2d(X, weight)
    weight.data = weight.data.transpose(2, 3)
    assert torch.equal(functional.depthwise_conv2d(X, weight), nn.functional.conv2d(X, whole.mT, groups=8))
    weight.data = weight.data.mT[:4]
    few = nn.functional.conv2d(X[:, :4], whole[:4], groups=4)
    assert torch.equal(functional.depthwise_conv2d(X[:, :4], weight), few)


def test_a_call_that_needs_a_gradient_reuses_nothing() -> None:
    weight = WEIGHT.clone().requires_grad_()
    before = dict(weights.sets)
    for _ in range(3):
        # No version moves, and no prints are looked at while gradients are asked for.
        weight.data.view(-1)[40] += 1
        assert torch.equal(functional.depthwise_conv2d(X, weight), nn.functional.conv2d(X, weight, groups=8))
    assert weights.sets == before


class TestAfterAGradient:
    """Weights that may be updated unseen are compared whole, until it is known what happened to them."""

    @staticmethod
    def kind(weight: Tensor) -> type:
        with torch.no_grad():
            functional.depthwise_conv2d(X, weight)
        (own,) = weights.sets.values()
        return type(own)

    def test_until_its_version_moves(self) -> None:
        weight = WEIGHT.clone().requires_grad_()
        assert self.kind(weight) is weights.Snapshot
        functional.depthwise_conv2d(X, weight)
        assert self.kind(weight) is weights.Compared
        with torch.no_grad():
            weight.mul_(2)
        assert self.kind(weight) is weights.Snapshot

    def test_until_no_gradient_is_asked_for(self) -> None:
        weight = WEIGHT.clone().requires_grad_()
        functional.depthwise_conv2d(X, weight)
        weight.requires_grad_(False)
        assert self.kind(weight) is weights.Snapshot

    def test_until_an_optimizer_has_stepped(self) -> None:
        weight = WEIGHT.clone().requires_grad_()
        optimizer = torch.optim.SGD([weight], lr=1.0, fused=True)
        functional.depthwise_conv2d(X, weight).sum().backward()
        assert self.kind(weight) is weights.Compared
        version = weight._version
        optimizer.step()
        assert weight._version == version
        assert weights.sets == {}
        assert self.kind(weight) is weights.Snapshot

    def test_of_a_separable_convolution(self) -> None:
        model = layer()
        model(X).sum().backward()
        with torch.no_grad():
            model(X)
        (own,) = weights.sets.values()
        assert type(own) is weights.Compared


class TestNothingIsInTheWay:
    @pytest.fixture(autouse=True)
    def _swapping(self) -> Iterator[None]:
        torch.__future__.set_swap_module_params_on_conversion(True)
        yield
        torch.__future__.set_swap_module_params_on_conversion(False)

    @pytest.mark.parametrize("used", [False, True])
    def test_of_swapping(self, used: bool) -> None:
        model = layer()
        if used:
            with torch.no_grad():
                model(X)
        for dtype in (torch.float64, torch.float32):
            model.to(dtype)
        model.load_state_dict({name: 2 * value for name, value in model.state_dict().items()})
        torch.utils.swap_tensors(model.pointwise.weight, nn.Parameter(torch.randn(16, 8, 1, 1)))
        with torch.no_grad():
            assert close(model(X), parts(model))

    def test_of_letting_memory_go(self) -> None:
        model = layer()
        with torch.no_grad():
            model(X)
        (own,) = weights.sets.values()
        (pack,) = own.packs.values()
        packed = weakref.ref(pack.pointwise_weight)
        del own, pack
        torch.__future__.set_swap_module_params_on_conversion(False)
        model.bfloat16()
        gc.collect()
        assert packed() is None
        assert weights.sets == {}

    def test_of_copies_and_pickles(self) -> None:
        model = layer()
        with torch.no_grad():
            expected = model(X)
            copied = copy.deepcopy(model)
            saved = io.BytesIO()
            torch.save(model, saved)
            saved.seek(0)
            loaded = torch.load(saved, weights_only=False)
            assert torch.equal(copied(X), expected)
            assert torch.equal(loaded(X), expected)
        assert b"depthwise.backends" not in saved.getvalue()


def test_another_tensor_of_the_same_memory_and_identity() -> None:
    """`.data` makes a tensor whose version starts again: one that went is not taken for the next one."""
    weight = WEIGHT.clone()
    for _ in range(4):
        out = functional.depthwise_conv2d(X, weight.data)
        assert torch.equal(out, nn.functional.conv2d(X, weight, groups=8))
        weight.view(-1)[40] += 1


def test_views_that_are_gone_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_FEWEST_SWEPT", 8)
    monkeypatch.setattr(weights, "_sweep_at", 8)
    # What other tests left is no part of it.
    monkeypatch.setattr(weights, "sets", {})
    monkeypatch.setattr(weights, "_tensors", {})
    whole = torch.randn(100, 8, 1, 3, 3)
    views = [whole[number] for number in range(100)]
    for number in range(100):
        functional.depthwise_conv2d(X, views[number])
        views[number] = WEIGHT
    assert len(weights.sets) <= 10
    assert len(weights._tensors) <= 20


def test_what_was_kept_while_others_wrote_is_not_stale() -> None:
    """Eight threads call while one updates: after each update is over, every call is of the new weights."""
    model = layer().requires_grad_(False)
    stop, failures = threading.Event(), []

    def calling() -> None:
        while not stop.is_set():
            model(X)

    threads = [threading.Thread(target=calling) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(60):
            model.pointwise.weight.mul_(-1)
            if not close(model(X), parts(model)):
                failures.append("after an update")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_change_while_packing_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = WEIGHT.clone()
    original = pack.pack_of

    def interrupted(*arguments: Any) -> Any:
        made = original(*arguments)
        monkeypatch.setattr(launch, "pack_of", original)
        weight.data.mul_(2)
        return made

    monkeypatch.setattr(launch, "pack_of", interrupted)
    functional.depthwise_conv2d(X, weight)
    assert torch.equal(functional.depthwise_conv2d(X, weight), nn.functional.conv2d(X, weight, groups=8))


class TestPrints:
    def test_a_small_tensor_is_printed_whole(self) -> None:
        assert {*weights._places((2, 4), (4, 1), 4)} == {4 * element for element in range(8)}
        assert {*weights._places((3,), (5,), 8)} == {0, 4, 40, 44, 80, 84}
        assert weights._places((0, 3), (3, 1), 4) == ()
        assert weights._places((5,), (1,), 2) == ()

    @pytest.mark.parametrize("shape", [(17,), (64, 1, 3, 3), (1024, 1024, 1, 1), (2048, 1, 31)])
    def test_a_large_one_by_its_first_its_last_and_others(self, shape: tuple[int, ...]) -> None:
        strides, count = torch.empty(shape, device="meta").stride(), 1
        for size in shape:
            count *= size
        places = weights._places(shape, strides, 4)
        assert len({*places}) == len(places) == weights.MOST_WORDS
        assert places[:2] == (0, 4 * (count - 1))
        assert all(0 <= place < 4 * count for place in places)

    def test_they_are_where_the_elements_are(self) -> None:
        tensor = torch.arange(600.0).reshape(30, 20).t()[1:, ::2]
        values = {*tensor.flatten().view(torch.int32).tolist()}
        assert {word for _, word in weights._words_of(tensor)} <= values

    def test_a_change_is_told_by_whoever_reads(self) -> None:
        tensor = torch.randn(100)
        prints = weights.Prints([tensor, None])
        assert prints.are_there()
        tensor[-1] = 5
        assert not prints.are_there()

    def test_nothing_equals_itself_but_nan_does(self) -> None:
        assert weights.Prints([torch.full((40,), float("nan"))]).are_there()
        assert weights.NO_PRINTS.are_there()


def test_repack_takes_models() -> None:
    with pytest.raises(DepthwiseError, match=r"repack_ takes a torch.nn.Module, or nothing for all; got int"):
        depthwise.repack_(3)  # type: ignore[arg-type]
