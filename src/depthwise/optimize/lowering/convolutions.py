"""Convolutions and linear layers: what the backend is asked for a node."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from torch import Tensor

from ...backends.base import DenseTensors, DepthwiseTensors, PointwiseTensors, SeparableTensors, Weights
from ...backends.pixels import Elementwise, Term
from ...backends.problem import Activation, Problem
from ...backends.series import Step
from ...geometry import Geometry, geometry
from ..graph import Node
from ..operators import DTYPES, FORMATS, dtype_name
from .context import Lie, Lowering, RefusedError, step, strides_of, usual_order

# Pixels of an image, for each output channel, from which on it takes longer to multiply them than the weights.
GATED_FROM = 4


def lower_conv(node: Node, into: Lowering) -> tuple[Step, ...]:
    weight, shape = _tensor(node, "weight", into), into.value(node["input"]).shape
    if is_dense(node, tuple(weight.shape)):
        return _dense(node, weight, into)
    x = _image(node, into)
    if is_depthwise(node, tuple(weight.shape)):
        return _depthwise(node, x, into)
    g = geometry(shape[1:], 1, out_channels=weight.shape[0], groups=node["groups"])
    tensors = PointwiseTensors(weight, _optional(node, "bias", into), node["activation"])
    return _with_residual(node, _problem("pointwise", g, x, weight, tensors.activations), tensors, x, into)


def is_depthwise(node: Node, weight: tuple[int, ...]) -> bool:
    """Whether each filter of a convolution reads one channel alone."""
    return weight[1] == 1 and weight[0] % node["groups"] == 0


def is_dense(node: Node, weight: tuple[int, ...]) -> bool:
    """Whether a convolution mixes channels, and is not of each pixel alone: those of images have other kernels."""
    window = (*weight[2:], *node["stride"])
    is_pointwise = all(n == 1 for n in window) and not any(map(any, node["padding"])) and len(weight) in FORMATS
    return not is_depthwise(node, weight) and not is_pointwise


def _dense(node: Node, weight: Tensor, into: Lowering) -> tuple[Step, ...]:
    """Of an image as it lies, channels-last or contiguous, to a channels-last one."""
    x = into.value(node["input"])
    usual, planar = usual_order(len(x.shape)), tuple(range(len(x.shape)))
    x = x if x.lies_as(planar) and not x.lies_as(usual) else _image(node, into)
    g = _window(node, x, weight, 1, out_channels=weight.shape[0], groups=node["groups"])
    tensors = DenseTensors(weight, _optional(node, "bias", into), node["activation"])
    return _with_residual(node, _problem("dense", g, x, weight, tensors.activations), tensors, x, into)


def lower_gated(node: Node, into: Lowering) -> tuple[Step, ...]:
    order = usual_order(len(into.value(node["input"]).shape))
    x, gate, weight = into.laid(node["input"], order), into.value(node["gate"]), _tensor(node, "weight", into)
    g = geometry(x.shape[1:], 1, out_channels=weight.shape[0], groups=node["groups"])
    tensors = PointwiseTensors(weight, _optional(node, "bias", into), node["activation"])
    problem, pixels = _problem("pointwise", g, x, weight, tensors.activations), prod(x.shape[2:])
    if pixels >= GATED_FROM * weight.shape[0]:
        return _with_residual(node, replace(problem, gated=True), tensors, x, into, gate=gate.buffer)
    gated = into.own(x.shape, x.order)
    product = Elementwise(x.shape[0], pixels, x.shape[1], (Term("mul", "image"),))
    return (
        step(product, x=x.buffer, operand_0=gate.buffer, out=gated.buffer),
        *_with_residual(node, problem, tensors, gated, into),
    )


def lower_separable(node: Node, into: Lowering) -> tuple[Step, ...]:
    x, first, last = _image(node, into), *(_tensor(node, f"{key}_weight", into) for key in ("depthwise", "pointwise"))
    g = _window(node, x, first, first.shape[0] // x.shape[1], out_channels=last.shape[0], groups=node["groups"])
    tensors = SeparableTensors(
        first,
        last,
        _optional(node, "depthwise_bias", into),
        _optional(node, "pointwise_bias", into),
        node["depthwise_activation"],
        node["activation"],
    )
    problem = _problem("separable", g, x, first, tensors.activations)
    return _with_residual(node, problem, tensors, x, into)


def lower_linear(node: Node, into: Lowering) -> tuple[Step, ...]:
    """A linear layer is a pointwise convolution of images of one pixel."""
    weight = _tensor(node, "weight", into)
    inner = len(into.value(node["input"]).shape) - 1
    if inner < 0:
        raise RefusedError("its input has no dimension")
    x = into.along(node["input"], inner)
    rows = Lie(x.buffer, (x.elements // x.shape[-1], x.shape[-1], 1, 1), usual_order(4))
    g = geometry(rows.shape[1:], 1, out_channels=weight.shape[0])
    tensors = PointwiseTensors(weight, _optional(node, "bias", into))
    problem = _problem("pointwise", g, rows, weight, tensors.activations)
    return (step(problem, tensors, x=x.buffer, out=into.made(node, x.order).buffer),)


def _depthwise(node: Node, x: Lie, into: Lowering) -> tuple[Step, ...]:
    weight, residual = _tensor(node, "weight", into), node["residual"]
    g = _window(node, x, weight, weight.shape[0] // x.shape[1])
    tensors = DepthwiseTensors(weight, _optional(node, "bias", into))
    activation: Activation = None if residual is not None else node["activation"]
    problem = _problem("depthwise", g, x, weight, (activation, None))
    out = into.made(node, usual_order(len(x.shape)))
    if residual is None:
        return (step(problem, tensors, x=x.buffer, out=out.buffer),)
    added = into.laid(residual, out.order)
    terms = (Term("add", "each"), *([Term("activation", activation=node["activation"])] * bool(node["activation"])))
    sums = Elementwise(1, 1, out.elements, terms)
    before = f"{node.name}.sums"
    into.elements[before] = out.elements
    return (
        step(problem, tensors, x=x.buffer, out=before),
        step(sums, x=before, operand_0=added.buffer, out=out.buffer),
    )


def _with_residual(
    node: Node, problem: Problem, tensors: Weights, x: Lie, into: Lowering, **others: str
) -> tuple[Step, ...]:
    buffers = {"x": x.buffer, **others}
    if node["residual"] is not None:
        added = into.laid(node["residual"], usual_order(len(x.shape)))
        buffers["residual"] = added.buffer
        problem = replace(problem, residual=problem.result)
    return (step(problem, tensors, **buffers, out=into.made(node, usual_order(len(x.shape))).buffer),)


def _problem(
    operation: str, g: Geometry, x: Lie, weight: Tensor, activations: tuple[Activation, Activation]
) -> Problem:
    size = (x.shape[0], *g.output_size)
    result = strides_of(size, usual_order(len(size)))
    return Problem(
        operation,  # type: ignore[arg-type]
        g,
        weight.dtype,
        "cpu",
        x.shape[0],
        x.strides,
        result,
        activations,
    )


def _window(
    node: Node, x: Lie, weight: Tensor, multiplier: int, *, out_channels: int | None = None, groups: int = 1
) -> Geometry:
    return Geometry(
        input_size=x.shape[1:],
        kernel_size=tuple(weight.shape[2:]),
        stride=node["stride"],
        padding=node["padding"],
        dilation=node["dilation"],
        depth_multiplier=multiplier,
        out_channels=out_channels,
        groups=groups,
    )


def _image(node: Node, into: Lowering) -> Lie:
    shape = into.value(node["input"]).shape
    if len(shape) != len(node["stride"]) + 2:
        raise RefusedError("its input has no batch")
    return into.laid(node["input"], usual_order(len(shape)))


def _tensor(node: Node, key: str, into: Lowering) -> Tensor:
    found = into.weight(node[key])
    if found is None:
        raise RefusedError("its weights are computed")
    if found.dtype is not DTYPES["float32"]:
        raise RefusedError(f"torch.{dtype_name(found.dtype)} is not supported, only torch.float32")
    return found


def _optional(node: Node, key: str, into: Lowering) -> Tensor | None:
    return None if node[key] is None else _tensor(node, key, into)
