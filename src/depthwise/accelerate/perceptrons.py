"""Multilayer perceptrons of timm: of images on pointwise kernels, GELU alone; blocks of ConvNeXt, torchvision's too."""

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
_PERMUTE = "torchvision.ops.misc", "Permute"


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


def torchvision_block_forward(kind: Any) -> Forward:
    """Of torchvision's CNBlock, whose layers are a sequence; scale and sum as in timm's."""

    def forward(self: Any, x: Any) -> Any:
        layers = None if is_traced(x) or _has_any_global_hook() else _layers_of(self.block)
        if layers is None or self.layer_scale.shape[1:] != (1, 1):
            return kind.forward(self, x)
        conv, permute, norm, inner, act, outer = layers
        hidden, scale = activated(act, linear(inner, norm(permute(conv(x))))), self.layer_scale.flatten()
        if does_nothing(self.stochastic_depth):
            return scaled(outer, hidden, scale, x)
        return self.stochastic_depth(scaled(outer, hidden, scale, None)) + x

    return forward


def _layers_of(block: Any) -> list[nn.Module] | None:
    """Those of a CNBlock, up to the second linear one; None where they are others, or something sees the whole."""
    if plain_class(block) is not nn.Sequential or is_seen(block) or len(block) != 7:
        return None
    *layers, back = block
    there = layers[1]
    is_usual = _is_a(there, _PERMUTE) and _is_a(back, _PERMUTE) and not is_seen(back)
    return layers if is_usual and there.dims == [0, 2, 3, 1] and back.dims == [0, 3, 1, 2] else None


def _hidden(mlp: Any, x: Any) -> Any:
    return mlp.norm(mlp.drop1(activated(mlp.act, linear(mlp.fc1, x))))


def _is_plain(mlp: nn.Module) -> bool:
    """Whether nothing but this block has a say in what a perceptron computes."""
    return _is_a(mlp, _PERCEPTRON) and not is_seen(mlp)


def _is_a(module: nn.Module, name: tuple[str, str]) -> bool:
    kind = plain_class(module)
    return (kind.__module__, kind.__name__) == name


PERCEPTRONS: Known = {
    _PERCEPTRON: ("multilayer perceptron", perceptron_forward),
    ("timm.models.convnext", "ConvNeXtBlock"): ("ConvNeXt block", block_forward),
    ("torchvision.models.convnext", "CNBlock"): ("ConvNeXt block", torchvision_block_forward),
}
