"""Means over the pixels of images."""

from __future__ import annotations

from ...backends.pixels import Mean
from ...backends.series import Step
from ..graph import Node
from .context import Lie, Lowering, RefusedError, axes_of, step


def lower_mean(node: Node, into: Lowering) -> tuple[Step, ...]:
    if node["dtype"] is not None:
        raise RefusedError("its result is of another dtype")
    x = into.value(node["self"])
    kept = set(range(len(x.shape))) - axes_of(node["dim"], len(x.shape))
    if kept != {0, x.inner} or x.inner == 0:
        raise RefusedError("a mean is taken over all pixels of an image")
    return _mean(node, x, into)


def lower_pool(node: Node, into: Lowering) -> tuple[Step, ...]:
    """Adaptive pooling to one pixel is a mean."""
    x, size = into.value(node["self"]), node["output_size"]
    if len(x.shape) != 4 or (size if isinstance(size, tuple) else (size,)) not in ((1, 1), (1,)):
        raise RefusedError("adaptive pooling is for one pixel")
    return _mean(node, into.along(node["self"], 1), into)


def _mean(node: Node, x: Lie, into: Lowering) -> tuple[Step, ...]:
    images, channels = x.shape[0], x.shape[x.inner]
    problem = Mean(images, x.elements // (images * channels), channels)
    shape = into.shape(node.name)
    return (step(problem, x=x.buffer, out=into.made(node, min(x.inner, len(shape) - 1)).buffer),)
