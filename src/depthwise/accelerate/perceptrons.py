"""Multilayer perceptrons of timm: of images on pointwise kernels of ours, GELU alone; and ConvNeXt's blocks."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from ..layers.links import is_seen
from ..layers.perceptrons import activated, linear, scaled
from .blocks import does_nothing
from .classes import Forward, Known, plain_class
from .norms import is_traced

_PERCEPTRON = "timm.layers.mlp", "Mlp"


def perceptron_forward(kind: Any) -> Forward:
    """Of timm's Mlp: a linear layer, an activation, `drop1`, `norm`, a linear layer, `drop2`."""

    def forward(self: Any, x: Any) -> Any:
        if is_traced(x) or _has_any_global_hook():
            return kind.forward(self, x)
        return self.drop2(linear(self.fc2, _hidden(self, x)))

    return forward


def block_forward(kind: Any) -> Forward:
    """Of timm's ConvNeXtBlock: the scale of its result, and the sum with its input, within the last linear layer."""

    def forward(self: Any, x: Any) -> Any:
        mlp = self.mlp
        is_whole = is_traced(x) or _has_any_global_hook() or self.use_conv_mlp or self.gamma is None
        if is_whole or not _is_plain(mlp) or not does_nothing(mlp.drop2):
            return kind.forward(self, x)
        hidden = _hidden(mlp, self.norm(self.conv_dw(x).permute(0, 2, 3, 1)))
        if does_nothing(self.drop_path):
            return scaled(mlp.fc2, hidden, self.gamma, self.shortcut(x))
        return self.drop_path(scaled(mlp.fc2, hidden, self.gamma, None)) + self.shortcut(x)

    return forward


def _hidden(mlp: Any, x: Any) -> Any:
    return mlp.norm(mlp.drop1(activated(mlp.act, linear(mlp.fc1, x))))


def _is_plain(mlp: nn.Module) -> bool:
    """Whether nothing but this block has a say in what a perceptron computes."""
    kind = plain_class(mlp)
    return (kind.__module__, kind.__name__) == _PERCEPTRON and not is_seen(mlp)


PERCEPTRONS: Known = {
    _PERCEPTRON: ("multilayer perceptron", perceptron_forward),
    ("timm.models.convnext", "ConvNeXtBlock"): ("ConvNeXt block", block_forward),
}
