"""What gives its input goes; what may give something else stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise.optimize.passes.identities import drop_identities
from tests.support.passes import after, calls, captured


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.relu(x).clone(),
        lambda x: torch.relu(x).contiguous(),
        lambda x: torch.relu(x) + 0,
        lambda x: torch.relu(x) - 0.0,
        lambda x: torch.relu(x) * 1,
        lambda x: torch.relu(x) / 1.0,
        lambda x: F.dropout(torch.relu(x), 0.5, training=False).detach(),
        lambda x: torch.relu(x).reshape(x.shape[0], 6, *x.shape[2:]),
        lambda x: torch.relu(x).expand(-1, 6, -1, -1),
        lambda x: torch.relu(nn.Identity()(x)),
        lambda x: torch.relu(x).permute(0, 3, 1, 2).contiguous().view(len(x), -1),
    ],
)
def test_what_goes(function: Callable[[Tensor], Tensor]) -> None:
    found = after(calls(function), drop_identities)
    assert found[0] == "relu"
    assert not set(found) & {"clone", "contiguous", "add", "sub", "mul", "div", "expand"}


def test_readers_repeat_themselves() -> None:
    def forward(x: Tensor) -> Tensor:
        gate = torch.relu(x).mean((2, 3), keepdim=True)
        return x * gate.expand(-1, -1, 9, 8) - gate.expand_as(x)

    assert after(calls(forward), drop_identities) == ["relu", "mean", "mul", "sub"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.relu(x) + 1,
        lambda x: torch.relu(x) * 0,
        lambda x: torch.relu(x).flatten(1),
        lambda x: (x > 0) * 1,
        lambda x: (x > 0).int() / 1,
        lambda x: torch.relu(x).mean((2, 3), keepdim=True).expand(-1, -1, 9, 8),
        lambda x: (lambda y: y * y)(torch.relu(x).mean((2, 3), keepdim=True).expand(-1, -1, 9, 8)),
        lambda x: (lambda y: (y * x, y))(torch.relu(x).mean((2, 3), keepdim=True).expand_as(x)),
        lambda x: torch.relu(x).mean(1, keepdim=True).expand_as(x) * x.mean((2, 3), keepdim=True),
        lambda x: 0 - torch.relu(x),
        lambda x: 3 / (torch.relu(x) + 2),
    ],
)
def test_what_stays(function: Callable[[Tensor], Tensor]) -> None:
    model = calls(function)
    before = [node.operator for node in captured(model, 1, 6, 9, 8).graph.nodes]
    assert after(model, drop_identities) == before


def test_what_is_returned_twice_stays_returned_twice() -> None:
    def forward(x: Tensor) -> Any:
        y = torch.relu(x)
        return y, [y.clone(), x.clone()]

    assert after(calls(forward), drop_identities) == ["relu"]
