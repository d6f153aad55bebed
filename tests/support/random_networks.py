"""Small networks drawn at random out of the operators that a graph knows: branches, residuals, shared layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .whole import randomised

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu_": torch.relu_,
    "relu6": F.relu6,
    "silu": F.silu,
    "silu_": lambda x: F.silu(x, inplace=True),
    "hardswish": F.hardswish,
    "hardtanh_": lambda x: F.hardtanh_(x, 0.0, 6.0),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "gelu": F.gelu,
    "sigmoid": F.sigmoid,
}
STEPS = (
    *("conv", "depthwise", "pointwise", "norm", "activation", "residual", "add", "sub", "branches", "split", "scale"),
    *("pad", "pool", "gate", "again", "copies", "shuffle", "side"),
)


@dataclass(frozen=True)
class Step:
    kind: str
    choice: int
    name: str


class Drawn(nn.Module):
    """A network of the steps drawn; every step keeps the number of channels."""

    def __init__(self, channels: int, steps: tuple[Step, ...]) -> None:
        super().__init__()
        self.steps = steps
        self.channels = channels
        self.layers = nn.ModuleList(self._layer(step) for step in steps)

    def _layer(self, step: Step) -> nn.Module:
        c, n = self.channels, step.choice
        kernel, padding = (((1, 1), (0, 0)), ((3, 3), (1, 1)), ((5, 5), (2, 2)), ((3, 1), (1, 0)))[n % 4]
        has_bias = n % 2 == 0
        if step.kind == "conv":
            return nn.Conv2d(c, c, kernel, padding=padding, groups=2 if n % 3 == 0 else 1, bias=has_bias)
        if step.kind == "depthwise":
            return nn.Conv2d(c, c, kernel, padding=padding, groups=c, bias=has_bias, stride=1 + (n % 5 == 0))
        if step.kind in ("pointwise", "again"):
            return nn.Conv2d(c, c, 1, bias=has_bias)
        if step.kind == "norm":
            return nn.BatchNorm2d(c, affine=n % 3 != 0)
        if step.kind == "branches":
            groups = c if n % 2 else 1
            parts = [nn.Conv2d(c, c, k, padding=k // 2, groups=groups, bias=False) for k in (3, 1, 5)[: 2 + n % 2]]
            return nn.ModuleList(nn.Sequential(part, nn.BatchNorm2d(c)) for part in parts)
        if step.kind == "gate":
            return nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, 2, 1), nn.ReLU(), nn.Conv2d(2, c, 1), nn.Sigmoid()
            )
        if step.kind == "pad":
            return nn.Conv2d(c, c, 3, groups=c if n % 2 else 1)
        if step.kind == "scale":
            found = nn.Module()
            found.gamma = nn.Parameter(torch.ones(c, 1, 1))
            return found
        return nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x * 1.0
        before, side = x, x.mean((2, 3))
        for step, layer in zip(self.steps, self.layers, strict=True):
            kept = x
            x, side = self._step(step, layer, x, before, side)
            before = kept if kept.shape == x.shape and not step.name.endswith("_") else x
        return x, side

    def _step(self, step: Step, layer: nn.Module, x: Tensor, before: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
        if step.kind == "side":
            return x, torch.cat([side, x.amax((2, 3)) if step.choice % 2 else x.flatten(2).mean(2)], dim=1)
        if step.kind == "activation":
            return ACTIVATIONS[step.name](x), side
        function = FUNCTIONS.get(step.kind)
        return (layer(x) if function is None else function(layer, x, before, step.choice)), side


def _branches(layers: Any, x: Tensor, before: Tensor, n: int) -> Tensor:
    total: Tensor = x if n % 3 == 0 else layers[0](x)
    for part in layers:
        total = total + part(x)
    return total


def _split(layer: Any, x: Tensor, before: Tensor, n: int) -> Tensor:
    first, second = x.chunk(2, dim=1)
    return torch.cat([second, F.relu(first)], dim=1)


def _shuffle(layer: Any, x: Tensor, before: Tensor, n: int) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


def _fitting(x: Tensor, before: Tensor) -> Tensor:
    return before if before.shape == x.shape else x


# What each kind of step does with its layer, its input, what came before that, and the number drawn.
FUNCTIONS: dict[str, Callable[[Any, Tensor, Tensor, int], Tensor]] = {
    "residual": lambda layer, x, before, n: x + layer(x),
    "add": lambda layer, x, before, n: x + _fitting(x, before),
    "sub": lambda layer, x, before, n: layer(x) - _fitting(x, before),
    "branches": _branches,
    "split": _split,
    "scale": lambda layer, x, before, n: x * layer.gamma,
    "pad": lambda layer, x, before, n: layer(F.pad(x, (1, 1, 2, 0) if n % 3 else (1, 1, 1, 1))),
    "pool": lambda layer, x, before, n: F.max_pool2d(x, 3, stride=1 + n % 2, padding=1),
    "gate": lambda layer, x, before, n: x * layer(x),
    "again": lambda layer, x, before, n: F.relu(layer(F.relu(layer(x)))),
    "copies": lambda layer, x, before, n: F.dropout(x.contiguous(), 0.5, training=False).clone() + 0,
    "shuffle": _shuffle,
}


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network in evaluation mode with numbers that show every fold, and the size of its inputs."""
    channels = draw(st.sampled_from((4, 6, 10)))
    steps = draw(
        st.lists(
            st.builds(Step, st.sampled_from(STEPS), st.integers(0, 11), st.sampled_from(tuple(ACTIVATIONS))),
            min_size=1,
            max_size=9,
        )
    )
    size = (channels, draw(st.integers(7, 12)), draw(st.integers(7, 12)))
    torch.manual_seed(draw(st.integers(0, 3)))
    return randomised(Drawn(channels, tuple(steps))), size
