"""What is torch's own, in what it computes, and what only looks so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from depthwise.modules import computes_as, is_watched, why_foreign


class Plain(nn.Conv2d):
    """A name and helpers of its own, and torch's calls."""

    label = "stem"

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def extra_repr(self) -> str:
        return self.label


class Forward(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class Inner(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out: Tensor = super()._conv_forward(x, weight * 2, bias)
        return out


class Stride(nn.Conv2d):
    @property
    def stride(self) -> tuple[int, int]:
        return (2, 2)

    @stride.setter
    def stride(self, value: object) -> None:
        pass


class Call(nn.Conv2d):
    def __call__(self, *args: Any) -> Any:
        return -super().__call__(*args)


class Mixin(nn.Module):
    def __call__(self, *args: Any) -> Any:
        return -super().__call__(*args)


class Mixed(nn.Conv2d, Mixin):
    """torch's class comes first, and yet the mixin's call is used."""


@pytest.mark.parametrize("kind", [Forward, Inner, Stride, Call, Mixed])
def test_a_subclass_that_computes_something_else(kind: type[nn.Module]) -> None:
    assert computes_as(kind, nn.Conv1d, nn.Conv2d) is None
    assert why_foreign(kind(3, 4, 1), nn.Conv2d) == f"a {kind.__name__} computes something else"


def test_a_subclass_that_computes_the_same() -> None:
    assert computes_as(nn.Conv2d, nn.Conv1d, nn.Conv2d) is nn.Conv2d
    assert computes_as(Plain, nn.Conv1d, nn.Conv2d) is nn.Conv2d
    assert why_foreign(Plain(3, 4, 1), nn.Conv2d) is None
    assert why_foreign(nn.Conv1d(3, 4, 1), nn.Conv2d) == "it is a Conv1d"


def test_a_materialised_lazy_module_is_what_it_became() -> None:
    norm = nn.LazyBatchNorm2d()
    assert why_foreign(norm, nn.BatchNorm2d) is not None
    norm(torch.zeros(2, 3, 4, 4))
    assert why_foreign(norm, nn.BatchNorm2d) is None


def test_a_parametrised_module_is_what_it_was() -> None:
    assert why_foreign(parametrizations.weight_norm(Plain(3, 4, 1)), nn.Conv2d) is None
    assert why_foreign(parametrizations.weight_norm(Forward(3, 4, 1)), nn.Conv2d) is not None


@pytest.mark.parametrize(
    "watch",
    [
        lambda conv: conv.register_forward_hook(lambda *_: None),
        lambda conv: conv.register_forward_pre_hook(lambda *_: None),
        lambda conv: conv.register_full_backward_hook(lambda *_: None),
        lambda conv: conv.register_full_backward_pre_hook(lambda *_: None),
        lambda conv: setattr(conv, "forward", conv.forward),
        lambda conv: setattr(conv, "_conv_forward", conv._conv_forward),
        lambda conv: prune.l1_unstructured(conv, "weight", amount=0.5),
    ],
)
def test_what_is_watched(watch: Any) -> None:
    conv = nn.Conv2d(3, 4, 1)
    assert not is_watched(conv.__dict__)
    watch(conv)
    assert is_watched(conv.__dict__)
    assert "hooks, or a forward of its own" in (why_foreign(conv, nn.Conv2d) or "")


def test_a_compiled_module_is_watched_and_computes_the_same() -> None:
    conv = nn.Conv2d(3, 4, 1)
    conv.compile(backend="eager")
    assert is_watched(conv.__dict__)
    assert why_foreign(conv, nn.Conv2d) is None
