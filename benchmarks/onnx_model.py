"""A case as an ONNX model, for the peers that read one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from depthwise.bench.cases import Case, Tensors
from depthwise.errors import DepthwiseError
from depthwise.functional import ActivationName
from depthwise.geometry import Geometry

OPSET = 18


def onnx_model(case: Case, tensors: Tensors) -> bytes:
    """The model, weights inside: inputs "x" and, where the case has one, "residual"; output "out"."""
    from onnx import TensorProto, helper

    g = case.geometry
    weights = {"dw": tensors.depthwise_weight, "db": tensors.depthwise_bias}
    nodes = [_convolution("x", "y0", "dw", "db" if case.has_depthwise_bias else None, g, g.in_channels)]
    last = _activated(nodes, "y0", case.depthwise_activation)
    if case.operation == "separable":
        weights |= {"pw": tensors.pointwise_weight, "pb": tensors.pointwise_bias}
        nodes.append(_convolution(last, "y1", "pw", "pb", None, g.groups))
        last = "y1"
        if case.residual:
            nodes.append(helper.make_node("Add", ["y1", "residual"], ["y2"]))
            last = "y2"
        last = _activated(nodes, last, case.pointwise_activation)
    nodes.append(helper.make_node("Identity", [last], ["out"]))

    def value(name: str, size: Sequence[int]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [case.batch, *size])

    inputs = [value("x", g.input_size)] + ([value("residual", g.output_size)] if case.residual else [])
    initializers = [_initializer(name, tensor) for name, tensor in weights.items() if tensor is not None]
    graph = helper.make_graph(nodes, "case", inputs, [value("out", g.output_size)], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    serialized: bytes = model.SerializeToString()
    return serialized


def _initializer(name: str, tensor: Tensor) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(tensor.numpy(), name)


def _convolution(x: str, y: str, weight: str, bias: str | None, g: Geometry | None, groups: int) -> Any:
    """A Conv node of this geometry, or a pointwise one without."""
    from onnx import helper

    inputs = [x, weight, *([bias] if bias else [])]
    if g is None:
        return helper.make_node("Conv", inputs, [y], group=groups)
    pads = [before for before, _ in g.padding] + [after for _, after in g.padding]
    return helper.make_node("Conv", inputs, [y], group=groups, strides=g.stride, dilations=g.dilation, pads=pads)


def _activated(nodes: list[Any], x: str, activation: ActivationName) -> str:
    """The name of `x` after its activation, whose nodes are added."""
    from onnx import helper

    if activation is None:
        return x
    y = f"{x}_{activation}"
    if activation == "relu":
        nodes.append(helper.make_node("Relu", [x], [y]))
    elif activation == "relu6":
        ends = [helper.make_node("Constant", [], [f"{y}_{end}"], value_float=float(end)) for end in (0, 6)]
        nodes += [*ends, helper.make_node("Clip", [x, f"{y}_0", f"{y}_6"], [y])]
    elif activation == "hardswish":
        nodes.append(helper.make_node("HardSwish", [x], [y]))
    elif activation == "silu":
        nodes += [helper.make_node("Sigmoid", [x], [f"{y}_gate"]), helper.make_node("Mul", [x, f"{y}_gate"], [y])]
    else:
        raise DepthwiseError(f"the ONNX model of a case has no {activation!r}")
    return y
