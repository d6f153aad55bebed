"""State dicts that say the same as a separable layer's: an nn.Sequential's, those with names of other libraries, and
those with a bias in both parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..folding import BATCH_NORMS, through_pointwise
from ..modules import computes_as

if TYPE_CHECKING:
    from .separable import _SeparableConv


# What libraries call the parts: timm and its Xception, mmcv, Cadene's Xception and DeepLab, and what people write.
_DEPTHWISE = ("conv_dw", "dw", "depthwise_conv.conv", "depthwise_conv", "dw_conv", "dwconv", "conv1", "depth_conv")
_NORM = ("bn_dw", "dw_bn", "depthwise_conv.bn", "bn1", "bn_depth", "depthwise_bn", "bn")
_POINTWISE = ("conv_pw", "pw", "pointwise_conv.conv", "pointwise_conv", "pw_conv", "pwconv", "pointwise", "point_conv")
_LAST_NORM = ("bn_pw", "pw_bn", "pointwise_conv.bn", "bn2", "bn_point", "pointwise_bn", "bn")
_NAMES = {
    "depthwise": _DEPTHWISE,
    "depthwise_norm": _NORM,
    "pointwise": _POINTWISE,
    "pointwise_norm": _LAST_NORM,
}


class Pointed(str):
    """A missing key that says, where torch writes it into an error, what to look at."""

    pointer: str

    def __new__(cls, key: str, pointer: str) -> Self:
        made = super().__new__(cls, key)
        made.pointer = pointer
        return made

    def __format__(self, spec: str) -> str:
        return f"{super().__format__(spec)} ({self.pointer})"


def adapt_(layer: _SeparableConv, state_dict: dict[str, Any], prefix: str) -> None:
    """Make a state dict that says the same as one of the layer's one with its keys.

    The caller's is left alone: torch's load_state_dict hands a copy to every module.
    """
    if f"{prefix}depthwise.weight" not in state_dict:
        if f"{prefix}0.weight" in state_dict:
            _name_numbered(layer, state_dict, prefix)
        else:
            _name_foreign(layer, state_dict, prefix)
    with torch.no_grad():
        _merge_biases(layer, state_dict, prefix)


def pointer(layer: _SeparableConv, state_dict: dict[str, Any], prefix: str) -> str | None:
    """What to look at where a state dict has keys of this layer's place, but no depthwise weight."""
    found = [key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)]
    name = type(layer).__name__
    if f"{prefix}depthwise.weight" in state_dict or not found:
        return None
    dense = state_dict.get(f"{prefix}weight")
    if isinstance(dense, Tensor) and dense.dim() == layer.rank + 2:
        return f"weight, {tuple(dense.shape)}, is a dense convolution's: load that, then {name}.from_dense(conv) it"
    convolutions = [key for key in found if _looks_like_a_kernel(state_dict[prefix + key], layer.rank)]
    shown = ", ".join(f"{key} {tuple(state_dict[prefix + key].shape)}" for key in convolutions[:4]) or "none"
    return f"a {name} has depthwise.weight and pointwise.weight; what looks like a convolution's weight here: {shown}"


def _looks_like_a_kernel(value: object, rank: int) -> bool:
    return isinstance(value, Tensor) and value.dim() == rank + 2


def _name_foreign(layer: _SeparableConv, state_dict: dict[str, Any], prefix: str) -> None:
    """Rename keys that other libraries use, where both convolutions are found in the layer's shapes."""
    renamed: dict[str, str] = {}
    for part, names in _NAMES.items():
        module = getattr(layer, part)
        if module is None:
            continue
        own: dict[str, Tensor] = module.state_dict()
        fitting = (
            name for name in names if name not in renamed.values() and _fits(own, state_dict, f"{prefix}{name}.")
        )
        name = next(fitting, None)
        if name is not None:
            renamed[part] = name
    if not {"depthwise", "pointwise"} <= renamed.keys():
        return
    for part, name in renamed.items():
        for key in [key for key in state_dict if key.startswith(f"{prefix}{name}.")]:
            if part != name and key.count(".") == f"{prefix}{name}.".count("."):
                state_dict[f"{prefix}{part}.{key.removeprefix(f'{prefix}{name}.')}"] = state_dict.pop(key)


def _fits(own: dict[str, Tensor], state_dict: dict[str, Any], prefix: str) -> bool:
    weight = own.get("weight")
    return weight is not None and _has_shape(state_dict.get(f"{prefix}weight"), weight.shape)


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


def point(layer: nn.Module, keys: Any) -> None:
    """Let the missing depthwise weight of a layer that was loaded say what to look at."""
    pointed, layer._pointer = layer._pointer, None  # type: ignore[assignment]
    if isinstance(pointed, str):
        keys.missing_keys[:] = [
            Pointed(key, pointed) if key.endswith("depthwise.weight") else key for key in keys.missing_keys
        ]
