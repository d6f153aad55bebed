"""Kernels for this CPU, generated with LLVM and specialised to each layer; docs/cpu.md tells how.

Nothing of LLVM is imported before the first call that could run here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...geometry import Geometry
from ..base import Backend, DepthwiseTensors, PointwiseTensors, Weights
from ..calls import Prepared
from ..eager import by_parts, convolved
from ..problem import Activation, Operation, Problem, problem_of
from ..tensors import is_listened_to
from ..weights import gradients_asked
from .operators import differentiable_depthwise, run_plain
from .run import executable


class Cpu(Backend):
    name = "cpu"
    summary = "kernels generated for this CPU"

    def refusal(self, problem: Problem) -> str | None:
        if problem.device != "cpu":
            return f"the tensors are on {problem.device}"
        if problem.dtype != torch.float32:
            return f"{problem.dtype} is not supported, only torch.float32"
        if problem.foreign is not None:
            return problem.foreign
        if problem.operation == "pointwise" and (problem.differentiable or not _is_last(problem)):
            return "a pointwise convolution alone is computed of dense channels-last images, without gradients"
        if problem.traced and problem.differentiable:
            return "a program that computes gradients is being traced"
        return _machine_refusal() or _unwritten(problem.activations)

    def details(self) -> tuple[str, ...]:
        if _machine_refusal() is not None:
            return ()
        from .launch import machine
        from .run import store, threads

        target, runtime = machine(), threads.runtime()
        alone = threads.reason()
        return (
            f"{target.isa}, {target.vector_lanes} float32 lanes; generated for {target.cpu}",
            f"one thread: {alone}" if alone or runtime is None else _threads_of(runtime.library),
            store.summary(),
        )

    def kernel(self, problem: Problem) -> str | None:
        # Nothing runs where there is nothing to compute.
        if problem.strides is None or not problem.batch:
            return None
        from .launch import decide

        if problem.differentiable and problem.operation == "separable":
            alone = replace(problem, geometry=_alone(problem.geometry), activations=(None, None), residual=None)
            return f"{decide(alone).name}, the other parts PyTorch's: a gradient is needed"
        return decide(problem).name

    def run(self, x: Tensor, weights: Weights, problem: Problem) -> Tensor:
        if problem.traced or is_listened_to():
            return convolved(x, weights, problem.geometry)
        x, weights = x.resolve_neg(), weights.with_resolved_residual()
        if not problem.differentiable:
            return run_plain(x, weights, problem)
        gradients_asked(weights.weights)
        if isinstance(weights, DepthwiseTensors):
            return differentiable_depthwise(x, weights.weight, weights.bias, problem)
        if isinstance(weights, PointwiseTensors):
            return convolved(x, weights, problem.geometry)
        # For the gradient of what is between the parts, a fused result would have to be computed again.
        return by_parts(_differentiable, x, weights, problem.geometry)

    def prepared(self, x: Tensor, weights: Weights, problem: Problem) -> Prepared | None:
        from .launch import prepared

        negated = x.is_neg() or (weights.residual is not None and weights.residual.is_neg())
        if problem.traced or problem.differentiable or negated:
            return None
        return prepared(weights, problem)

    def traced(self, x: Tensor, weights: Weights, problem: Problem) -> Tensor:
        if isinstance(weights, PointwiseTensors):
            return convolved(x, weights, problem.geometry)
        out: Tensor = self.operators[problem.operation].default(x, *weights.arguments(problem.geometry))
        return out

    @property
    def operators(self) -> Mapping[Operation, Any]:
        own = torch.ops.depthwise
        return {"depthwise": own.cpu_depthwise_conv, "separable": own.cpu_separable_conv}


def _differentiable(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    return differentiable_depthwise(x, weight, bias, problem_of(x, DepthwiseTensors(weight, bias), g))


def _threads_of(library: str) -> str:
    policy = os.environ.get("OMP_WAIT_POLICY")
    advice = "OMP_WAIT_POLICY=PASSIVE makes waits shorter where others use the cores too"
    return f"threads of PyTorch's own {library}; {f'OMP_WAIT_POLICY={policy}' if policy else advice}"


def _is_last(problem: Problem) -> bool:
    """Whether input and result of a problem are dense, pixel by pixel, and its residual too."""
    if problem.memory_format == torch.contiguous_format or problem.strides is None:
        return False
    x = torch.empty_strided((problem.batch, *problem.geometry.input_size), problem.strides, device="meta")
    added = problem.result if problem.residual is None else problem.residual
    return x.is_contiguous(memory_format=problem.memory_format) and added == problem.result


def _alone(g: Geometry) -> Geometry:
    """The depthwise step alone."""
    return replace(g, out_channels=None, groups=1)


def _unwritten(activations: tuple[Activation, Activation]) -> str | None:
    """Which activation there is no emitter for, or None."""
    from .emit.activations import EMITTERS

    names = [activation[0] for activation in activations if activation is not None]
    return next((f"no code is generated for {name}" for name in names if name not in EMITTERS), None)


def machine_refusal() -> str | None:
    """Why no generated code runs in this process, or None where it does."""
    return _machine_refusal()


@cache
def _machine_refusal() -> str | None:
    try:
        from .machine import host
    # Without the library itself, or with one for another system, llvmlite raises an OSError.
    except (ImportError, OSError) as error:
        return f"llvmlite cannot be imported: {error}"
    if host() is None:
        return "this CPU has neither AVX2 with FMA, nor AVX-512, nor NEON"
    why = executable.refusal()
    if why is not None:
        # Its operators would fail where PyTorch has others that run.
        torch._C._set_mkldnn_enabled(False)  # noqa: FBT003
    return why
