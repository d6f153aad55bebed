"""A model captured, one pass applied to it, and what came of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from depthwise.optimize.capture import call_of, capture, frozen_copy
from depthwise.optimize.module import Optimized
from depthwise.optimize.network import Network
from tests.support.networks import Calls
from tests.support.whole import difference, randomised


def captured(model: nn.Module, *sizes: int) -> Network:
    return capture(frozen_copy(model), call_of((torch.randn(*sizes),), {}))


def calls(function: Callable[..., Any], **children: nn.Module) -> nn.Module:
    return randomised(Calls(function, **children))


def after(model: nn.Module, *passes: Callable[[Network], Network], sizes: tuple[int, ...] = (1, 6, 9, 8)) -> list[str]:
    """The operators after these passes, which leave what the model computes."""
    network = captured(model, *sizes)
    for one in passes:
        network = one(network)
    assert difference(Optimized(network, {}), model, torch.randn(3, *sizes[1:])) <= 1
    return [node.operator for node in network.graph.nodes]
