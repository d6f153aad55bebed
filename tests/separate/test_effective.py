"""Convolutions of classes of their own, read as torch's: what is taken, and what is left."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from importlib import import_module
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from depthwise import SeparableConv2d, separate_, separated_like
from depthwise.separate import effective
from tests.support.dense import images
from tests.support.networks import timm_model


def timm_layer(name: str, *arguments: Any, **options: Any) -> Any:
    timm_model("resnet18")  # which brings the operators that timm asks for
    return getattr(import_module("timm.layers"), name)(*arguments, **options)


READ: dict[str, Callable[[], Any]] = {
    "weight-standardised": lambda: timm_layer("StdConv2d", 8, 16, 3, bias=True),
    "strided": lambda: timm_layer("StdConv2d", 8, 16, 3, stride=2),
    "scaled": lambda: timm_layer("ScaledStdConv2d", 8, 16, 3, dilation=2, padding=2),
    "same": lambda: timm_layer("Conv2dSame", 8, 16, 3, padding=0),
    "standardised, same": lambda: timm_layer("StdConv2dSame", 8, 16, 5),
    "groups": lambda: timm_layer("StdConv2d", 8, 16, 3, groups=2),
}


class Switched(nn.Conv2d):
    """A kernel that hangs on the input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * x.mean(), self.bias)


class Bent(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Cropped(nn.Conv2d):
    """Torch's convolution on some sizes."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.shape[2] < 13 else x[:, :, :12])


class Twice(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + super().forward(x)


class Raising(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("an input of its own")


@pytest.mark.parametrize("kind", READ)
def test_what_it_computes_is_read(kind: str) -> None:
    conv = READ[kind]().eval()
    plain = effective.effective(conv)
    assert type(plain) is nn.Conv2d
    x = torch.randn(3, 8, 17, 20)
    torch.testing.assert_close(plain(x), conv(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        *(lambda kind=kind: kind(8, 16, 3) for kind in (Switched, Bent, Cropped, Twice, Raising)),
        # Torch's layer pads no strided "same".
        lambda: timm_layer("Conv2dSame", 8, 16, 3, stride=2),
    ],
)
def test_what_no_layer_of_torchs_computes_is_left(make: Callable[[], nn.Conv2d]) -> None:
    assert effective.effective(make().eval()) is None


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (timm_layer("StdConv2d", 8, 16, 3), nn.ReLU(), timm_layer("StdConv2dSame", 16, 16, 3), nn.ReLU())
    return nn.Sequential(*layers, timm_layer("ScaledStdConv2d", 16, 16, 3), nn.Conv2d(16, 4, 1)).eval()


@torch.no_grad()
def test_such_layers_are_separated_and_load_again() -> None:
    model, x = network(), images(48, channels=8)
    dense, expected = deepcopy(model), model(x)
    report = separate_(model, x, budget=0.4, where=["0", "2"])
    assert [layer.name for layer in report.separated] == ["0", "2"]
    assert isinstance(model[2], SeparableConv2d)
    assert type(model[4]).__name__ == "ScaledStdConv2d"
    assert report.output_error is not None
    error = float((model(x) - expected).norm() / expected.norm())
    # Of random weights much is lost; what is said is what came, of the layers as they are given.
    assert report.output_error == pytest.approx(error, rel=1e-3)
    again = separated_like(dense, report)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.eval()(x), model(x))


def test_what_shares_or_is_watched_or_parametrised_stays() -> None:
    model = network()
    model[2].weight = nn.Parameter(torch.randn(16, 16, 3, 3))
    model[4].weight = model[2].weight
    model[0].register_forward_hook(lambda *_: None)
    parametrizations.weight_norm(model[5])
    assert effective.as_plain(model) is model


class Counting(nn.Conv2d):
    """It writes down how often it was called."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.bias = None
        return F.conv2d(x, self.weight)


def test_the_users_layer_is_as_it_was() -> None:
    conv = Counting(4, 6, 3)
    effective.effective(conv)
    assert conv.calls == 0
    assert conv.bias is not None
