"""Where the multiplications of a separated network went, layer by layer."""

from __future__ import annotations

from torch import nn

from ..count import Count
from .results import LayerResult


def by_layer(model: nn.Module, dense: Count, separable: Count) -> tuple[LayerResult, ...]:
    """One result for each convolution and linear layer of the dense `model`, and one for all the rest."""
    layers, number = [], 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            number += 1
            label = f"conv {number}: {module.in_channels} → {module.out_channels}"
        elif isinstance(module, nn.Linear):
            label = f"linear: {module.in_features} → {module.out_features}"
        else:
            continue
        depthwise, pointwise = (_sum(separable, f"{name}.{step}") for step in ("depthwise", "pointwise"))
        layers.append(LayerResult(label, _sum(dense, name), depthwise, pointwise, other=_sum(separable, name)))
    rest = [
        count.total.multiplications - sum(counted)
        for count, counted in (
            (dense, [layer.dense for layer in layers]),
            (separable, [layer.separable for layer in layers]),
        )
    ]
    return (*layers, LayerResult("batch norms", rest[0], 0, 0, other=rest[1]))


def _sum(count: Count, name: str) -> int:
    return sum(row.cost.multiplications for row in count.rows if row.name == name)
