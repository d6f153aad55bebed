"""Tensors that are no plain memory of this process: each argument gets torch's result, torch's error, or ours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import depthwise
from depthwise import DepthwiseError, functional
from depthwise.backends import tensors
from depthwise.backends.cpu import machine

SHAPES = {
    "x": (2, 4, 7, 7),
    "depthwise_weight": (4, 1, 3, 3),
    "pointwise_weight": (6, 4, 1, 1),
    "depthwise_bias": (4,),
    "pointwise_bias": (6,),
    "residual": (2, 6, 5, 5),
}


class Halved(Tensor):
    """A subclass that computes with half of what its memory holds, as quantised weights do with a scale."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func in (Tensor.dim, Tensor.size) or getattr(func, "__name__", "") == "__get__":
                return func(*args, **(kwargs or {}))
            plain = [arg.as_subclass(Tensor) / 2 if isinstance(arg, Halved) else arg for arg in args]
            return func(*plain, **(kwargs or {}))


class Wrapper(Tensor):
    """A tensor without memory of its own, around another one."""

    inner: Any

    @staticmethod
    def __new__(cls, inner: Tensor) -> Self:
        made: Self = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        plain = [arg.inner if isinstance(arg, Wrapper) else arg for arg in args]
        return func(*plain, **(kwargs or {}))


def freed(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


def cut_short(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(4 * (tensor.numel() - 1))
    return tensor


def fake(tensor: Tensor) -> Tensor:
    return FakeTensorMode(allow_non_fake_inputs=True).from_tensor(tensor)


ZOO: dict[str, Callable[[Tensor], Any]] = {
    "zeros without memory": lambda t: torch._efficientzerotensor(t.shape),
    "freed storage": freed,
    "storage cut short": cut_short,
    "meta": lambda t: t.to("meta"),
    "fake": fake,
    "functional": torch._to_functional_tensor,
    "sparse": lambda t: t.to_sparse(),
    "mkldnn": lambda t: t.to_mkldnn(),
    "halved": lambda t: t.clone().as_subclass(Halved),
    "wrapper": Wrapper,
    "quantised": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "negated": lambda t: t._neg_view(),
    "expanded": lambda t: t[:1].expand(t.shape),
    "parameter": nn.Parameter,
    "made in inference mode": torch.inference_mode()(torch.clone),
    "nested": lambda t: torch.nested.nested_tensor([t, t]),
    "complex": lambda t: t.to(torch.complex64),
    "integers": lambda t: t.int(),
    "not a tensor": lambda t: t.tolist(),
    "nothing": lambda t: None,
}


def result(arguments: dict[str, Any], backend: str | None) -> Any:
    """The result, as a plain tensor where it is one, or the kind of error."""
    try:
        with depthwise.backend(backend), torch.no_grad():
            out: Any = functional.separable_conv2d(**arguments)
            out = out.inner if isinstance(out, Wrapper) else out
            return out if isinstance(out, Tensor) and tensors.why_not_memory(out) is None else type(out)
    except (DepthwiseError, RuntimeError, TypeError, AttributeError, NotImplementedError) as error:
        return type(error)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ZOO)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("first", [False, True], ids=["seen before", "first"])
def test_every_argument_of_every_kind(name: str, kind: str, first: bool) -> None:
    torch.manual_seed(0)
    plain: dict[str, Any] = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    if not first:
        with torch.no_grad():
            functional.separable_conv2d(**plain)
    made = plain | {name: ZOO[kind](plain[name])}
    again = plain | {name: ZOO[kind](plain[name])}
    ours, theirs = result(made, None), result(again, "eager")
    if isinstance(theirs, Tensor):
        assert isinstance(ours, Tensor), f"{ours} where torch has a result"
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    else:
        assert ours is theirs


@pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")
@pytest.mark.parametrize("name", ["depthwise_weight", "pointwise_bias", "residual"])
def test_a_backend_asked_for_says_what_it_does_not_read(name: str) -> None:
    made: dict[str, Any] = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    made[name] = made[name].as_subclass(Halved)
    with depthwise.backend("cpu"), pytest.raises(DepthwiseError, match=f"refuses: {name} is a Halved"):
        functional.separable_conv2d(**made)


@pytest.mark.parametrize("backend", ["cpu", "eager"])
@pytest.mark.parametrize("kind", [freed, cut_short])
@pytest.mark.parametrize("name", SHAPES)
def test_what_has_no_memory_is_named(name: str, kind: Callable[[Tensor], Tensor], backend: str) -> None:
    made: dict[str, Any] = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    made[name] = kind(made[name])
    with (
        depthwise.backend(backend),
        pytest.raises(DepthwiseError, match=f"{name} has no memory behind it"),
    ):
        functional.separable_conv2d(**made)


@pytest.mark.parametrize("kind", ["zeros without memory", "sparse", "mkldnn", "halved", "functional"])
def test_what_is_not_memory(kind: str) -> None:
    assert tensors.why_not_memory(ZOO[kind](torch.randn(4, 4))) is not None


def test_nothing_needs_no_memory() -> None:
    assert tensors.why_not_memory(torch.empty(0)) is None
    assert tensors.why_not_memory(freed(torch.empty(0, 3))) is None


def test_nothing_crashes() -> None:
    """In a process of its own, that a crash ends."""
    program = """
import torch
from depthwise import functional
from tests.backends.test_tensors import SHAPES, ZOO, result
for kind in ZOO:
    for name in SHAPES:
        plain = {name: torch.randn(shape) for name, shape in SHAPES.items()}
        for made in (plain, plain | {name: ZOO[kind](plain[name])}, plain):
            result(made, None)
print("lived")
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=False, capture_output=True, text=True)
    assert done.stdout.strip().endswith("lived"), done.stderr[-2000:]
