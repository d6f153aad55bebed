"""What depends on no input is computed once, if it stays small; what is drawn at random never is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from depthwise.optimize.passes.constants import fold_constants
from tests.support.passes import after, calls, captured


class Weighted(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight)


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda x, w: x + (w * 2).sum(), ["add"]),
        (lambda x, w: x + torch.arange(6).view(6, 1, 1).float().sin(), ["add"]),
        (lambda x, w: x + sum(part.sum() for part in w.split(2, 1)), ["add"]),
        (lambda x, w: x + torch.tensor(2.5), ["add"]),
        (lambda x, w: torch.conv2d(x, torch.softmax(w.view(4, 6, 1, 1), 1)), ["conv"]),
        (lambda x, w: torch.ones(x.shape[0], 1, 1, 1) + x, ["aten.ones.default", "add"]),
        (lambda x, w: x + torch.rand(6, 1, 1).mul(0), ["aten.rand.default", "mul", "add"]),
    ],
)
def test_what_is_folded(function: Callable[[Tensor, Tensor], Tensor], left: list[str]) -> None:
    assert after(Weighted(function).eval(), fold_constants) == left


def test_what_grows_is_not_kept() -> None:
    model = calls(lambda x, layer: layer.weight.repeat(200, 200).sum() + x, layer=nn.Linear(8, 8))
    network = fold_constants(captured(model, 1, 6, 9, 8))
    assert max(tensor.numel() for tensor in network.weights.values()) <= 64
