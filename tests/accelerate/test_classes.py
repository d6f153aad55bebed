"""Classes of accelerated modules: kept no longer than their modules, copied and pickled by what they stand for."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any, ClassVar, Self

import pytest
import torch
from torch import nn

from depthwise import accelerate_
from depthwise.accelerate.classes import ours_in
from tests.accelerate.test_accelerating import image, network


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickle(protocol: int) -> None:
    model, x = network(), image()
    accelerate_(model)
    other = pickle.loads(pickle.dumps(model, protocol))
    assert [type(module) for module in other.modules()] == [type(module) for module in model.modules()]
    assert torch.equal(other(x), model(x))


class Told(nn.Conv2d):
    """One that is told something when it is made anew."""

    heard: ClassVar[list[object]] = []

    def __new__(cls, *_: Any, told: object = None, **__: Any) -> Self:
        cls.heard.append(told)
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[object, ...], dict[str, object]]:
        return (), {"told": "again"}


def test_what_an_object_is_made_with_is_kept() -> None:
    model = Told(4, 4, 1)
    accelerate_(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other) is type(model)
        assert torch.equal(other.weight, model.weight)
    assert Told.heard == [None, "again", "again"]


def test_a_class_lives_no_longer_than_its_modules() -> None:
    class Local(nn.Conv2d):
        pass

    model: Any = nn.Sequential(Local(4, 4, 1), Local(4, 4, 3, groups=4))
    accelerate_(model)
    model(torch.randn(1, 4, 5, 5))
    classes = [weakref.ref(kind) for kind in (Local, type(model[0]), type(model[1]))]
    assert all(ours_in(type(module)) is not None for module in model)
    del model, Local
    # The first takes the classes made, the second what they stood for.
    for _ in range(2):
        gc.collect()
    assert [kind() for kind in classes] == [None] * 3
