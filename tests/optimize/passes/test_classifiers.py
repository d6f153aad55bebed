"""Linear layers behind flattened images read their pixels in the order in which they lie."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from depthwise.optimize.passes.classifiers import order_classifiers
from tests.support.passes import after, calls

SIZES = (2, 6, 5, 4)


def linear() -> nn.Linear:
    return nn.Linear(6 * 5 * 4, 7)


def test_flattening_comes_after_a_look_at_the_pixels() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Flatten(), linear())
    assert after(model, order_classifiers, sizes=SIZES) == ["relu", "permute", "flatten", "linear"]
    by_reshape = calls(lambda x, linear: linear(x.reshape(x.shape[0], -1)), linear=linear())
    assert after(by_reshape, order_classifiers, sizes=SIZES) == ["permute", "reshape", "linear"]


def test_one_weight_for_two() -> None:
    def forward(x: Tensor, linear: nn.Module) -> tuple[Tensor, Tensor]:
        return linear(x.flatten(1)), linear(torch.relu(x).flatten(1))

    found = after(calls(forward, linear=linear()), order_classifiers, sizes=SIZES)
    assert (found.count("permute"), found.count("linear")) == (2, 2)


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (calls(lambda x, linear: (linear(y := x.flatten(1)), y), linear=linear()), SIZES),
        (calls(lambda x, linear: linear(x.flatten(2)), linear=nn.Linear(20, 3)), SIZES),
        (calls(lambda x, linear: linear(x.flatten(1)), linear=nn.Linear(6, 3)), (2, 6, 1, 1)),
        (calls(lambda x, linear: linear(x.flatten(1)), linear=nn.Linear(30, 3)), (2, 6, 5)),
    ],
    ids=["read elsewhere", "not whole", "one pixel", "a sequence"],
)
def test_what_is_left(model: nn.Module, sizes: tuple[int, ...]) -> None:
    assert "permute" not in after(model, order_classifiers, sizes=sizes)


def test_a_name_that_is_taken() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = linear()
            self.flatten_pixels = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.linear(x.flatten(1)) * self.flatten_pixels
            return out

    assert after(Named().eval(), order_classifiers, sizes=SIZES) == ["permute", "flatten", "linear", "mul"]
