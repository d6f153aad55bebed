"""Lazy layers become what they would have been, at a first call or from a state dict."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parameter import is_lazy

import depthwise
from depthwise import DepthwiseError

pytestmark = pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")

RANKS = [1, 2, 3]


def classes(kind: str, rank: int) -> tuple[Any, Any]:
    return getattr(depthwise, f"Lazy{kind}Conv{rank}d"), getattr(depthwise, f"{kind}Conv{rank}d")


@pytest.mark.parametrize("rank", RANKS)
def test_a_first_call_makes_the_layer(rank: int) -> None:
    x = torch.randn(2, 4, *(7,) * rank)
    norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[rank]
    for kind, arguments, channels in (("Depthwise", (3,), ()), ("Separable", (6, 3), (6,))):
        lazy_class, plain_class = classes(kind, rank)
        options: Any = {"padding": 1, "depth_multiplier": 2, "stride": 2}
        if kind == "Separable":
            options |= {"groups": 2, "depthwise_norm": norm, "pointwise_activation": nn.ReLU}
        lazy = lazy_class(*arguments, **options).double()
        assert any(map(is_lazy, lazy.parameters()))
        assert repr(lazy).startswith(f"Lazy{kind}Conv{rank}d")
        torch.manual_seed(3)
        out = lazy(x.double())
        plain = plain_class(4, *channels, 3, **options).double()
        assert type(lazy) is plain_class
        assert repr(lazy) == repr(plain)
        plain.load_state_dict(lazy.state_dict())
        assert {p.dtype for p in lazy.parameters()} == {torch.float64}
        torch.testing.assert_close(out, plain(x.double()))
        assert lazy(x.double()).shape == out.shape


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("kind", ["Depthwise", "Separable"])
def test_a_state_dict_makes_the_layer(kind: str, rank: int) -> None:
    lazy_class, plain_class = classes(kind, rank)
    x = torch.randn(2, 4, *(7,) * rank)
    plain = plain_class(4, *((6,) if kind == "Separable" else ()), 3, depth_multiplier=2)
    lazy = lazy_class(*((6,) if kind == "Separable" else ()), 3, depth_multiplier=2)
    copy.deepcopy(lazy).load_state_dict(plain.state_dict())
    lazy.load_state_dict(plain.state_dict())
    torch.testing.assert_close(lazy(x), plain(x))
    assert type(lazy) is plain_class
    assert repr(lazy) == repr(plain)


def test_an_evaluating_layer_stays_one() -> None:
    lazy = depthwise.LazySeparableConv2d(6, 3, depthwise_norm=nn.BatchNorm2d).eval()
    lazy(torch.zeros(1, 4, 5, 5))
    assert not any(module.training for module in lazy.modules())


def test_what_a_lazy_layer_cannot_do() -> None:
    with pytest.raises(DepthwiseError, match="a lazy layer has no weights before its first call"):
        depthwise.LazySeparableConv2d(6, 3).to_dense()
    with pytest.raises(DepthwiseError, match=r"x must be \(batch, channels, height, width\)"):
        depthwise.LazySeparableConv2d(6, 3)(torch.zeros(3))
    with pytest.raises(DepthwiseError, match="kernel_size must be at least 1; got 0"):
        depthwise.LazySeparableConv2d(6, 0)
    with pytest.raises(DepthwiseError, match="in_channels=3 is not divisible by groups=2"):
        depthwise.LazySeparableConv2d(6, 3, groups=2)(torch.zeros(1, 3, 5, 5))
