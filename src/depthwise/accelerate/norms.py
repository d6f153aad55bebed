"""Batch norms, and sequences with batch norms in them, in one pass each with the activation behind."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.fx import Proxy
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.module import _has_any_global_hook

from ..layers.activations import UNKNOWN, activation_name
from ..layers.links import activation_within, is_batch_norm
from ..layers.turns import in_turn, normalized
from ..modules import computes_as
from .classes import Forward, Kind, MakeForward, plain_class
from .convolutions import convolution_forward


def norm_forward(kind: Any) -> Forward:
    def forward(self: nn.Module, input: Any) -> Any:  # noqa: A002  as torch's norms call it
        out = None if is_traced(input) else normalized(self, input)
        return kind.forward(self, input) if out is None else out

    return forward


def norm_activation_forward(kind: Any) -> Forward:
    """Of timm's BatchNormAct2d: a batch norm, `drop`, then `act`."""

    def forward(self: Any, x: Any) -> Any:
        known = UNKNOWN if is_traced(x) or _has_any_global_hook() else activation_within(self)
        out = None if known is UNKNOWN else normalized(self, x, known)
        return kind.forward(self, x) if out is None else out

    return forward


def sequence_forward(kind: Any) -> Forward:
    def forward(self: nn.Sequential, input: Any) -> Any:  # noqa: A002  as nn.Sequential calls it
        return kind.forward(self, input) if is_traced(input) else in_turn(self, input)

    return forward


def is_traced(x: Any) -> bool:
    return torch.compiler.is_compiling() or type(x) is Proxy


def sequential_forward(module: nn.Sequential, kind: Kind) -> tuple[str, MakeForward] | str:
    """What a sequence becomes, or "" where no batch norm stands after a convolution of ours or before an activation."""
    if computes_as(kind, nn.Sequential) is None or "forward" in module.__dict__:
        return ""
    if _has_chain(module):
        return "chain of convolutions and batch norms", sequence_forward
    if not any(is_batch_norm(first) and activation_name(second) is not UNKNOWN for first, second in pairwise(module)):
        return ""
    return "batch norm and activation in one pass", sequence_forward


def _has_chain(module: nn.Sequential) -> bool:
    """Whether a convolution of ours stands before a batch norm, or a sequence in which one does before something."""
    for first, second in pairwise(module):
        is_ours = isinstance(first, _ConvNd) and not isinstance(convolution_forward(first, plain_class(first)), str)
        if is_ours and is_batch_norm(second):
            return True
    return len(module) > 1 and any(isinstance(each, nn.Sequential) and _has_chain(each) for each in module)


def batch_norm_forward(module: nn.Module, kind: Kind) -> tuple[str, MakeForward] | str:
    """What a batch norm becomes, or why it stays as it is."""
    if isinstance(module, nn.SyncBatchNorm):
        return "adds its statistics up over processes"
    if isinstance(module, LazyModuleMixin):
        return "is lazy; call the model once before"
    if "forward" in module.__dict__:
        return "has a forward of its own"
    if kind.__name__ == "BatchNormAct2d" and kind.__module__.startswith("timm."):
        return "batch norm and activation in one pass", norm_activation_forward
    if isinstance(module, nn.BatchNorm1d):
        return "is a batch norm of sequences"
    if not is_batch_norm(module):
        return f"is a {kind.__name__}, with a forward of its own"
    return "batch norm", norm_forward
