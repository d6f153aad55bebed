"""Hand a checked call to the chosen backend, or put one node for it into a program that torch compiles.

The nodes are `torch.ops.depthwise.depthwise_conv` and `separable_conv`. They are composite: when the program is lowered
they become what the chosen backend does, so that autograd, autocast and fake tensors need nothing of their own: aten's
convolutions, or the CPU backend's operators, `cpu_depthwise_conv` and `cpu_separable_conv`. An exported program holds
none of these: plain aten convolutions stand in it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .backends import BACKENDS, EAGER, choose, is_observed
from .backends.base import Backend, PointwiseTensors, Weights
from .backends.calls import Prepared
from .backends.eager import convolved
from .backends.problem import Problem, problem_of
from .backends.schema import DEPTHWISE, SEPARABLE, of_depthwise, of_separable
from .backends.tensors import is_foreign, is_listened_to
from .cost import convolution_cost
from .geometry import Geometry


def convolution(x: Tensor, weights: Weights, g: Geometry) -> tuple[Tensor, Prepared | None]:
    """The convolution of `x`, (batch, *g.input_size), with these weights, and what may run calls like this one."""
    if _becomes_a_node():
        if isinstance(weights, PointwiseTensors):
            # A compiler knows torch's own.
            return convolved(x, weights, g), None
        nodes = torch.ops.depthwise
        node = nodes.depthwise_conv if weights.operation == "depthwise" else nodes.separable_conv
        return node.default(x, *weights.arguments(g)), None
    backend, problem = _chosen(x, weights, g)
    if torch.compiler.is_compiling() or is_observed() or is_listened_to():
        return backend.run(x, weights, problem), None
    prepared = backend.prepared(x, weights, problem)
    out = None if prepared is None else prepared.run(x, weights.residual)
    return (backend.run(x, weights, problem), None) if out is None else (out, prepared)


def _becomes_a_node() -> bool:
    return torch.compiler.is_compiling() and not _exporting()


def _exporting() -> bool:
    # What torch.compiler.is_exporting() returns, which torch 2.11 takes to be true wherever it compiles.
    exporting = torch.compiler._is_exporting_flag
    return exporting or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def _chosen(x: Tensor, weights: Weights, g: Geometry) -> tuple[Backend, Problem]:
    problem = problem_of(x, weights, g)
    # A transform of torch.func rewrites operators that it knows.
    if _exporting() or torch._C._functorch.peek_interpreter_stack() is not None:
        return EAGER, problem
    return choose(problem).backend, problem


_LIBRARY = torch.library.Library("depthwise", "DEF")
_LIBRARY.define(f"depthwise_conv({DEPTHWISE}) -> Tensor")
_LIBRARY.define(f"separable_conv({SEPARABLE}) -> Tensor")


def _depthwise_conv(x: Tensor, *arguments: Any) -> Tensor:
    return _lowered(x, *of_depthwise(x, *arguments))


def _separable_conv(x: Tensor, *arguments: Any) -> Tensor:
    return _lowered(x, *of_separable(x, *arguments))


def _lowered(x: Tensor, weights: Weights, g: Geometry) -> Tensor:
    _register_flop_formulas()
    backend, problem = _chosen(x, weights, g)
    run = backend.traced if is_foreign(x) or is_listened_to() else backend.run
    return run(x, weights, problem)


# functorch finds no composite kernel written in Python by itself, and would loop over the batch.
for _key in ("CompositeImplicitAutograd", "FuncTorchBatchedDecomposition"):
    _LIBRARY.impl("depthwise_conv", _depthwise_conv, _key)
    _LIBRARY.impl("separable_conv", _separable_conv, _key)


def depthwise_flops(x: Sequence[int], weight: Sequence[int], *_: object, out_shape: Sequence[int], **__: object) -> int:
    """FLOPs, 2 x MACs, from shapes: what torch.utils.flop_counter asks of an operator."""
    return 2 * x[0] * _macs(x[1], out_shape[1:], weight[2:], groups=x[1])


def separable_flops(
    x: Sequence[int],
    weight: Sequence[int],
    pointwise: Sequence[int],
    *_: object,
    out_shape: Sequence[int],
    **__: object,
) -> int:
    """FLOPs, 2 x MACs, of both steps."""
    middle = (weight[0], *out_shape[2:])
    groups = weight[0] // pointwise[1]
    depthwise_macs = _macs(x[1], middle, weight[2:], groups=x[1])
    return 2 * x[0] * (depthwise_macs + _macs(weight[0], out_shape[1:], pointwise[2:], groups))


def _macs(in_channels: int, out_size: Sequence[int], kernel_size: Sequence[int], groups: int) -> int:
    return convolution_cost(in_channels, tuple(out_size), tuple(kernel_size), groups).macs


@cache
def _register_flop_formulas() -> None:
    """Before a program can hold one of the operators, and no sooner: where there is triton, the module loads it."""
    from torch.utils.flop_counter import register_flop_formula

    nodes = torch.ops.depthwise
    own = [backend.operators for backend in BACKENDS if backend.operators]
    register_flop_formula([nodes.depthwise_conv, *(names["depthwise"] for names in own)])(depthwise_flops)
    register_flop_formula([nodes.separable_conv, *(names["separable"] for names in own)])(separable_flops)


if "torch.utils.flop_counter" in sys.modules:
    _register_flop_formulas()
