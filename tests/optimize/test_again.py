"""Calls like one before: what is looked at once, and what at every call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import depthwise
from depthwise import DepthwiseError, optimize
from depthwise.optimize.again import MOST_KNOWN
from depthwise.optimize.module import Optimized
from tests.support.cases import assert_bit_equal


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()


def image(*size: int) -> Tensor:
    return torch.randn(size or (1, 3, 8, 8))


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A number for each call whose arguments are looked at."""
    found: list[int] = []
    right = Optimized._tensors

    def tensors(self: Optimized, args: Any, kwargs: Any) -> tuple[Tensor, ...]:
        found.append(len(found))
        return right(self, args, kwargs)

    monkeypatch.setattr(Optimized, "_tensors", tensors)
    return found


def test_a_call_like_the_last_is_not_looked_at(looked_at: list[int]) -> None:
    fast, x = optimize(network(), image()), image()
    first, count = fast(x), len(looked_at)
    again, other = fast(x.clone()), fast(x + 1)
    assert len(looked_at) == count
    assert_bit_equal(first, again)
    assert len({out.data_ptr() for out in (first, again, other)}) == 3
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "other",
    [
        lambda x: torch.randn(2, 3, 8, 8),
        lambda x: torch.randn(1, 3, 9, 8),
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: torch.stack((x, x), dim=-1)[..., 0],
        lambda x: torch.ops.aten._neg_view(-x),
        lambda x: nn.Parameter(x, requires_grad=False),
    ],
    ids=["batch", "size", "channels-last", "strides", "negated view", "parameter"],
)
def test_another_kind_of_input_is_looked_at(other: Callable[[Tensor], Tensor], looked_at: list[int]) -> None:
    model, x = network(), image()
    fast = optimize(model, image())
    fast(x)
    count, given = len(looked_at), other(x)
    found = fast(given)
    assert len(looked_at) > count or type(given) is nn.Parameter
    torch.testing.assert_close(found, model(given), rtol=1e-4, atol=1e-5)


def test_what_is_around_a_call_is_looked_at_each_time(looked_at: list[int]) -> None:
    fast, x = optimize(network(), image()), image()
    first, count = fast(x), len(looked_at)
    with depthwise.backend("eager"):
        torch.testing.assert_close(fast(x), first, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_bit_equal(fast(x), first)
    assert len(looked_at) == count + 2
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert_bit_equal(fast(x), first)
    finally:
        torch.set_num_threads(threads)
    assert len(looked_at) == count + 3


@pytest.mark.parametrize("left", [0, 16])
def test_memory_that_is_gone_is_seen(left: int) -> None:
    fast, x = optimize(network(), image()), image()
    fast(x)
    x.untyped_storage().resize_(left)
    with pytest.raises(DepthwiseError, match="no memory behind it"):
        fast(x)


def test_an_offset_counts() -> None:
    fast, whole = optimize(network(), image()), torch.randn(2, 3, 8, 8)
    x = whole[1:]
    fast(x)
    whole.untyped_storage().resize_(4 * 3 * 64)
    with pytest.raises(DepthwiseError, match="no memory behind it"):
        fast(x)


def test_a_gradient_that_was_not_asked_for_is_when_it_is() -> None:
    fast, x = optimize(network(), image()), image().requires_grad_()
    with torch.no_grad():
        fast(x)
        fast(x)
    with pytest.raises(DepthwiseError, match="requires a gradient"):
        fast(x)


class Named(nn.Module):
    """Several inputs, a number of images, tensors by name and one of the inputs given back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return {"sum": self.conv(x) + y, "conv": self.conv(y).relu(), "images": x.shape[0]}


class Back(Named):
    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.conv(x) + y, y


def test_several_inputs_and_results(looked_at: list[int]) -> None:
    model, args = Named().eval(), (image(2, 3, 8, 8), image(2, 3, 8, 8))
    fast = optimize(model, args)
    first, count = fast(*args), len(looked_at)
    again = fast(*args)
    assert len(looked_at) == count
    assert list(again) == list(first)
    assert again["images"] == 2
    for name in ("sum", "conv"):
        assert_bit_equal(again[name], first[name])
        torch.testing.assert_close(again[name], model(*args)[name], rtol=1e-4, atol=1e-5)
    swapped = fast(args[1], args[0])
    torch.testing.assert_close(swapped["sum"], model(args[1], args[0])["sum"], rtol=1e-4, atol=1e-5)
    with pytest.raises(DepthwiseError, match="expected 2 arguments"):
        fast(args[0])


def test_an_input_that_is_given_back_is_cloned_each_time() -> None:
    model, args = Back().eval(), (image(), image())
    fast = optimize(model, args)
    for _ in range(3):
        assert fast(*args)[1].data_ptr() != args[1].data_ptr()


def test_few_kinds_are_known() -> None:
    fast = optimize(network(), image())
    for size in range(8, 8 + 2 * MOST_KNOWN):
        fast(image(1, 3, size, 8))
    assert len(fast._known) == MOST_KNOWN


def test_under_inference_mode() -> None:
    fast, x = optimize(network(), image()), image()
    first = fast(x)
    with torch.inference_mode():
        inside = fast(x)
        assert inside.is_inference()
    again = fast(x)
    assert not again.is_inference()
    assert_bit_equal(first, again)
    assert_bit_equal(first, inside.clone())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_tensor_without_strides_is_refused() -> None:
    fast = optimize(network(), image())
    fast(image())
    with pytest.raises((DepthwiseError, RuntimeError)):
        fast(torch.nested.nested_tensor([torch.randn(3, 8, 8)]))


def test_default_dtype_and_device_do_no_harm() -> None:
    fast, x = optimize(network(), image()), image()
    first, last = fast(x), x.to(memory_format=torch.channels_last)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        outs = [fast(x), fast(last), fast(x.expand(3, 3, 8, 8)), fast(x)]
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    for out in outs:
        assert (out.dtype, out.device.type) == (torch.float32, "cpu")
        torch.testing.assert_close(out[:1], first)
