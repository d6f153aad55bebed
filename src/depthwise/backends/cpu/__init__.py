"""Kernels for this CPU, generated with LLVM and specialised to each layer; docs/cpu.md tells how.

Nothing of LLVM is imported before the first call that could run here.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...geometry import Geometry
from .. import recall
from ..base import Backend, Call, DepthwiseTensors, Runner, SeparableTensors, Weights
from ..eager import EAGER, by_parts, is_even, padded


class Cpu(Backend):
    name = "cpu"
    summary = "kernels generated for this CPU"

    def refusal(self, call: Call) -> str | None:
        if call.device != "cpu":
            return f"the tensors are on {call.device}"
        if call.dtype != torch.float32:
            return f"{call.dtype} is not supported, only torch.float32"
        if call.traced and call.differentiable:
            return "a program that computes gradients is being traced"
        return _machine_refusal()

    def details(self) -> tuple[str, ...]:
        if _machine_refusal() is not None:
            return ()
        from .launch import machine
        from .run import store, threads

        target, runtime, usage = machine(), threads.runtime(), store.usage()
        alone = threads.reason()
        return (
            f"{target.isa}, {target.vector_lanes} float32 lanes; generated for {target.cpu}",
            f"one thread: {alone}" if alone or runtime is None else f"threads of PyTorch's own {runtime.library}",
            f"kernels kept in memory only: {usage.refusal}" if usage.refusal else f"kernels kept in {usage.folder}",
        )

    def kernel(self, call: Call) -> str | None:
        if call.strides is None:
            return None
        from .launch import decide

        g = call.geometry
        by_parts = call.differentiable and call.operation == "separable"
        if by_parts:
            g = replace(g, out_channels=None, groups=1)
        x = torch.empty_strided((call.batch, *g.input_size), call.strides, device="meta")
        activations = (None, None) if by_parts else call.activations
        name = decide(g, x, activations, residual=call.residual, memory_format=call.memory_format).name
        return f"{name}, the other parts PyTorch's: a gradient is needed" if by_parts else name

    def depthwise(self, x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
        if not recall.is_plain(x):
            return EAGER.depthwise(x, weight, bias, g)
        if recall.needs_gradient(x, None, (weight, bias)):
            out: Tensor = _Depthwise.apply(x, weight, bias, g)  # type: ignore[no-untyped-call]
            return out
        return run_depthwise(x, weight, bias, g)

    def separable(self, x: Tensor, tensors: SeparableTensors, g: Geometry) -> Tensor:
        if not recall.is_plain(x):
            return EAGER.separable(x, tensors, g)
        # For the gradient of what is between the parts, a fused result would have to be computed again.
        if recall.needs_gradient(x, tensors.residual, tensors.weights):
            return by_parts(self.depthwise, x, tensors, g)
        return run_separable(x, tensors, g)

    def runner(self, x: Tensor, weights: Weights, g: Geometry) -> Runner | None:
        from .launch import launch_of

        return launch_of(x, weights, g)

    def traced_depthwise(self, x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
        out: Tensor = torch.ops.depthwise.cpu_depthwise_conv.default(x, weight, bias, *g.window)
        return out

    def traced_separable(self, x: Tensor, tensors: SeparableTensors, g: Geometry) -> Tensor:
        out: Tensor = torch.ops.depthwise.cpu_separable_conv.default(x, *tensors.arguments(g))
        return out


def run_depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    """The depthwise convolution of a tensor that needs no gradient."""
    from .launch import launch_of

    launch = launch_of(x, DepthwiseTensors(weight, bias), g)
    return EAGER.depthwise(x, weight, bias, g) if launch is None else launch(x, None)


def run_separable(x: Tensor, tensors: SeparableTensors, g: Geometry) -> Tensor:
    """The separable convolution of a tensor that needs no gradient."""
    from .launch import launch_of

    launch = launch_of(x, tensors, g)
    return EAGER.separable(x, tensors, g) if launch is None else launch(x, tensors.residual)


class _Depthwise(torch.autograd.Function):
    """Forward here, backward by PyTorch's own operator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.g, ctx.bias_sizes = g, None if bias is None else list(bias.shape)
        return run_depthwise(x, weight, bias, g)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return (*depthwise_gradients(gradient, x, weight, ctx.bias_sizes, ctx.g, ctx.needs_input_grad[:3]), None)


def depthwise_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, bias_sizes: list[int] | None, g: Geometry, wanted: tuple[bool, ...]
) -> list[Tensor | None]:
    """The gradients of input, weight and bias, by PyTorch's own operator."""
    wide, padding = padded(x, g)
    transposed, output_padding = False, [0] * g.rank
    window = g.stride, padding, g.dilation, transposed, output_padding, g.in_channels
    dx, dw, db = torch.ops.aten.convolution_backward(gradient, wide, weight, bias_sizes, *window, wanted)
    if dx is not None and not is_even(g):
        for axis, ((before, _), size) in enumerate(zip(g.padding, x.shape[2:], strict=True)):
            dx = dx.narrow(axis + 2, before, size)
    return [dx if wanted[0] else None, dw if wanted[1] else None, db if wanted[2] else None]


@cache
def _machine_refusal() -> str | None:
    try:
        from .machine import host
    except ImportError as error:
        return f"llvmlite cannot be imported: {error}"
    if host() is None:
        return "this CPU has neither AVX2 with FMA, nor AVX-512, nor NEON"
    return None
