"""Layers of a form in place of dense convolutions, weights not yet set."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..blocks import BlueprintConv1d, BlueprintConv2d, BlueprintConv3d
from ..layers import SeparableConv1d, SeparableConv2d, SeparableConv3d
from ..layers.conversion import arguments_of
from .options import Form

SEPARABLE: Mapping[int, Any] = {1: SeparableConv1d, 2: SeparableConv2d, 3: SeparableConv3d}
BLUEPRINT: Mapping[int, Any] = {1: BlueprintConv1d, 2: BlueprintConv2d, 3: BlueprintConv3d}
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def built(conv: _ConvNd, form: Form) -> nn.Module:
    """A layer with the shape of `conv` in another form, its dtype, device, layout and mode the same.

    >>> built(nn.Conv2d(8, 16, 3, bias=False), Form("depthwise first", 2, 0)).depthwise
    DepthwiseConv2d(8, kernel_size=(3, 3), bias=False, depth_multiplier=2)
    """
    rank = len(conv.kernel_size)
    arguments = arguments_of(conv)
    layer: nn.Module
    if form.order == "pointwise first":
        layer = BLUEPRINT[rank](*arguments)
    else:
        layer = SEPARABLE[rank](*arguments, depth_multiplier=form.multiplier)
    if rank in CHANNELS_LAST and prod(conv.kernel_size) > 1:
        memory_format = CHANNELS_LAST[rank]
        if conv.weight.is_contiguous(memory_format=memory_format) and not conv.weight.is_contiguous():
            # torch's annotation of Module.to leaves memory_format out.
            layer.to(memory_format=memory_format)  # type: ignore[call-overload]
    return layer.train(conv.training).requires_grad_(conv.weight.requires_grad)


def replace_(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` where the submodule `name` stands, under every name that this one goes by."""
    old = model.get_submodule(name)
    for parent in list(model.modules()):
        for child, module in list(parent._modules.items()):
            if module is old:
                parent._modules[child] = layer
