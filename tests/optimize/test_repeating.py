"""A model run again at other sizes: what it says is what a second export would, or it leaves that to the export."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise import DepthwiseError
from depthwise.optimize import capture as capturing
from depthwise.optimize.capture import GROWTH, LARGE, NONE, SMALL, call_of, frozen_copy
from depthwise.optimize.reading import Reading, read
from tests.support.networks import Calls
from tests.support.whole import real_model

repeating = importlib.import_module("depthwise.optimize.repeating")


def both(model: nn.Module, *args: Any) -> tuple[Reading, Reading | str | None, Reading | str]:
    """The model read at the smaller inputs; run again at the larger ones; and exported there."""
    call, copy = call_of(args, {}), frozen_copy(model)
    program = capturing._exported(copy, call, SMALL, NONE)
    assert not isinstance(program, str), program
    one = read(program, call.takes)
    return one, capturing._repeated(copy, call, program, LARGE, GROWTH), capturing._attempt(copy, call, LARGE, GROWTH)


def of(function: Any, *sizes: int, **children: nn.Module) -> tuple[Reading, Reading | str | None, Reading | str]:
    return both(Calls(function, **children), torch.randn(*(sizes or (1, 4, 32, 32))))


def check_same(found: Reading | str | None, exported: Reading | str) -> None:
    assert isinstance(found, Reading)
    assert isinstance(exported, Reading)
    assert found.nodes == exported.nodes
    assert found.gives == exported.gives
    assert (found.shapes, found.dtypes, found.last) == (exported.shapes, exported.dtypes, exported.last)
    assert found.weights.keys() == exported.weights.keys()


def written(x: Tensor) -> Tensor:
    y = F.relu_(x + 1)
    z = y.add_(2).mul_(3)
    return y.unsqueeze(0).flatten(0, 1) + z


SAME: dict[str, Any] = {
    "flattened": lambda x: torch.flatten(F.avg_pool2d(x, 2), 1).mean(1),
    "a part": lambda x: x[:, 1:3, ::2, :-1] + x[:, :2, ::2, 1:],
    "pieces": lambda x: torch.cat(x.split(2, 1)[::-1], 1) + torch.stack(x.unbind(1), 1),
    "in place": written,
    "several": lambda x: {"a": (x * 2, [x + 1]), "b": x.mean((2, 3), keepdim=True).expand_as(x)},
    "resized": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "a number": lambda x: (x * 2, 7, "words", None),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
}
OTHER: dict[str, Any] = {
    "a batch": lambda x: x.reshape(x.shape[0], -1),
    "a size": lambda x: F.interpolate(F.avg_pool2d(x, 2), size=x.shape[2:]),
    # Of 32 columns this is all of them, and torch leaves the slice out.
    "a part that is all": lambda x: x[:, :, :, :32] * 2,
    "operators": lambda x: torch.relu(x) if x.shape[0] > 3 else torch.sigmoid(x),
    "more operators": lambda x: torch.relu(x) * 2 if x.shape[0] > 3 else torch.relu(x),
    "fewer operators": lambda x: torch.relu(x) if x.shape[0] > 3 else torch.relu(x) * 2,
    "operands": lambda x: (lambda y: y - x if x.shape[2] > 40 else x - y)(torch.relu(x)),
    "a factor": lambda x: x * (2 if x.shape[2] > 40 else 3),
    "a constant": lambda x: x * torch.tensor(float(x.shape[2])),
    "what it returns": lambda x: (x * 2, x.shape[2]),
    "in which order it returns": lambda x: (lambda y: (x + y, y) if x.shape[2] > 40 else (y, x + y))(x * 2),
    "under which name": lambda x: {"a" if x.shape[2] > 40 else "b": x * 2},
}


@pytest.mark.parametrize("function", SAME.values(), ids=SAME.keys())
def test_what_an_export_would_say(function: Any) -> None:
    one, found, exported = of(function)
    check_same(found, exported)
    assert isinstance(found, Reading)
    assert found.nodes == one.nodes
    assert found.shapes != one.shapes


@pytest.mark.parametrize("function", OTHER.values(), ids=OTHER.keys())
def test_what_is_left_to_an_export(function: Any) -> None:
    one, found, exported = of(function)
    assert found is None
    # A constant has another number there, and the same name.
    assert isinstance(exported, str) or one.weights or (one.nodes, one.gives) != (exported.nodes, exported.gives)


def test_what_the_model_raises() -> None:
    _, found, exported = of(lambda x: x * 2 if x.shape[2] < 40 else 1 / 0)
    assert (found, exported) == ("ZeroDivisionError: division by zero",) * 2


def test_torch_does_not_log_what_the_model_raises(caplog: pytest.LogCaptureFixture) -> None:
    _, found, exported = of(lambda x, linear: linear(x), linear=nn.Linear(32, 8))
    assert isinstance(found, str)
    assert isinstance(exported, str)
    assert not [record for record in caplog.records if record.name == "torch._subclasses.fake_tensor"]


def test_how_many_pieces_there_are_follows_the_sizes() -> None:
    one, found, exported = of(lambda x: x.chunk(3, 2)[0])
    check_same(found, exported)
    assert isinstance(found, Reading)
    assert found.nodes != one.nodes


@pytest.mark.parametrize("name", ["mobilenetv2_100", "ghostnet_100", "efficientnet_b0"])
def test_networks_are_not_exported_twice(name: str) -> None:
    _, found, exported = both(real_model(name), torch.randn(1, 3, 64, 64))
    check_same(found, exported)


def test_regions_without_gradients_are_left_to_an_export() -> None:
    def forward(x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return x * 2

    assert of(forward)[1] is None


def test_a_region_in_lower_precision_is_left_to_an_export() -> None:
    def forward(x: Tensor) -> Tensor:
        with torch.autocast("cpu") if x.shape[2] > 40 else nullcontext():
            return x @ x

    with pytest.raises(DepthwiseError, match="needs wrap_with_autocast"):
        of(forward)


def test_tied_weights_and_buffers() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.BatchNorm1d(4), shared, nn.Linear(4, 4))
    model[3].weight = shared.weight
    _, found, exported = both(model, torch.randn(1, 4))
    check_same(found, exported)


def test_the_model_and_the_program_stay_as_they_were() -> None:
    class Counts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            self.last = x.shape
            return x * 2

    call, copy = call_of((torch.randn(1, 4, 8, 8),), {}), frozen_copy(Counts())
    program = capturing._exported(copy, call, SMALL, NONE)
    assert not isinstance(program, str)
    before = read(program, call.takes)
    copy.__dict__.pop("last", None)
    assert isinstance(capturing._repeated(copy, call, program, LARGE, GROWTH), Reading)
    assert not hasattr(copy, "last")
    assert read(program, call.takes).shapes == before.shapes


def test_every_argument_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeating, "_is_same", lambda *_: True)
    assert of(OTHER["a batch"])[1] is not None


def test_calls_are_counted_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    called = torch.export.export
    exports: list[Any] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        exports.append(args)
        return called(*args, **kwargs)

    monkeypatch.setattr(torch.export, "export", counted)
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
    capturing.capture(frozen_copy(model), call_of((torch.zeros(1, 4, 9, 9),), {}))
    assert len(exports) == 1
    capturing.capture(frozen_copy(Calls(OTHER["a size"])), call_of((torch.zeros(1, 4, 9, 9),), {}))
    assert len(exports) == 4
