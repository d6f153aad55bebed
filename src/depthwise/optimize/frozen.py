"""`optimize`: from a model and an example of its inputs to a frozen network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DepthwiseError
from ..tracing import uncollected
from .capture import call_of, capture, frozen_copy
from .module import Optimized, Source
from .passes import apply_passes


def optimize(model: nn.Module, example_inputs: Any, *, dtype: torch.dtype | None = None) -> Optimized:
    """A frozen module for inference that computes what `model` does in evaluation mode; the model is not touched.

    example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments; sizes are what matters,
                    and the batch may be any
    dtype:          None or torch.float32: nothing lowers the precision

    The network is captured with torch.export, norms and branches are merged into its convolutions, and what this
    library has kernels for runs on them; the rest on torch's operators. `.report` tells which is which and why.

    Raises DepthwiseError where torch cannot export the model, and where the model changes its inputs or itself.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), nn.ReLU())
    >>> fast = optimize(net, torch.zeros(1, 8, 9, 9))
    >>> fast(torch.ones(5, 8, 20, 20)).shape
    torch.Size([5, 16, 20, 20])
    """
    return optimized(model, example_inputs, dtype=dtype)


def optimized(
    model: nn.Module, example_inputs: Any, *, dtype: torch.dtype | None = None, without: Collection[str] = ()
) -> Optimized:
    """`optimize`, some passes left out by name."""
    if dtype not in (None, torch.float32):
        raise DepthwiseError(f"dtype must be None or torch.float32; got {dtype!r}: other precisions are not built yet")
    call = call_of(*_arguments(example_inputs))
    # Tensors made in inference mode would have no versions, and could not be saved for a gradient elsewhere.
    with torch.inference_mode(mode=False), uncollected():
        copy = frozen_copy(model)
        network, saved = apply_passes(capture(copy, call), without)
        source = Source(copy, call, tuple(without)) if network.is_sized or network.least else None
        return Optimized(network, saved, source)


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), {}
    raise DepthwiseError(
        f"example_inputs is a tensor, a tuple of positional arguments or a dict of keyword arguments; got "
        f"{type(example_inputs).__name__}"
    )
