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

# Of outputs that are kept.
KEPT_BYTES = 2**28


class Original:
    """A model's outputs on the batches, kept where they are small."""

    def __init__(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        self.model, self.batches = model, batches
        self.kept: list[Any] = []
        with together():
            for batch in batches:
                self.kept.append(_own(batch.run(model)))
                if sum(x.numel() * x.element_size() for x in tensors(self.kept)) > KEPT_BYTES:
                    self.kept = []
                    break

    def error_of(self, changed: Callable[[Batch], Any]) -> float:
        """The squared error of what `changed` gives over the energy of what the model gives; NaN where not finite."""
        sums = torch.zeros(2, dtype=torch.float64, device=device_of(self.model))
        with together():
            for number, batch in enumerate(self.batches):
                wanted = self.kept[number] if self.kept else batch.run(self.model)
                for x, y in _pairs(wanted, changed(batch)):
                    sums += torch.stack([(y - x).square().sum(), x.square().sum()]).to(sums.device)
        add_up_(sums)
        if not bool(sums.isfinite().all()):
            return float("nan")
        return float(sums[0] / sums[1]) if float(sums[1]) > 0 else 0.0


def _own(output: Any) -> Any:
    """An output that the model will not change when it runs again."""
    if isinstance(output, Tensor):
        return output.clone()
    if isinstance(output, Mapping):
        return {key: _own(value) for key, value in output.items()}
    return tuple(_own(value) for value in output) if isinstance(output, tuple | list) else output


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
