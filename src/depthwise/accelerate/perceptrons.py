"""Multilayer perceptrons of timm: of images on pointwise kernels of ours, and GELU alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ..elementwise import activation
from ..functional import pointwise_conv
from ..layers.activations import activation_name
from ..layers.depthwise import weight_and_bias
from ..layers.turns import is_seen
from ..refusals import refusal
from .classes import Forward, Kind, MakeForward
from .norms import is_traced

_RANK = 2
_TIMM_GELU = "timm.layers.activations", "GELU"


def perceptron_forward(kind: Any) -> Forward:
    """Of timm's Mlp: a linear layer, an activation, `drop1`, `norm`, a linear layer, `drop2`."""

    def forward(self: Any, x: Any) -> Any:
        if is_traced(x) or _has_any_global_hook():
            return kind.forward(self, x)
        x = self.norm(self.drop1(_activated(self.act, _linear(self.fc1, x))))
        return self.drop2(_linear(self.fc2, x))

    return forward


def _linear(layer: nn.Module, x: Any) -> Any:
    """What the layer makes of `x`, images whose channels come last: a pointwise convolution, where it is recorded."""
    if type(layer) is not nn.Linear or is_seen(layer) or not isinstance(x, Tensor) or x.dim() != _RANK + 2:
        return layer(x)
    weight, bias = weight_and_bias(layer)
    is_recorded = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if not is_recorded or refusal(x) is not None or not x.is_contiguous() or x.numel() <= x.shape[-1]:
        return layer(x)
    out = pointwise_conv(_RANK, x.movedim(-1, 1), weight[..., None, None], bias).movedim(1, -1)
    # Where an axis has size 1, its stride may have passed for that of contiguous images: a dropout draws in the order
    # in which numbers lie.
    return out.contiguous()


def _activated(module: nn.Module, x: Any) -> Any:
    kind = type(module)
    is_gelu = activation_name(module) == "gelu" or (kind.__module__, kind.__name__) == _TIMM_GELU
    out = activation(x, ("gelu", 0.0)) if is_gelu and not is_seen(module) else None
    return module(x) if out is None else out


def is_perceptron(kind: Kind) -> bool:
    return (kind.__module__, kind.__name__) == ("timm.layers.mlp", "Mlp")


def multilayer_forward(module: nn.Module) -> tuple[str, MakeForward] | str:
    """What a multilayer perceptron becomes, or why it stays as it is."""
    if "forward" in module.__dict__:
        return "has a forward of its own"
    return "multilayer perceptron", perceptron_forward
