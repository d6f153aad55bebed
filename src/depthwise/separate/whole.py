"""What a network multiplies beside the layers that can be separated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass

from torch import nn

from ..count import count
from ..errors import DepthwiseError
from .calibration import Batch


@dataclass(frozen=True, slots=True)
class Rest:
    """Multiplications of one sample in all operators of one kind, as `count` names it."""

    kind: str
    multiplications: int


def elsewhere(model: nn.Module, batch: Batch | None, names: Container[str]) -> tuple[Rest, ...] | None:
    """What one sample costs beside the convolutions called `names`, the most first; None where it cannot be counted."""
    if batch is None:
        return None
    try:
        counted = count(model, batch.args or dict(batch.kwargs))
    # A forward that reads numbers cannot be followed on tensors without any.
    except (DepthwiseError, RuntimeError):
        return None
    found: Counter[str] = Counter()
    for row in counted.rows:
        if row.name not in names or "convolution" not in row.kind:
            found[row.kind] += row.cost.multiplications
    return tuple(Rest(kind, -(-total // batch.samples)) for kind, total in found.most_common() if total)
