"""Modules one after another: chains of them as one, pointwise convolutions by the backends, norms with activations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ..chains import adds, chained
from ..functional import activation_of
from ..modules import computes_as
from ..norms import batch_norm
from .activations import UNKNOWN, activation_name
from .links import NORMS, is_batch_norm, is_seen, links_from, trained_norm
from .pointwise import called


def in_turn(modules: Iterable[nn.Module], x: Tensor, residual: Tensor | None = None) -> Tensor:
    """What the modules make of `x`, one after another; whatever sees a module's call sees it still.

    residual: is added to the result
    """
    if _has_any_global_hook():
        for module in modules:
            x = module(x)
        return x if residual is None else x + residual
    parts, index = list(_flat(modules)), 0
    if torch.compiler.is_compiling():
        # Which joins norms and activations itself.
        for module in parts:
            x = called(module, x)
        return x if residual is None else x + residual
    while index < len(parts):
        links, used = links_from(parts, index) if torch.is_grad_enabled() else ([], 0)
        is_added = index + used == len(parts) and residual is not None and adds(links)
        out = chained(x, links, residual if is_added else None) if links else None
        if out is not None:
            x, index = out, index + used
            if is_added:
                return x
            continue
        out, used = _in_one_pass(parts[index], parts[index + 1] if index + 1 < len(parts) else None, x)
        x, index = called(parts[index], x) if out is None else out, index + used
    return x if residual is None else x + residual


def _in_one_pass(norm: nn.Module, following: nn.Module | None, x: Tensor) -> tuple[Tensor | None, int]:
    """The result of one pass and how many modules it stands for; None where the first is to be called."""
    if not is_batch_norm(norm) or is_seen(norm):
        return None, 1
    name = UNKNOWN if following is None or is_seen(following) else activation_name(following)
    out = normalized(norm, x, None if name is UNKNOWN else name)
    return out, 1 if out is None or name is UNKNOWN else 2


def _flat(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The modules, with those of a sequence that nothing sees in its place, and without identities."""
    for module in modules:
        if is_seen(module):
            yield module
        elif computes_as(type(module), nn.Sequential) is not None:
            yield from _flat(module._modules.values())  # type: ignore[arg-type]
        elif type(module) is not nn.Identity:
            yield module


def normalized(norm: nn.Module, x: Tensor, activation: Any = None) -> Tensor | None:
    """`x` through a batch norm in training mode and an activation by name; None where torch's operators must run.

    The norm's statistics move as torch's own forward moves them.
    """
    found = trained_norm(norm)
    if found is None or not isinstance(norm, NORMS.get(x.dim(), ())):
        return None
    weight, bias, running, counted, momentum, eps = found
    return batch_norm(x, running, weight, bias, momentum, eps, activation_of(activation), counted=counted)
