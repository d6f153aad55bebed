"""How much of what changes in a network arrives at its output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DepthwiseError
from ..inputs import tensors
from .calibration import Batch, device_of
from .processes import add_up_, together


def error_at_output(model: nn.Module, changed: Callable[[Batch], Any], batches: Sequence[Batch]) -> float:
    """The squared error of what `changed` gives over the energy of what `model` gives; NaN where not finite."""
    sums = torch.zeros(2, dtype=torch.float64, device=device_of(model))
    with together():
        for batch in batches:
            for x, y in _pairs(batch.run(model), changed(batch)):
                sums += torch.stack([(y - x).square().sum(), x.square().sum()]).to(sums.device)
    add_up_(sums)
    if not bool(sums.isfinite().all()):
        return float("nan")
    return float(sums[0] / sums[1]) if float(sums[1]) > 0 else 0.0


def _pairs(before: Any, after: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Every floating-point tensor of two outputs, in float64."""
    xs, ys = (list(_floating(output)) for output in (before, after))
    if not xs:
        raise DepthwiseError(
            f"the model's output, {type(before).__name__}, holds no floating-point tensor to measure an error on; "
            f"separate a model that gives tensors, alone or in tuples, lists or dicts"
        )
    shapes, others = ([tuple(x.shape) for x in each] for each in (xs, ys))
    if shapes != others:
        raise DepthwiseError(
            f"the model's output has shapes {shapes}, and {others} where a layer computes something else; separate "
            f"the part of the model before its outputs are chosen by their values"
        )
    return zip(xs, ys, strict=True)


def _floating(output: Any) -> Iterator[Tensor]:
    plain = dict(output) if isinstance(output, Mapping) else output
    return (x.double() for x in tensors([plain]) if x.is_floating_point())
