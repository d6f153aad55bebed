"""Blocks of timm: convolutions, batch norms and squeeze-excites in chains, and the sum with the input within."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from ..layers.links import is_seen
from ..layers.turns import in_turn
from .classes import Forward, Known
from .norms import is_traced

_STOCHASTIC_DEPTH = "torchvision.ops.stochastic_depth", "StochasticDepth"


def does_nothing(module: nn.Module) -> bool:
    """Whether a dropout, of whole images too, leaves everything as it is."""
    kind: Any = type(module)
    is_dropout = kind is nn.Dropout or (kind.__module__, kind.__name__) == _STOCHASTIC_DEPTH
    is_off = is_dropout and not (module.training and module.p)
    return (is_off or kind is nn.Identity) and not is_seen(module)


def _parts_of(block: nn.Module, names: Sequence[str]) -> list[nn.Module] | None:
    """Those that are there; None where one is not what the block's own forward calls."""
    # Of a part that is None torch keeps the name among modules, or as an attribute like any other.
    own = {**block.__dict__, **block._modules}
    if any(name not in own for name in names):
        return None
    return [own[name] for name in names if own[name] is not None]


def _separable_forward(kind: Any, names: Sequence[str]) -> Forward:
    def forward(self: Any, x: Any) -> Any:
        parts = None if is_traced(x) or _has_any_global_hook() else _parts_of(self, names)
        if parts is None:
            return kind.forward(self, x)
        if not self.has_skip:
            return in_turn(parts, x)
        return in_turn(parts, x, x) if does_nothing(self.drop_path) else self.drop_path(in_turn(parts, x)) + x

    return forward


def depthwise_separable_forward(kind: Any) -> Forward:
    """Of timm's DepthwiseSeparableConv."""
    return _separable_forward(kind, ("conv_s2d", "bn_s2d", "conv_dw", "bn1", "aa", "se", "conv_pw", "bn2"))


def inverted_residual_forward(kind: Any) -> Forward:
    """Of timm's InvertedResidual."""
    expansion = "conv_s2d", "bn_s2d", "conv_pw", "bn1"
    return _separable_forward(kind, (*expansion, "conv_dw", "bn2", "aa", "se", "conv_pwl", "bn3"))


def conv_norm_forward(kind: Any) -> Forward:
    """Of timm's ConvNormAct."""

    def forward(self: Any, x: Any) -> Any:
        parts = None if is_traced(x) or _has_any_global_hook() else _parts_of(self, ("conv", "bn", "aa"))
        return kind.forward(self, x) if parts is None else in_turn(parts, x)

    return forward


_EFFICIENTNET, _CHAIN = "timm.models._efficientnet_blocks", "chain of convolutions and batch norms"
BLOCKS: Known = {
    (_EFFICIENTNET, "DepthwiseSeparableConv"): (_CHAIN, depthwise_separable_forward),
    (_EFFICIENTNET, "InvertedResidual"): (_CHAIN, inverted_residual_forward),
    ("timm.layers.conv_bn_act", "ConvNormAct"): (_CHAIN, conv_norm_forward),
}
