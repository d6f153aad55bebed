"""`accelerate_` and `restore_`: a model's modules get classes of ours, and their own ones back."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from ..backends.cpu import release_memory
from ..errors import DepthwiseError
from ..layers.separable import _SeparableConv
from .blocks import BLOCKS
from .classes import Kind, Known, MakeForward, class_of, original_of, ours_in, plain_class, replace_classes_
from .convolutions import convolution_forward
from .gates import GATES
from .norms import batch_norm_forward, sequential_forward
from .perceptrons import PERCEPTRONS
from .report import AcceleratedModule, Acceleration

_KNOWN: Known = {**BLOCKS, **GATES, **PERCEPTRONS}


def accelerate_(model: nn.Module) -> Acceleration:
    """Let a model of torch's modules train, and run, on kernels of ours: in place, and return what became of it.

    Every depthwise and pointwise nn.Conv1d, 2d and 3d goes through the backends; a batch norm in training mode, and the
    activation that follows it in an nn.Sequential or in timm's BatchNormAct2d, become one pass; so do parts of timm's
    and torchvision's squeeze-excites, and of timm's multilayer perceptrons and ConvNeXt blocks. Each module stays the
    object that it is, with its parameters, hooks, name, mode and state-dict keys: optimizers, checkpoints and wrappers
    made before or after keep working. What has a forward of its own stays as it is, and is listed with its reason.
    `restore_` undoes it; twice is once.

    >>> model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 4, 3))
    >>> print(accelerate_(model).summary)
    1 depthwise, 1 pointwise; 1 left as they were
    """
    _check(model, "accelerate_")
    changes = []
    for _, module, kind, found in candidates(model):
        old = ours_in(type(module)) or kind
        # Of a module that was changed since: its own class again.
        new = kind if isinstance(found, str) else class_of(kind, found[1])
        if new is not old:
            changes.append((module, old, new))
    replace_classes_(changes)
    return survey(model)


def survey(model: nn.Module) -> Acceleration:
    """What `accelerate_` gives, and the model as it is."""
    rows = []
    for name, _, kind, found in candidates(model):
        became, reason = ("", found) if isinstance(found, str) else (found[0], "")
        if became or reason:
            rows.append(AcceleratedModule(name, kind.__name__, became, reason))
    return Acceleration(tuple(rows), tuple(_advice(model)))


def restore_(model: nn.Module) -> int:
    """Give every module that `accelerate_` changed its own class back; how many there were.

    The memory that was kept for the next training step goes back to the system, that of other models too.

    >>> model = nn.Conv2d(8, 8, 3, groups=8)
    >>> _ = accelerate_(model)
    >>> restore_(model), type(model)
    (1, <class 'torch.nn.modules.conv.Conv2d'>)
    """
    _check(model, "restore_")
    found = [(module, ours_in(type(module))) for module in model.modules()]
    changes = [(module, ours, original_of(ours)) for module, ours in found if ours is not None]
    replace_classes_(changes)
    release_memory()
    return len(changes)


def candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module, Kind, tuple[str, MakeForward] | str]]:
    """Path, module and class of each module that is looked at, and what it becomes or why it stays as it is.

    The reason is "" for sequences in which there is nothing to join.
    """
    within: set[nn.Module] = set()
    for name, module in model.named_modules():
        if isinstance(module, _SeparableConv):
            within.update(module.modules())
        if module in within:
            continue
        kind = plain_class(module)
        if isinstance(module, _ConvNd):
            yield name, module, kind, convolution_forward(module, kind)
        elif isinstance(module, _BatchNorm):
            yield name, module, kind, batch_norm_forward(module, kind)
        elif isinstance(module, nn.Sequential):
            yield name, module, kind, sequential_forward(module, kind)
        elif (kind.__module__, kind.__name__) in _KNOWN:
            known = _KNOWN[kind.__module__, kind.__name__]
            yield name, module, kind, "has a forward of its own" if "forward" in module.__dict__ else known


def _advice(model: nn.Module) -> Iterator[str]:
    images = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    weights = [module.weight for module in images if isinstance(module, nn.Conv2d) and not is_lazy(module.weight)]
    wanted = []
    if not all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights):
        wanted.append("model.to(memory_format=torch.channels_last)")
    # What a dense convolution gives lies as its weights do.
    if images and not (isinstance(images[0], nn.Conv2d) and images[0].groups == 1 and prod(images[0].kernel_size) > 1):
        wanted.append("x.to(memory_format=torch.channels_last)")
    if wanted:
        yield (
            f"memory format: channels-last runs on most kernels, {' and '.join(wanted)}; contiguous images run "
            "depthwise convolutions and batch norms alone"
        )


def _check(model: Any, name: str) -> None:
    if not isinstance(model, nn.Module):
        raise DepthwiseError(f"{name} takes a torch.nn.Module; got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise DepthwiseError(f"{name} takes a model in Python; this one was scripted")
