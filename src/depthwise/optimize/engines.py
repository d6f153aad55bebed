"""The two engines that there are: this library's kernels, layer by layer, and torch's operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..activations import ACTIVATIONS
from ..backends import CPU
from ..backends.base import PointwiseTensors
from ..backends.calls import Prepared
from ..backends.eager import convolved
from ..backends.problem import Problem
from ..backends.tensors import is_listened_to
from ..functional import depthwise_conv, separable_conv
from ..geometry import Geometry, geometry
from .graph import Graph, Node
from .operators import DTYPES, FORMATS, bound, finished
from .rules import Shapes
from .segments import Engine, Program, Segment

Step = Callable[[dict[str, Any], int], Any]
# Of one pointwise convolution: batches and numbers of threads.
MOST_READY = 16


class _NodeByNode(Engine):
    """Runs the nodes of a segment one after the other, and drops each value behind its last reader."""

    def compile(self, segment: Segment, shapes: Mapping[str, Shapes], weights: Mapping[str, Any]) -> Program:
        steps = [(node.name, self.step(node, shapes, weights), tuple(last)) for node, last in _lives(segment)]
        reads, gives = segment.reads, segment.gives

        def run(given: Sequence[Any], batch: int) -> Sequence[Any]:
            values = dict(zip(reads, given, strict=True))
            for name, step, last in steps:
                values[name] = step(values, batch)
                for dead in last:
                    del values[dead]
            return [values[name] for name in gives]

        return run

    def step(self, node: Node, shapes: Mapping[str, Shapes], weights: Mapping[str, Any]) -> Step:
        """What computes the node's value from those that are there."""
        raise NotImplementedError


def _lives(segment: Segment) -> Iterator[tuple[Node, list[str]]]:
    """Each node with the values that nothing reads after it."""
    last: dict[str, int] = {}
    for number, node in enumerate(segment.nodes):
        last[node.name] = number
        last.update((operand, number) for operand in node.operands() if operand in segment.reads or operand in last)
    kept = set(segment.gives)
    for number, node in enumerate(segment.nodes):
        yield node, [name for name, at in last.items() if at == number and name not in kept]


class TorchOperators(_NodeByNode):
    name = "torch"

    def refusal(self, node: Node, shapes: Mapping[str, Shapes]) -> str | None:  # noqa: ARG002  it runs all
        return None

    def step(self, node: Node, shapes: Mapping[str, Shapes], weights: Mapping[str, Any]) -> Step:  # noqa: ARG002
        call = bound(node)

        def step(values: dict[str, Any], batch: int) -> Any:
            return call(lambda name: values[name] if name in values else weights[name], batch)

        return step


class Kernels(_NodeByNode):
    """Depthwise and separable nodes through the functional forms, which go to the kernels of the CPU backend."""

    name = "cpu"

    def __init__(self, graph: Graph) -> None:
        self.dtypes = {spec.name: spec.dtype for spec in graph.weights}

    def refusal(self, node: Node, shapes: Mapping[str, Shapes]) -> str | None:
        problem = self._problem(node, shapes)
        if problem is not None:
            return CPU.refusal(problem)
        if node.operator in ("conv", "separable") and shapes.get(node["input"].name) is None:
            return "the size of its input is not known: it lies behind an operator without a rule"
        if node.operator == "conv":
            return "kernels are for depthwise and pointwise convolutions"
        return f"{node.operator} has no kernel of ours"

    def kernel(self, node: Node, shapes: Mapping[str, Shapes]) -> str | None:
        problem = self._problem(node, shapes)
        return None if problem is None else CPU.kernel(problem)

    def step(self, node: Node, shapes: Mapping[str, Shapes], weights: Mapping[str, Any]) -> Step:
        problem = self._problem(node, shapes)
        if problem is not None and problem.operation == "pointwise":
            return _pointwise(node, problem, weights)
        return _separable(node, weights) if node.operator == "separable" else _depthwise(node, weights)

    def _problem(self, node: Node, shapes: Mapping[str, Shapes]) -> Problem | None:
        """A depthwise, pointwise or separable node as the backend is asked for it; None for others."""
        keys = {"conv": ("weight",), "separable": ("depthwise_weight", "pointwise_weight")}.get(node.operator)
        if keys is None or any(node[key].name not in self.dtypes for key in keys):
            return None
        x, first, *last = (_shape(shapes.get(node[key].name)) for key in ("input", *keys))
        groups = node["groups"] if node.operator == "conv" else x[1:2] and x[1]
        if node.operator == "conv" and len(x) in FORMATS and _is_pointwise(node, first, x):
            return self._pointwise_problem(node, x, first)
        if len(x) < 3 or first[1] != 1 or first[0] % x[1] or groups != x[1]:
            return None
        g = Geometry(
            input_size=x[1:],
            kernel_size=first[2:],
            stride=node["stride"],
            padding=node["padding"],
            dilation=node["dilation"],
            depth_multiplier=first[0] // x[1],
            out_channels=last[0][0] if last else None,
            groups=node["groups"] if last else 1,
        )
        batch = max(x[0], 1)
        result = _strides((batch, *g.output_size))
        return Problem(
            "separable" if last else "depthwise",
            g,
            DTYPES[self.dtypes[node[keys[0]].name]],
            "cpu",
            batch,
            _strides((batch, *x[1:])),
            result,
            (node["depthwise_activation"], node["activation"]) if last else (None, None),
            result if last and node["residual"] is not None else None,
        )

    def _pointwise_problem(self, node: Node, x: tuple[int, ...], weight: tuple[int, ...]) -> Problem:
        g = geometry(x[1:], 1, out_channels=weight[0], groups=node["groups"])
        batch = max(x[0], 1)
        result = _strides((batch, *g.output_size))
        dtype = DTYPES[self.dtypes[node["weight"].name]]
        added = None if node["residual"] is None else result
        activations = (None, node["activation"])
        return Problem("pointwise", g, dtype, "cpu", batch, _strides((batch, *x[1:])), result, activations, added)


