"""Linear layers of images whose channels come last, as pointwise convolutions, and the activation between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ..elementwise import activation
from ..functional import pointwise_conv
from ..refusals import refusal
from .activations import activation_name
from .depthwise import weight_and_bias
from .links import is_seen

_RANK = 2
_TIMM_GELU = "timm.layers.activations", "GELU"


def linear(layer: nn.Module, x: Any) -> Any:
    """What the layer makes of `x`, images whose channels come last: a pointwise convolution, where it is recorded."""
    if not _is_ours(layer, x):
        return layer(x)
    weight, bias = weight_and_bias(layer)
    if not _is_recorded(x, weight):
        return layer(x)
    out = pointwise_conv(_RANK, x.movedim(-1, 1), weight[..., None, None], bias).movedim(1, -1)
    # Where an axis has size 1, its stride may have passed for that of contiguous images: a dropout draws in the order
    # in which numbers lie.
    return out.contiguous()


def scaled(layer: nn.Module, x: Any, scale: Tensor, images: Tensor | None) -> Any:
    """What the layer makes of `x`, scaled, added to images: no pass of its own for scale and sum, or their gradients.

    The scale is multiplied into the layer's weights, whose gradient gives the scale's.

    x:      (batch, height, width, inputs)
    scale:  (outputs,)
    images: (batch, outputs, height, width), or None for nothing to add
    """
    if _is_ours(layer, x) and (images is None or _can_be_added(images, x, len(scale))):
        weight, bias = weight_and_bias(layer)
        weight, bias = scale[:, None] * weight, None if bias is None else scale * bias
        if _is_recorded(x, weight):
            return pointwise_conv(_RANK, x.movedim(-1, 1), weight[..., None, None], bias, residual=images)
    y = (scale * layer(x)).permute(0, 3, 1, 2)
    return y if images is None else images + y


def _is_ours(layer: nn.Module, x: Any) -> bool:
    return not _is_whole(layer, x) and type(layer) is nn.Linear and x.dim() == _RANK + 2


def _is_recorded(x: Tensor, weight: Tensor) -> bool:
    """Whether autograd records a product of such tensors, and it is one for a pointwise convolution."""
    is_recorded = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return is_recorded and refusal(x) is None and x.is_contiguous() and x.numel() > x.shape[-1]


def _can_be_added(images: Any, x: Tensor, channels: int) -> bool:
    batch, *size, _ = x.shape
    return isinstance(images, Tensor) and images.shape == (batch, channels, *size) and refusal(images) is None


def activated(module: nn.Module, x: Any) -> Any:
    """What a module makes of `x`: of a GELU a pass of ours, forward and backward."""
    kind = type(module)
    is_gelu = activation_name(module) == "gelu" or (kind.__module__, kind.__name__) == _TIMM_GELU
    out = activation(x, ("gelu", 0.0)) if is_gelu and not _is_whole(module, x) else None
    return module(x) if out is None else out


def _is_whole(module: nn.Module, x: Any) -> bool:
    """Whether something is to see the module's call."""
    return torch.compiler.is_compiling() or not isinstance(x, Tensor) or _has_any_global_hook() or is_seen(module)
