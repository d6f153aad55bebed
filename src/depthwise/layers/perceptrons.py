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
from .turns import is_seen

_RANK = 2
_TIMM_GELU = "timm.layers.activations", "GELU"


def linear(layer: nn.Module, x: Any) -> Any:
    """What the layer makes of `x`, images whose channels come last: a pointwise convolution, where it is recorded."""
    if _is_whole(layer, x) or type(layer) is not nn.Linear or x.dim() != _RANK + 2:
        return layer(x)
    weight, bias = weight_and_bias(layer)
    is_recorded = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if not is_recorded or refusal(x) is not None or not x.is_contiguous() or x.numel() <= x.shape[-1]:
        return layer(x)
    out = pointwise_conv(_RANK, x.movedim(-1, 1), weight[..., None, None], bias).movedim(1, -1)
    # Where an axis has size 1, its stride may have passed for that of contiguous images: a dropout draws in the order
    # in which numbers lie.
    return out.contiguous()


def activated(module: nn.Module, x: Any) -> Any:
    """What a module makes of `x`: of a GELU a pass of ours, forward and backward."""
    kind = type(module)
    is_gelu = activation_name(module) == "gelu" or (kind.__module__, kind.__name__) == _TIMM_GELU
    out = activation(x, ("gelu", 0.0)) if is_gelu and not _is_whole(module, x) else None
    return module(x) if out is None else out


def _is_whole(module: nn.Module, x: Any) -> bool:
    """Whether something is to see the module's call."""
    return torch.compiler.is_compiling() or not isinstance(x, Tensor) or _has_any_global_hook() or is_seen(module)