def _is_pointwise(node: Node, weight: tuple[int, ...], x: tuple[int, ...]) -> bool:
    """Whether a convolution mixes the channels of each pixel, and is not a depthwise one too."""
    window = (*weight[2:], *node["stride"])
    is_depthwise = node["groups"] == x[1] and weight[1] == 1
    return all(n == 1 for n in window) and not any(map(any, node["padding"])) and not is_depthwise


def _shape(found: Shapes) -> tuple[int, ...]:
    return tuple(size for size in found if isinstance(size, int)) if found else ()


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of an image as it lies between nodes: channels-last, where there is such an order."""
    x = torch.empty(shape, device="meta")
    return (x.contiguous(memory_format=FORMATS[x.dim()]) if x.dim() in FORMATS else x).stride()


def _separable(node: Node, weights: Mapping[str, Any]) -> Step:
    keys = ("depthwise_weight", "depthwise_bias", "pointwise_weight", "pointwise_bias")
    own = tuple(_weight(node, key, weights) for key in keys)
    x, residual = node["input"].name, node["residual"]
    window = (node["stride"], node["padding"], node["dilation"], node["groups"])
    activations = (_named(node["depthwise_activation"]), _named(node["activation"]))
    rank = len(node["stride"])

    def step(values: dict[str, Any], _: int) -> Tensor:
        added = None if residual is None else values[residual.name]
        return separable_conv(rank, values[x], own, window, activations, added)  # type: ignore[arg-type]

    return step


def _pointwise(node: Node, problem: Problem, weights: Mapping[str, Any]) -> Step:
    """A pointwise convolution of channels-last images; how it is bound is kept by batch and number of threads."""
    own = PointwiseTensors(weights[node["weight"].name], _weight(node, "bias", weights), node["activation"])
    x, residual, last = node["input"].name, node["residual"], problem.memory_format
    ready: dict[tuple[int, int], Prepared | None] = {}

    def step(values: dict[str, Any], _: int) -> Tensor:
        given = values[x].contiguous(memory_format=last)
        added = None if residual is None else values[residual.name].contiguous(memory_format=last)
        if not len(given) or is_listened_to():
            return convolved(given, replace(own, residual=added), problem.geometry)
        key = len(given), torch.get_num_threads()
        if key not in ready:
            if len(ready) >= MOST_READY:
                ready.clear()
            ready[key] = CPU.prepared(given, own, replace(problem, batch=len(given)))
        found = ready[key]
        out = None if found is None else found.run(given, added)
        return convolved(given, replace(own, residual=added), problem.geometry) if out is None else out

    return step


def _depthwise(node: Node, weights: Mapping[str, Any]) -> Step:
    weight, bias = weights[node["weight"].name], _weight(node, "bias", weights)
    x, residual, activation = node["input"].name, node["residual"], node["activation"]
    stride, padding, dilation = node["stride"], node["padding"], node["dilation"]
    rank = len(stride)

    def step(values: dict[str, Any], _: int) -> Tensor:
        y = depthwise_conv(rank, values[x], weight, bias, stride, padding, dilation)
        return finished(y, None if residual is None else values[residual.name], activation)

    return step


def _weight(node: Node, key: str, weights: Mapping[str, Any]) -> Tensor | None:
    return None if node[key] is None else weights[node[key].name]


def _named(activation: Any) -> Any:
    """The activation as the functional forms take it: a slope only for those that have one."""
    has_slope = activation is not None and ACTIVATIONS[activation[0]].slope is not None
    return activation if activation is None or has_slope else activation[0]
