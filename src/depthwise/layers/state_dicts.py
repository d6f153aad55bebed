"""State dicts that say the same as a separable layer's: an nn.Sequential's, and those with a bias in both parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..folding import BATCH_NORMS, through_pointwise
from ..modules import computes_as

if TYPE_CHECKING:
    from .separable import _SeparableConv


def adapt_(layer: _SeparableConv, state_dict: dict[str, Any], prefix: str) -> None:
    """Make a state dict that says the same as one of the layer's one with its keys.

    The caller's is left alone: torch's load_state_dict hands a copy to every module.
    """
    if f"{prefix}0.weight" in state_dict and f"{prefix}depthwise.weight" not in state_dict:
        _name_numbered(layer, state_dict, prefix)
    with torch.no_grad():
        _merge_biases(layer, state_dict, prefix)


def _name_numbered(layer: _SeparableConv, state_dict: dict[str, Any], prefix: str) -> None:
    """Rename the keys of an nn.Sequential of the layer's parts: 0.weight becomes depthwise.weight."""
    for position, (name, _) in enumerate(layer.present_parts()):
        numbered = f"{prefix}{position}."
        for key in [key for key in state_dict if key.startswith(numbered)]:
            state_dict[f"{prefix}{name}.{key.removeprefix(numbered)}"] = state_dict.pop(key)


def _merge_biases(layer: _SeparableConv, state_dict: dict[str, Any], prefix: str) -> None:
    """Make a bias that the layer leaves out part of what follows, exactly.

    That is the mean of a batch norm that follows, or for a bias of the depthwise convolution the pointwise one: P·b.
    """
    depthwise: nn.Module = layer.depthwise
    pointwise: nn.Module = layer.pointwise
    if not isinstance(depthwise, _ConvNd) or not isinstance(pointwise, _ConvNd):
        return
    first, last, weight = (f"{prefix}{key}" for key in ("depthwise.bias", "pointwise.bias", "pointwise.weight"))
    bias, matrix = state_dict.get(first), state_dict.get(weight)
    if depthwise.bias is None and _has_shape(bias, (depthwise.out_channels,)):
        nothing_between = all(map(_is_nothing, (layer.depthwise_norm, layer.depthwise_activation)))
        if _into_mean(layer, "depthwise_norm", bias, state_dict, prefix):
            del state_dict[first]
        elif nothing_between and _has_shape(matrix, pointwise.weight.shape):
            shift = through_pointwise(bias.double(), matrix.double(), pointwise.groups)
            own = state_dict.get(last)
            if pointwise.bias is None:
                merged = _into_mean(layer, "pointwise_norm", shift, state_dict, prefix)
            else:
                merged = own is None or _has_shape(own, (pointwise.out_channels,))
                if merged:
                    state_dict[last] = shift.to(bias.dtype) if own is None else (own.double() + shift).to(own.dtype)
            if merged:
                del state_dict[first]
    own = state_dict.get(last)
    if pointwise.bias is not None or not _has_shape(own, (pointwise.out_channels,)):
        return
    if _into_mean(layer, "pointwise_norm", own, state_dict, prefix):
        del state_dict[last]


def _into_mean(layer: _SeparableConv, name: str, bias: Tensor, state_dict: dict[str, Any], prefix: str) -> bool:
    """Take `bias`, which comes before the batch norm `name`, from its mean; whether there is one."""
    norm, key = getattr(layer, name), f"{prefix}{name}.running_mean"
    mean = state_dict.get(key)
    if norm is None or computes_as(type(norm), *BATCH_NORMS[layer.rank]) is None or not _has_shape(mean, bias.shape):
        return False
    state_dict[key] = (mean.double() - bias.double()).to(mean.dtype)
    return True


def _has_shape(value: object, shape: Sequence[int]) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.shape == tuple(shape)


def _is_nothing(module: nn.Module | None) -> bool:
    return module is None or computes_as(type(module), nn.Identity) is not None
