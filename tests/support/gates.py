"""Gated images and what reads them, with gradients, run directly in chosen memory and on chosen machines."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from depthwise.backends.cpu.lower import lower
from depthwise.backends.cpu.lower.fresh import packing_itself
from depthwise.backends.cpu.lower.gates import GateProblem, gradient_program
from depthwise.backends.cpu.lower.gradients import lower_gated_gradient
from depthwise.backends.cpu.lower.pointwise import scaled_program
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.run.bound import Bound
from depthwise.backends.cpu.run.program import Program
from depthwise.backends.problem import Problem
from depthwise.geometry import geometry
from tests.support.cases import small_integers
from tests.support.kernels import HEAP, Memory

# Fewer than are summed at once, as many, and more, even and odd.
PIXELS = (2, 63, 64, 65, 131)
# Below, equal to, a multiple of and above the lanes of every machine, and of four vectors.
CHANNELS = (1, 3, 8, 17, 31, 64, 71, 129)


def check_gate_gradients(
    target: Machine,
    memory: Memory = HEAP,
    *,
    channels: Iterable[int] = CHANNELS,
    pixels: Iterable[int] = PIXELS,
    team: int = 1,
) -> None:
    """Small integers, whose products and sums are exact."""
    for problem in [GateProblem(3, each, wide) for wide in channels for each in pixels]:
        size, row = (3, problem.pixels, problem.channels), (3, problem.channels)
        draw = small_integers(problem.channels)
        x, dy, factors = draw(size), draw(size), draw(row)
        tensors = {name: memory.place(one) for name, one in (("x", x), ("dy", dy), ("factors", factors))}
        tensors |= {"dx": memory.place(x).fill_(float("nan"))}
        tensors |= {"factors_gradient": memory.place(factors).fill_(float("nan"))}
        Bound(gradient_program(problem, target, team), 1.0).run({name: t.data_ptr() for name, t in tensors.items()})
        assert torch.equal(tensors["dx"], dy * factors[:, None]), f"dx of {problem}: elements differ"
        expected = (dy * x).sum(1)
        assert torch.equal(tensors["factors_gradient"], expected), f"factors of {problem}: elements differ"


# Channels, outputs: tiles and vectors that are whole, that overlap, or that are brought together first.
WIDTHS = ((16, 24), (17, 33), (9, 5), (1, 1), (96, 7), (200, 90))


def check_gated_convolution(
    target: Machine,
    memory: Memory = HEAP,
    *,
    widths: Iterable[tuple[int, int]] = WIDTHS,
    size: tuple[int, int] = (5, 9),
    team: int = 1,
) -> None:
    """x · factors, through a pointwise convolution, and all gradients: small integers, whose sums are exact."""
    for channels, outputs in widths:
        draw, images, pixels = small_integers(channels), 3, size[0] * size[1]
        x, gradient = draw((images, pixels, channels)), draw((images, pixels, outputs))
        weight, factors, shift = draw((outputs, channels)), draw((images, channels)), draw((images, channels))
        g = geometry((channels, *size), 1, out_channels=outputs)
        turned = geometry((outputs, *size), 1, out_channels=channels)
        strides, result = ((n * pixels, 1, n * size[1], n) for n in (channels, outputs))
        problem = Problem("pointwise", g, torch.float32, "cpu", images, strides, result, gated=True)
        forward = packing_itself(lower(problem, target, team).program, g, target, turned=False, bias=False)
        back = packing_itself(scaled_program(turned, images, target, team), turned, target, turned=True, bias=False)
        name = f"{channels} to {outputs} channels on {target.isa}"
        given = {"x": x, "gate": factors, "weight": weight}
        _check(forward, memory, given, {"out": x * factors[:, None] @ weight.T}, name)
        given = {"x": gradient, "scale": factors, "shift": shift, "weight": weight}
        _check(back, memory, given, {"out": gradient @ weight * factors[:, None] + shift[:, None]}, name)
        sums = torch.einsum("npo,npc->noc", gradient, x)
        given = {"x": x, "gradient": gradient, "weight": weight, "factors": factors}
        expected = {"weight_gradient": (sums * factors[:, None]).sum(0), "factors_gradient": (sums * weight).sum(1)}
        _check(lower_gated_gradient(g, images, target, team), memory, given, expected, name)


def _check(program: Program, memory: Memory, given: dict[str, Tensor], expected: dict[str, Tensor], name: str) -> None:
    tensors = {each: memory.place(tensor) for each, tensor in given.items()}
    tensors |= {each: memory.place(tensor.contiguous()).fill_(float("nan")) for each, tensor in expected.items()}
    Bound(program, 1.0).run({each: tensor.data_ptr() for each, tensor in tensors.items()})
    for each, tensor in expected.items():
        assert torch.equal(tensors[each], tensor), f"{each} of {name}: elements differ"
