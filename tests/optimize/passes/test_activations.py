"""Sums and activations go into the convolution before them, in that order and once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise.optimize.network import Network
from depthwise.optimize.passes.activations import fuse_activations
from tests.support.passes import after, calls, captured


def conv_of(network: Network) -> tuple[object, object]:
    node = fuse_activations(network).graph.nodes[-1]
    return node["residual"], node["activation"]


@pytest.mark.parametrize(
    ("function", "activation"),
    [
        (torch.relu, ("relu", 0.0)),
        (F.relu6, ("relu6", 0.0)),
        (nn.ReLU6(), ("relu6", 0.0)),
        (F.silu, ("silu", 0.0)),
        (F.hardswish, ("hardswish", 0.0)),
        (F.hardsigmoid, ("hardsigmoid", 0.0)),
        (torch.sigmoid, ("sigmoid", 0.0)),
        (F.gelu, ("gelu", 0.0)),
        (lambda x: F.leaky_relu(x, 0.3), ("leaky_relu", 0.3)),
        (lambda x: F.elu(x, 0.7), ("elu", 0.7)),
    ],
)
def test_every_activation(function: Callable[[Tensor], Tensor], activation: object) -> None:
    model = calls(lambda x, conv: function(conv(x)), conv=nn.Conv2d(6, 6, 1))
    assert after(model, fuse_activations) == ["conv"]
    assert conv_of(captured(model, 1, 6, 9, 8)) == (None, activation)


@pytest.mark.parametrize(
    "function", [lambda x: F.hardtanh(x, -1, 1), lambda x: F.gelu(x, approximate="tanh"), F.selu, torch.tanh]
)
def test_what_is_no_activation_of_a_kernel_stays(function: Callable[[Tensor], Tensor]) -> None:
    assert len(after(calls(lambda x, conv: function(conv(x)), conv=nn.Conv2d(6, 6, 1)), fuse_activations)) == 2


@pytest.mark.parametrize(
    ("function", "operators"),
    [
        (lambda x, conv: torch.relu(conv(x) + x), ["conv"]),
        (lambda x, conv: torch.relu(x + conv(x)), ["conv"]),
        (lambda x, conv: torch.relu(conv(x)) + x, ["conv", "add"]),
        (lambda x, conv: conv(x) + x + x, ["conv", "add"]),
        (lambda x, conv: torch.relu(torch.sigmoid(conv(x))), ["conv", "relu"]),
        (lambda x, conv: torch.add(conv(x), x, alpha=2), ["conv", "add"]),
        (lambda x, conv: conv(x) + x.mean((2, 3), keepdim=True), ["mean", "conv", "add"]),
        (lambda x, conv: conv(x)[:1] + x * 2, None),
        (lambda x, conv: conv(x) + 1.5, ["conv", "add"]),
        (lambda x, conv: conv(x) + (x > 0), ["aten.gt.Scalar", "conv", "add"]),
        (lambda x, conv: (y := conv(x)) + y, ["conv", "add"]),
        (lambda x, conv: ((y := conv(x)) + x, y), ["conv", "add"]),
        (lambda x, conv: (torch.relu(y := conv(x)), y), ["conv", "relu"]),
    ],
)
def test_sums(function: Callable[[Tensor, nn.Module], object], operators: list[str] | None) -> None:
    found = after(calls(function, conv=nn.Conv2d(6, 6, 3, padding=1)), fuse_activations)
    assert operators is None or sorted(found) == sorted(operators)


def test_of_two_convolutions_the_later_takes_the_sum() -> None:
    parts = {"one": nn.Conv2d(6, 6, 1), "two": nn.Conv2d(6, 6, 3, padding=1)}
    model = calls(lambda x, one, two: torch.relu(one(x) + two(x * 2)), **parts)
    assert after(model, fuse_activations) == ["conv", "mul", "conv"]
    residual, activation = conv_of(captured(model, 1, 6, 9, 8))
    assert (str(residual), activation) == ("conv2d", ("relu", 0.0))
