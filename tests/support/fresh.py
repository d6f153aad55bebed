"""Pointwise weights packed by generated code, in chosen memory, against those that torch's operators pack."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from depthwise.backends.cpu.lower.fresh import with_fresh_panels
from depthwise.backends.cpu.lower.pointwise import pointwise_program
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.pack import LARGEST_DENORMAL, pack_pointwise
from depthwise.backends.cpu.plan.pointwise import PointwisePlan
from depthwise.backends.cpu.run.bound import Bound
from depthwise.backends.cpu.run.program import Program
from depthwise.geometry import geometry
from tests.support.kernels import Memory

# Terms and outputs of a group, and groups: vectors that overlap, panels that are not full, few terms.
SIZES = [(1, 1, 1), (3, 2, 1), (8, 24, 1), (17, 33, 1), (5, 9, 3), (40, 56, 2), (64, 16, 1), (130, 12, 1), (9, 104, 2)]


def plan_and_pack(
    terms: int, outputs: int, groups: int, target: Machine, *, turned: bool, bias: bool, threads: int
) -> tuple[PointwisePlan, Program]:
    """The plan of a product, and the program that packs its weights, alone."""
    g = geometry((groups * terms, 5, 5), 1, out_channels=groups * outputs, groups=groups)
    whole = pointwise_program(g, 1, groups * terms, None, residual=False, machine=target, threads=threads)
    plan = whole.pointwise
    assert isinstance(plan, PointwisePlan)
    first = with_fresh_panels(whole, plan, target, turned=turned, bias=bias).stages[0]
    return plan, Program((replace(first, cut=replace(first.cut, threads=threads)),))


def check_fresh(
    terms: int,
    outputs: int,
    groups: int,
    target: Machine,
    memory: Memory,
    *,
    turned: bool,
    bias: bool,
    threads: int = 1,
) -> None:
    plan, program = plan_and_pack(terms, outputs, groups, target, turned=turned, bias=bias, threads=threads)
    torch.manual_seed(0)
    weight, biases = torch.randn(groups, outputs, terms), torch.randn(groups * outputs)
    for tensor in (weight, biases):
        tensor.flatten()[::3] *= LARGEST_DENORMAL
    expected = pack_pointwise(weight.flatten(0, 1), biases if bias else None, plan)
    lies: Tensor = weight.transpose(1, 2).contiguous() if turned else weight
    tensors = {"weight": memory.place(lies), "bias": memory.place(biases)}
    packed = [memory.floats(each.numel()) for each in expected]
    tensors |= dict(zip(("pointwise_weight", "pointwise_bias"), packed, strict=True))
    Bound(program, 1.0).run({name: tensor.data_ptr() for name, tensor in tensors.items()})
    for name, found, wanted in zip(("weight", "bias"), packed, expected, strict=True):
        assert torch.equal(found, wanted.flatten()), f"{name} of {program.name}: elements differ"
