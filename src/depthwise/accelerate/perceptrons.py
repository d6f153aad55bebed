"""Multilayer perceptrons of timm: of images on pointwise kernels of ours, and GELU alone."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from ..layers.perceptrons import activated, linear
from .classes import Forward, Kind, MakeForward
from .norms import is_traced


def perceptron_forward(kind: Any) -> Forward:
    """Of timm's Mlp: a linear layer, an activation, `drop1`, `norm`, a linear layer, `drop2`."""

    def forward(self: Any, x: Any) -> Any:
        if is_traced(x) or _has_any_global_hook():
            return kind.forward(self, x)
        x = self.norm(self.drop1(activated(self.act, linear(self.fc1, x))))
        return self.drop2(linear(self.fc2, x))

    return forward


def is_perceptron(kind: Kind) -> bool:
    return (kind.__module__, kind.__name__) == ("timm.layers.mlp", "Mlp")


def multilayer_forward(module: nn.Module) -> tuple[str, MakeForward] | str:
    """What a multilayer perceptron becomes, or why it stays as it is."""
    if "forward" in module.__dict__:
        return "has a forward of its own"
    return "multilayer perceptron", perceptron_forward
