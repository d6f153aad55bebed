"""A batch norm's programs run directly, in chosen memory and on chosen machines, and what they should give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor

from depthwise.backends.cpu.lower.norms import NormProblem, backward_program, forward_program
from depthwise.backends.cpu.machine import FLOAT_BYTES, Machine
from depthwise.backends.cpu.run import memory as buffers
from depthwise.backends.cpu.run.bound import Bound
from depthwise.backends.eager import activate
from tests.support.kernels import Memory

GRADIENTS = ("weight_gradient", "bias_gradient")
RUNNING = ("running_mean", "running_var")
NAMES = ("out", "dx", "dweight", "dbias", "dresidual")


@dataclass(frozen=True)
class Given:
    """The tensors of one batch norm: pixels of channels."""

    x: Tensor
    dy: Tensor
    weight: Tensor
    bias: Tensor
    residual: Tensor


def given(problem: NormProblem, draw: Callable[[tuple[int, ...]], Tensor]) -> Given:
    pixels, channels = (problem.pixels, problem.channels), (problem.channels,)
    return Given(draw(pixels), draw(pixels), draw(channels), draw(channels), draw(pixels))


def halves(problem: NormProblem, seed: int = 0) -> Given:
    """Small numbers whose statistics, results and gradients are all exact: every channel is -1, 1 about a whole mean.

    The number of pixels is a power of two, and eps is 3, so that the deviation is 2.
    """
    torch.manual_seed(seed)
    size = (problem.pixels, problem.channels)
    signs = torch.rand(size).argsort(0).remainder(2) * 2.0 - 1.0
    a, b, c = (torch.randint(-3, 4, (problem.channels,)).float() for _ in range(3))
    return Given(signs + a, torch.randint(-3, 4, size).float(), b, c, torch.randint(-3, 4, size).float())


def run(problem: NormProblem, numbers: Given, machine: Machine, threads: int, memory: Memory) -> dict[str, Tensor]:
    """Result, gradients and running statistics, which begin as biases, each read back from memory that began as NaN."""

    def placed(tensor: Tensor) -> Tensor:
        return memory.floats(tensor.numel()).view(tensor.shape).copy_(tensor)

    channels, pixels = problem.channels, ("x", "dy", "residual")
    tensors = {name: placed(_laid_out(getattr(numbers, name), problem)) for name in pixels}
    tensors |= {name: placed(getattr(numbers, name)) for name in ("weight", "bias")}
    for name in ("out", "dx", "dresidual"):
        tensors[name] = memory.floats(problem.pixels * channels).view(tensors["x"].shape)
    tensors["statistics"] = memory.floats(4 * channels).view(4, channels)
    for name in GRADIENTS:
        tensors[name] = memory.floats(channels)
    for name in RUNNING:
        tensors[name] = placed(numbers.bias)
    addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}

    def scratch(size: int) -> buffers.Buffer:
        own = memory.floats(size // FLOAT_BYTES)
        return buffers.Buffer(size, own.data_ptr(), own)

    with patch.object(buffers, "scratch", scratch):
        Bound(forward_program(problem, machine, threads), 1.0).run(addresses)
        Bound(backward_program(problem, machine, threads, input_gradient=True), 1.0).run(addresses)
    found = {name: _as_pixels(tensors[name], problem) for name in ("out", "dx")}
    found |= {"statistics": tensors["statistics"]}
    found |= {name: tensors[name] for name in RUNNING if problem.momentum is not None}
    found |= {name: tensors[buffer] for name, buffer in zip(("dweight", "dbias"), GRADIENTS, strict=True)}
    return found | ({"dresidual": _as_pixels(tensors["dresidual"], problem)} if problem.residual else {})


def _laid_out(pixels: Tensor, problem: NormProblem) -> Tensor:
    """(pixels, channels) as the problem has them: or (images, channels, pixels of a plane)."""
    plane = problem.plane
    return pixels.view(-1, plane, problem.channels).transpose(1, 2).contiguous() if plane else pixels


def _as_pixels(laid: Tensor, problem: NormProblem) -> Tensor:
    return laid.transpose(1, 2).reshape(-1, problem.channels) if problem.plane else laid


def assert_exact(problem: NormProblem, machine: Machine, threads: int, memory: Memory) -> None:
    """Numbers whose results are exact: bit-equal to float64's."""
    numbers = halves(problem)
    found, wanted = run(problem, numbers, machine, threads, memory), expected(problem, numbers)
    for name, value in found.items():
        # The last row of the statistics, by n - 1, is not exact.
        rows = slice(0, 3) if name == "statistics" else slice(None)
        assert torch.equal(value[rows], wanted[name].float()[rows]), f"{name} of {problem}: elements differ"


def assert_near(problem: NormProblem, numbers: Given, found: dict[str, Tensor]) -> None:
    """Within 3e-6 of the largest of its kind, as the sums and the activations are within a few roundings."""
    for name, exact in expected(problem, numbers).items():
        scale = exact.abs().amax(dim=-1, keepdim=True) if name == "statistics" else exact.abs().max()
        error = ((found[name] - exact).abs() / scale.clamp(min=1e-6)).max().item()
        assert error < 3e-6, f"{name} of {problem}: elements differ by {error}"


def expected(problem: NormProblem, numbers: Given) -> dict[str, Tensor]:
    """The same by its definition in float64, differentiated by torch."""
    x, weight, bias, residual = (
        tensor.double().requires_grad_() for tensor in (numbers.x, numbers.weight, numbers.bias, numbers.residual)
    )
    centred = x - x.mean(0)
    var = centred.square().mean(0)
    inverse = 1 / (var + problem.eps).sqrt()
    y = centred * (inverse * weight) + bias
    out = activate(y + residual if problem.residual else y, problem.activation)
    wanted = [x, weight, bias, *([residual] if problem.residual else [])]
    gradients = torch.autograd.grad(out, wanted, numbers.dy.double())
    found = dict(zip(NAMES, (out.detach(), *gradients), strict=False))
    unbiased = var * (problem.pixels / (problem.pixels - 1))
    if problem.momentum is not None:
        moved = (x.mean(0), unbiased)
        found |= {
            name: (1 - problem.momentum) * bias + problem.momentum * batch
            for name, batch in zip(RUNNING, moved, strict=True)
        }
        found = {name: each.detach() for name, each in found.items()}
    return found | {"statistics": torch.stack((x.mean(0), inverse, inverse * weight, unbiased)).detach()}
