"""What many numbers become one in: means of images, pooling; and what sees all channels of a pixel: norms, softmax."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Literal

from ...backends.pixels import AveragePool, GroupNorm, LayerNorm, MaxPool, Mean, Pool, Softmax
from ...backends.series import Step
from ...geometry import Geometry, pool_geometry
from ..graph import Node
from ..rules import axes_of, pair_of
from .context import Lie, Lowering, RefusedError, step, usual_order

Result = Literal["mean", "sum", "norm"]


def lower_mean(node: Node, into: Lowering) -> tuple[Step, ...]:
    return _reduced(node, "mean", into)


def lower_sum(node: Node, into: Lowering) -> tuple[Step, ...]:
    return _reduced(node, "sum", into)


def lower_norm(node: Node, into: Lowering) -> tuple[Step, ...]:
    if node["ord"] != 2:
        raise RefusedError("a norm is the root of a sum of squares")
    return _reduced(node, "norm", into)


def _reduced(node: Node, result: Result, into: Lowering) -> tuple[Step, ...]:
    if node["dtype"] is not None:
        raise RefusedError("its result is of another dtype")
    x = into.value(node["self"])
    return _over(node, x, axes_of(node["dim"], len(x.shape)), result, into)


def lower_adaptive_pool(node: Node, into: Lowering) -> tuple[Step, ...]:
    """Adaptive pooling to one pixel is a mean."""
    x, size = into.value(node["self"]), node["output_size"]
    if len(x.shape) != 4 or (size if isinstance(size, tuple) else (size,)) not in ((1, 1), (1,)):
        raise RefusedError("adaptive pooling is for one pixel")
    return _over(node, x, {2, 3}, "mean", into)


def _over(node: Node, x: Lie, gone: set[int], result: Result, into: Lowering) -> tuple[Step, ...]:
    """One number for all along some dimensions, which lie side by side, or are brought there."""
    if 0 in gone and len(x.shape) > 1:
        raise RefusedError("images are taken together")
    kept, shape = [n for n in x.order if n not in gone], into.shape(node.name)
    axes = [n for n in x.order if x.shape[n] != 1]
    first = next((place for place, n in enumerate(axes) if n in gone), len(axes))
    outer = axes[:first]
    inner = [n for n in axes[first:] if n not in gone]
    if axes != [*outer, *(n for n in axes if n in gone), *inner]:
        x = into.moved(x, (*(n for n in kept if n == 0), *(n for n in x.order if n in gone), *(n for n in kept if n)))
        outer, inner = [0], [n for n in kept if n]
    images, channels = (prod(x.shape[n] for n in part) for part in (outer, inner))
    problem = Mean(images, x.elements // (images * channels), channels, result)
    order = x.order if len(shape) == len(x.shape) else tuple(n - sum(one < n for one in gone) for n in kept)
    return (step(problem, x=x.buffer, out=into.made(node, order).buffer),)


def lower_max_pool(node: Node, into: Lowering) -> tuple[Step, ...]:
    return _pool(node, pair_of(node["dilation"]), MaxPool, into)


def lower_average_pool(node: Node, into: Lowering) -> tuple[Step, ...]:
    padding = pair_of(node["padding"])
    counted = tuple((n, n) for n in padding) if node["count_include_pad"] else ((0, 0), (0, 0))
    divisor = node["divisor_override"]
    return _pool(node, (1, 1), lambda images, g: AveragePool(images, g, divisor, counted), into)


def _pool(
    node: Node, dilation: tuple[int, int], problem: Callable[[int, Geometry], Pool], into: Lowering
) -> tuple[Step, ...]:
    shape = into.value(node["self"]).shape
    if len(shape) != 4:
        raise RefusedError("its input has no batch")
    x, kernel = into.laid(node["self"], usual_order(4)), pair_of(node["kernel_size"])
    windows = kernel, pair_of(node["stride"] or kernel), pair_of(node["padding"]), dilation
    g = pool_geometry(shape[1:], *windows, ceil_mode=node["ceil_mode"])
    return (step(problem(shape[0], g), x=x.buffer, out=into.made(node, x.order).buffer),)


def lower_layer_norm(node: Node, into: Lowering) -> tuple[Step, ...]:
    x = into.value(node["input"])
    shape = node["normalized_shape"]
    if len(shape if isinstance(shape, tuple) else (shape,)) != 1:
        raise RefusedError("a norm is over one dimension")
    x = into.along(node["input"], len(x.shape) - 1)
    weights = {key: into.weight(node[name]) for key, name in (("scale", "weight"), ("shift", "bias"))}
    given = [node["weight"] is not None, node["bias"] is not None]
    if any(given) and (None in weights.values() or not all(given)):
        raise RefusedError("a norm has a weight and a bias, or neither")
    problem = LayerNorm(x.elements // x.shape[-1], x.shape[-1], float(node["eps"]), all(given))
    buffers = {"scale": node["weight"].name, "shift": node["bias"].name} if all(given) else {}
    return (step(problem, None, x=x.buffer, **buffers, out=into.made(node, x.order).buffer),)


def lower_group_norm(node: Node, into: Lowering) -> tuple[Step, ...]:
    if len(into.value(node["input"]).shape) < 2:
        raise RefusedError("its input has no channels")
    x, groups = into.along(node["input"], 1), node["num_groups"]
    scale, shift = (into.weight(node[key]) for key in ("weight", "bias"))
    affine = node["weight"] is not None
    if affine != (node["bias"] is not None) or affine != (scale is not None) or affine != (shift is not None):
        raise RefusedError("a norm has a weight and a bias, or neither")
    images, channels = x.shape[:2]
    problem = GroupNorm(images, x.elements // (images * channels), channels, groups, float(node["eps"]), affine)
    buffers = {"scale": node["weight"].name, "shift": node["bias"].name} if affine else {}
    return (step(problem, None, x=x.buffer, **buffers, out=into.made(node, x.order).buffer),)


def lower_softmax(node: Node, into: Lowering) -> tuple[Step, ...]:
    if node["dtype"] is not None:
        raise RefusedError("its result is of another dtype")
    shape = into.value(node["self"]).shape
    if not shape:
        raise RefusedError("its input has no dimension")
    x = into.along(node["self"], node["dim"] % len(shape))
    problem = Softmax(x.elements // x.shape[x.inner], x.shape[x.inner])
    return (step(problem, x=x.buffer, out=into.made(node, x.order).buffer),)
