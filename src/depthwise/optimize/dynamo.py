"""`torch.compile(model, backend="depthwise")`: graphs of inference through the same reader as `optimize`.

Dynamo hands weights over as arguments of each call. They are told from other tensors by the mark that it leaves on
their placeholders, frozen at the first call, and frozen anew when one is another tensor or has another version.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..backends.forks import Lock
from ..errors import DepthwiseError
from .frozen import optimize

# Sizes and weights that a frozen graph is kept for, the oldest go first.
MOST_FROZEN = 8

log = logging.getLogger("depthwise")


def backend(module: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
    """What runs a graph of Dynamo's: frozen where it is inference, as it is where gradients may be asked for."""
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in example_inputs):
        warnings.warn(
            "torch.compile(backend='depthwise') runs a graph that computes gradients by PyTorch's own operators; call "
            "it under torch.no_grad() for inference",
            UserWarning,
        )
        return module.forward
    return Frozen(module)


class Frozen:
    """A graph frozen with the weights of its first call, and again whenever they change."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
        marks = [node.meta.get("tensor_dict") or {} for node in placeholders]
        self.is_weight = ["_dynamo_static_input_type" in mark for mark in marks]
        self.kept: dict[Hashable, tuple[Callable[..., Any], list[Tensor]]] = {}
        self.lock = Lock()

    def __call__(self, *arguments: Any) -> Any:
        key = tuple(map(_identity, arguments, self.is_weight))
        found = self.kept.get(key)
        if found is None:
            with self.lock.mine:
                found = self.kept.get(key) or self._frozen(key, arguments)
        run, _ = found
        return run(*self._inputs(arguments))

    def _inputs(self, arguments: Sequence[Any]) -> tuple[Tensor, ...]:
        pairs = zip(arguments, self.is_weight, strict=True)
        return tuple(x for x, fixed in pairs if isinstance(x, Tensor) and not fixed)

    def _frozen(self, key: Hashable, arguments: Sequence[Any]) -> tuple[Callable[..., Any], list[Tensor]]:
        while len(self.kept) >= MOST_FROZEN:
            del self.kept[next(iter(self.kept))]
        held = Held(self.module, arguments, self.is_weight)
        run: Callable[..., Any]
        try:
            run = found = optimize(held, self._inputs(arguments))
            log.info("torch.compile(backend='depthwise'):\n%s", found.report)
        except DepthwiseError as error:
            warnings.warn(f"torch.compile(backend='depthwise') leaves a graph to PyTorch: {error}", UserWarning)
            run = held
        # The weights are held, so that no other tensor gets their identities.
        weights = [x for x, fixed in zip(arguments, self.is_weight, strict=True) if fixed]
        self.kept[key] = run, weights
        return self.kept[key]


class Held(nn.Module):
    """A graph with its weights and numbers in their places; it takes the other tensors."""

    def __init__(self, module: fx.GraphModule, arguments: Sequence[Any], is_weight: Sequence[bool]) -> None:
        super().__init__()
        self.graph = module
        self.fixed: list[Any] = []
        for number, (argument, fixed) in enumerate(zip(arguments, is_weight, strict=True)):
            if fixed:
                self.register_buffer(f"weight_{number}", argument.detach())
            self.fixed.append(f"weight_{number}" if fixed else None if isinstance(argument, Tensor) else argument)

    def forward(self, *tensors: Tensor) -> Any:
        given = iter(tensors)
        arguments = [
            next(given) if fixed is None else getattr(self, fixed) if isinstance(fixed, str) else fixed
            for fixed in self.fixed
        ]
        return self.graph(*arguments)


def _identity(argument: Any, fixed: bool) -> Hashable:
    """What must be the same for a frozen graph to be right; of inputs only that they are tensors."""
    if fixed:
        return id(argument), None if argument.is_inference() else argument._version
    return None if isinstance(argument, Tensor) else argument
