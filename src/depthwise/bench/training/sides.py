"""The same modules ours and PyTorch's, forward and backward: right gradients first, then calls to be timed in turn."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import DepthwiseError
from ...measure.turns import Call, Effort, Key
from ..cases import laid_out
from ..rows import OURS, TORCH
from .rows import LAYOUTS

FULL = Effort(rounds=10, sample_seconds=0.02, limit_seconds=6)
QUICK = Effort(rounds=2, sample_seconds=0, limit_seconds=0)
# Of the largest gradient: sums of a hundred thousand float32 in another order.
TOLERANCE = 1e-3


def both_ways(name: str, ours: nn.Module, theirs: nn.Module, x: Tensor, *, compiled: bool) -> dict[Key, Call]:
    """Steps of both in each layout, PyTorch's through torch.compile too; raises where our gradients are not PyTorch's.

    compiled: whether torch.compile can change anything
    """
    if compiled:
        # Rows are of the same classes: each is the first.
        torch.compiler.reset()
    gradient = torch.randn_like(theirs(x))
    _check(name, ours, theirs, x, gradient)
    return {(OURS, way): call for way, call in ways_of(ours, x, gradient)} | {
        (TORCH, way): call for way, call in ways_of(theirs, x, gradient, compiled=compiled)
    }


def ways_of(
    module: nn.Module, x: Tensor, gradient: Tensor, *, compiled: bool = False
) -> Iterable[tuple[str, Callable[[], None]]]:
    """Steps in each layout, by its name."""
    for layout in LAYOUTS:
        own, given = laid_out(x, layout), laid_out(gradient, layout)
        yield layout, _step(module, own, given)
        if compiled:
            yield f"{layout}, compiled", _step(through_compiler(module), own, given)


def through_compiler(module: nn.Module) -> Any:
    return torch.compile(module, dynamic=False)


def has_compiler() -> bool:
    """Whether torch.compile finds what it makes a CPU's code with."""
    return shutil.which("g++") is not None or shutil.which("clang++") is not None


def _step(module: nn.Module, x: Tensor, gradient: Tensor) -> Callable[[], None]:
    parameters = list(module.parameters())

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        module(x.requires_grad_()).backward(gradient)
        x.grad = None

    return step


def _check(name: str, ours: nn.Module, theirs: nn.Module, x: Tensor, gradient: Tensor) -> None:
    found = [_gradients(module, x.clone().requires_grad_(), gradient) for module in (ours, theirs)]
    check_near(name, *found)


def check_near(name: str, found: list[Tensor], expected: list[Tensor]) -> None:
    """Raise where a gradient is not PyTorch's."""
    for own, other in zip(found, expected, strict=True):
        error = ((own - other).abs().max() / other.abs().max()).item()
        # So written, a NaN fails too.
        if not error <= TOLERANCE:
            raise DepthwiseError(f"{name}: a gradient is off by {error:.1e} of its largest value; it is not timed")


def _gradients(module: nn.Module, x: Tensor, gradient: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(module(x), [x, *module.parameters()], gradient))
