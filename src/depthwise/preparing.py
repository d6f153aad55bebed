"""Everything that a first call would have to do, done ahead of time."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .errors import DepthwiseError


def prepare(model: nn.Module, *example_inputs: Any) -> None:
    """Compile and pack all that a call of `model` with inputs like these needs, so that the first request does not.

    The model is run once, without gradients. Code is kept for every batch and spatial size, weights until they change.

    >>> from depthwise import SeparableConv2d
    >>> prepare(SeparableConv2d(8, 16, 3).eval(), torch.zeros(1, 8, 9, 9))
    """
    if not isinstance(model, nn.Module):
        raise DepthwiseError(f"prepare takes a torch.nn.Module; got {type(model).__name__}")
    if any(module.training for module in model.modules()):
        raise DepthwiseError("prepare runs the model once, which would change a model in training mode; call .eval()")
    if not example_inputs:
        raise DepthwiseError("prepare needs example inputs, as the model is called with: prepare(model, x)")
    with torch.no_grad():
        model(*example_inputs)
