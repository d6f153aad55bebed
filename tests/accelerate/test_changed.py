"""Modules changed after they were accelerated: a call computes what torch's class would, and the next look sees it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthwise import DepthwiseError, accelerate_, restore_
from depthwise.accelerate.classes import ours_in
from depthwise.backends import observed_choices
from tests.accelerate.test_accelerating import LAST, network


def depthwise(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(8, 8, 3, padding=1, groups=8, **options)


def pointwise(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(8, 12, 1, **options)


def pooled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return nn.functional.avg_pool2d(x, 3)


CHANGES: dict[str, Callable[[Any], object]] = {
    "stride": lambda conv: setattr(conv, "stride", (2, 2)),
    "stride of one number": lambda conv: setattr(conv, "stride", 2),
    "padding": lambda conv: setattr(conv, "padding", (2, 0)),
    "padding of one number": lambda conv: setattr(conv, "padding", 2),
    "dilation": lambda conv: setattr(conv, "dilation", (2, 1)),
    "padding by name": lambda conv: setattr(conv, "padding", "same"),
    "padding that torch has not": lambda conv: setattr(conv, "padding", ((1, 0), (1, 1))),
    "a strided same": lambda conv: vars(conv).update(stride=(2, 2), padding="same"),
    "no such padding": lambda conv: setattr(conv, "padding", "causal"),
    "padding mode": lambda conv: setattr(conv, "padding_mode", "circular"),
    "channels": lambda conv: setattr(conv, "in_channels", 3),
    "a call of its own": lambda conv: setattr(conv, "_conv_forward", pooled),
    "groups": lambda conv: regroup(conv, 4),
    "a wider window": lambda conv: setattr(conv, "weight", nn.Parameter(conv.weight.repeat(1, 1, 3, 3))),
}


def regroup(conv: Any, groups: int) -> None:
    conv.groups = groups
    conv.weight = nn.Parameter(torch.randn(conv.out_channels, 8 // groups, *conv.weight.shape[2:]))


def outcome(conv: nn.Module, x: Tensor) -> Any:
    try:
        return conv(x)
    except (RuntimeError, ValueError, TypeError) as error:
        return type(error)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("make", [depthwise, pointwise])
def test_attributes_set_afterwards_are_those_of_the_call(make: Callable[[], nn.Conv2d], change: str) -> None:
    mine, x = make(), torch.randn(2, 8, 9, 9).contiguous(memory_format=LAST)
    assert accelerate_(mine).accelerated
    mine(x)
    CHANGES[change](mine)
    theirs = copy.deepcopy(mine)
    restore_(theirs)
    assert type(theirs) is nn.Conv2d
    found, expected = outcome(mine, x), outcome(theirs, x)
    if isinstance(expected, Tensor):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    else:
        assert found is expected


@pytest.mark.parametrize("make", [depthwise, pointwise])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.float64])
def test_numbers_of_other_kinds(make: Callable[..., nn.Conv2d], dtype: torch.dtype) -> None:
    mine, x = make(dtype=dtype), torch.randn(2, 8, 5, 5, dtype=dtype)
    expected = mine(x)
    accelerate_(mine)
    torch.testing.assert_close(mine(x), expected)


def test_reversed_padding_is_torchs() -> None:
    mine: Any = depthwise(padding_mode="circular")
    x = torch.randn(2, 8, 9, 9)
    accelerate_(mine)
    mine._reversed_padding_repeated_twice = [2, 0, 1, 1]
    theirs = copy.deepcopy(mine)
    restore_(theirs)
    torch.testing.assert_close(mine(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_a_module_found_changed_gets_its_own_class_back() -> None:
    model: Any = nn.Sequential(pointwise(), nn.BatchNorm2d(12), nn.ReLU(), depthwise())
    accelerate_(model)
    model[0].stride = (2, 2)
    model[3].forward = model[3].forward
    model[2] = nn.Softmax(1)
    report = accelerate_(model)
    assert [type(module) for module in (model, model[0], model[3])] == [nn.Sequential, nn.Conv2d, nn.Conv2d]
    assert ours_in(type(model[1])) is not None
    assert {row.name: row.reason for row in report.left} == {
        "0": "is pointwise with a stride or padding",
        "3": "has a forward of its own",
    }
    model[0].stride = (1, 1)
    model[0].groups = 1
    assert [row.name for row in accelerate_(model).accelerated] == ["", "0", "1"]


class Reversed(nn.Sequential):
    """Its parts, the last first."""

    def __iter__(self) -> Iterator[Any]:
        return iter([*self._modules.values()][::-1])


def test_an_order_of_its_own_is_kept() -> None:
    norm, shift = nn.BatchNorm2d(8), nn.Hardtanh(-0.1, 0.1)
    model = nn.Sequential(Reversed(shift, norm), nn.BatchNorm2d(8), nn.ReLU())
    theirs, x = copy.deepcopy(model), torch.randn(2, 8, 5, 5).contiguous(memory_format=LAST)
    accelerate_(model)
    torch.testing.assert_close(model(x), theirs(x), atol=1e-5, rtol=1e-5)
    assert ours_in(type(model[0])) is None


class Final(nn.Conv2d):
    def __init_subclass__(cls) -> None:
        raise TypeError("Final is final")


class Sealing(type):
    def __new__(cls, name: str, bases: tuple[type, ...], content: dict[str, Any]) -> Any:
        if any(type(base) is Sealing for base in bases):
            raise TypeError("sealed")
        return super().__new__(cls, name, bases, content)


class Sealed(nn.Conv2d, metaclass=Sealing):
    pass


@pytest.mark.parametrize("kind", [Final, Sealed])
def test_a_class_that_takes_no_subclass_is_told(kind: Any) -> None:
    model = network().append(kind(4, 4, 1))
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(DepthwiseError, match=f"{kind.__name__} takes no subclass, and no module was changed: "):
        accelerate_(model)
    assert [type(module) for module in model.modules()] == kinds


def test_the_advice_names_what_is_not_channels_last_yet() -> None:
    def advice(*modules: nn.Module) -> list[str]:
        text = " ".join(accelerate_(nn.Sequential(*modules)).advice)
        return [name for name in ("model.to", "x.to") if f"{name}(memory_format" in text]

    dense = nn.Conv2d(3, 8, 3)
    assert advice(dense) == ["model.to"]
    assert advice(dense.to(memory_format=LAST), depthwise()) == []  # type: ignore[call-overload]
    for first in (depthwise(), pointwise(), nn.BatchNorm2d(8)):
        assert advice(first, dense) == ["x.to"]
        assert advice(first, nn.Conv2d(8, 8, 3)) == ["model.to", "x.to"]
    assert advice(nn.Linear(3, 3), nn.Conv1d(3, 3, 3)) == []


def test_an_observer_sees_the_fallback_not() -> None:
    seen: list[Any] = []
    mine = pointwise()
    accelerate_(mine)
    mine.stride = (2, 2)
    with observed_choices(seen.append):
        mine(torch.randn(2, 8, 9, 9))
    assert not seen
