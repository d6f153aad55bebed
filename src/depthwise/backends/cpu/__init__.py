"""Kernels for this CPU, generated with LLVM and specialised to each layer; docs/cpu.md tells how.

Nothing of LLVM is imported before the first call that could run here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from ...geometry import Geometry
from ..base import Backend, DepthwiseTensors, PointwiseTensors, SeparableTensors, Weights
from ..calls import Prepared
from ..eager import by_parts, convolved, parts_of, pointwise
from ..packs import Packs
from ..pixels import PixelProblem, activations_of
from ..problem import Activation, Operation, Problem
from ..series import Compiled, Figures, Series
from ..tensors import is_listened_to
from ..weights import gradients_asked
from .autograd import is_last, recorded, run_recorded
from .operators import OPERATORS
from .plain import run_plain
from .run import executable


class Cpu(Backend):
    name = "cpu"
    summary = "kernels generated for this CPU"

    def refusal(self, problem: Problem | PixelProblem) -> str | None:
        if not isinstance(problem, Problem):
            return machine_refusal() or _unwritten(activations_of(problem))
        if problem.device != "cpu":
            return f"the tensors are on {problem.device}"
        if problem.dtype != torch.float32:
            return f"{problem.dtype} is not supported, only torch.float32"
        if problem.foreign is not None:
            return problem.foreign
        if problem.operation == "pointwise" and not is_last(problem):
            return "a pointwise convolution alone is computed of dense channels-last images"
        if problem.operation == "dense" and (problem.differentiable or not is_last(problem, or_planar=True)):
            return "a dense convolution is computed of dense images, channels-last or contiguous, to channels-last ones"
        return machine_refusal() or _unwritten(problem.activations)

    def details(self) -> tuple[str, ...]:
        if machine_refusal() is not None:
            return ()
        from .disk import store
        from .launch import machine
        from .run import threads

        target, runtime = machine(), threads.runtime()
        alone = threads.reason()
        return (
            f"{target.isa}, {target.vector_lanes} float32 lanes; generated for {target.cpu}",
            f"one thread: {alone}" if alone or runtime is None else _threads_of(runtime.library),
            store.summary(),
        )

    def kernel(self, problem: Problem | PixelProblem) -> str | None:
        if not isinstance(problem, Problem):
            from .launch import decide

            return decide(problem).name
        # Nothing runs where there is nothing to compute.
        if problem.strides is None or not problem.batch:
            return None
        from .launch import decide

        if problem.differentiable and problem.operation == "separable":
            alone = replace(problem, geometry=parts_of(problem.geometry)[0], activations=(None, None), residual=None)
            return f"{decide(alone).name}, and the other parts one by one: a gradient is needed"
        return decide(problem).name

    def run(self, x: Tensor, weights: Weights, problem: Problem) -> Tensor:
        if problem.traced or is_listened_to():
            return convolved(x, weights, problem.geometry)
        x, weights = x.resolve_neg(), weights.with_resolved_residual()
        added = None if weights.residual is None else weights.residual.stride()
        if (x.stride(), added) != (problem.strides, problem.residual):
            # Copies of views that negate need not lie as these do.
            problem = replace(problem, strides=x.stride(), residual=added)
        if not problem.differentiable:
            return run_plain(x, weights, problem)
        gradients_asked(weights.weights)
        return run_recorded(x, weights, problem)

    def prepared(self, x: Tensor, weights: Weights, problem: Problem) -> Prepared | None:
        from .launch import prepared

        negated = x.is_neg() or (weights.residual is not None and weights.residual.is_neg())
        if problem.traced or negated:
            return None
        return recorded(weights, problem) if problem.differentiable else prepared(weights, problem)

    def compiled(self, series: Series, packs: Packs) -> Compiled | None:
        from .series import ready

        return ready(series, packs)

    def figures(self, series: Series) -> Figures | None:
        from .series import figures

        return figures(series)

    def traced(self, x: Tensor, weights: Weights, problem: Problem) -> Tensor:
        if isinstance(weights, PointwiseTensors):
            return convolved(x, weights, problem.geometry)
        if problem.differentiable and isinstance(weights, SeparableTensors):
            alone, last = parts_of(problem.geometry)
            return by_parts(partial(_depthwise_node, g=alone), partial(pointwise, g=last), x, weights)
        out: Tensor = self.operators[problem.operation].default(x, *weights.arguments(problem.geometry))
        return out

    @property
    def operators(self) -> Mapping[Operation, Any]:
        return OPERATORS


def _depthwise_node(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    out: Tensor = OPERATORS["depthwise"].default(x, *DepthwiseTensors(weight, bias).arguments(g))
    return out


def _threads_of(library: str) -> str:
    policy = os.environ.get("OMP_WAIT_POLICY")
    advice = "OMP_WAIT_POLICY=PASSIVE makes waits shorter where others use the cores too"
    return f"threads of PyTorch's own {library}; {f'OMP_WAIT_POLICY={policy}' if policy else advice}"


def _unwritten(activations: Sequence[Activation]) -> str | None:
    """Which activation there is no emitter for, or None."""
    from .emit.activations import EMITTERS

    names = [activation[0] for activation in activations if activation is not None]
    return next((f"no code is generated for {name}" for name in names if name not in EMITTERS), None)


@cache
def machine_refusal() -> str | None:
    """Why no generated code runs in this process, or None where it does."""
    try:
        from .machine import host

        found = host()
    # Without the library itself, or with one for another system, llvmlite raises an OSError.
    except (ImportError, OSError) as error:
        return f"llvmlite cannot be imported: {error}"
    if found is None:
        return "this CPU has neither AVX2 with FMA, nor AVX-512, nor NEON"
    why = executable.refusal()
    if why is not None:
        # Its operators would fail where PyTorch has others that run.
        torch._C._set_mkldnn_enabled(False)  # noqa: FBT003
    return why


def release_memory() -> None:
    """Give the memory that is kept for the next training step back to the system."""
    if machine_refusal() is None:
        from .run.leases import release

        release()
