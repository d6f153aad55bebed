"""Modules one after another: pointwise convolutions by the backends, a batch norm with the activation behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ..functional import activation_of
from ..modules import computes_as, is_watched
from ..norms import batch_norm
from .activations import UNKNOWN, activation_name
from .depthwise import weight_and_bias
from .pointwise import called

_NORMS = {4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def in_turn(modules: Iterable[nn.Module], x: Tensor) -> Tensor:
    """What the modules make of `x`, one after another; whatever sees a module's call sees it still."""
    if _has_any_global_hook():
        for module in modules:
            x = module(x)
        return x
    parts, index = list(_flat(modules)), 0
    if torch.compiler.is_compiling():
        # Which joins norms and activations itself.
        for module in parts:
            x = called(module, x)
        return x
    while index < len(parts):
        out, used = _in_one_pass(parts[index], parts[index + 1] if index + 1 < len(parts) else None, x)
        x, index = called(parts[index], x) if out is None else out, index + used
    return x


def _in_one_pass(norm: nn.Module, following: nn.Module | None, x: Tensor) -> tuple[Tensor | None, int]:
    """The result of one pass and how many modules it stands for; None where the first is to be called."""
    if not is_batch_norm(norm) or is_seen(norm):
        return None, 1
    name = UNKNOWN if following is None or is_seen(following) else activation_name(following)
    out = normalized(norm, x, None if name is UNKNOWN else name)
    return out, 1 if out is None or name is UNKNOWN else 2


def _flat(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The modules, with those of a sequence that nothing sees in its place."""
    for module in modules:
        if computes_as(type(module), nn.Sequential) is not None and not is_seen(module):
            yield from _flat(module._modules.values())  # type: ignore[arg-type]
        else:
            yield module


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module computes what one of torch's batch norms of images or volumes does."""
    return computes_as(type(module), *_NORMS.values()) is not None


def normalized(norm: nn.Module, x: Tensor, activation: Any = None) -> Tensor | None:
    """`x` through a batch norm in training mode and an activation by name; None where torch's operators must run.

    The norm's statistics move as torch's own forward moves them.
    """
    own: dict[str, Any] = norm.__dict__
    buffers = own["_buffers"]
    mean, var = buffers.get("running_mean"), buffers.get("running_var")
    momentum, eps, tracks = own["momentum"], own["eps"], own["track_running_stats"]
    if not own["training"] or not isinstance(norm, _NORMS.get(x.dim(), ())):
        return None
    # Statistics that are averaged over all batches, or kept and not tracked, are torch's.
    if type(eps) is not float or eps <= 0 or (mean is None) != (var is None) or tracks != (mean is not None):
        return None
    if tracks and not (isinstance(momentum, float | int) and isfinite(momentum)):
        return None
    weight, bias = weight_and_bias(norm)
    running = (mean, var) if tracks else None
    counted = buffers.get("num_batches_tracked") if tracks else None
    known = activation_of(activation)
    return batch_norm(x, running, weight, bias, float(momentum or 0.0), eps, known, counted=counted)


def is_seen(module: nn.Module) -> bool:
    """Whether something sees the calls of a module, or stands for them."""
    return is_watched(module.__dict__)
