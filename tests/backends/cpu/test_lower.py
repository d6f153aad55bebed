"""Problems that become stages: pointwise convolutions alone, and stages of several layers in one program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from depthwise import reference
from depthwise.backends.base import DepthwiseTensors
from depthwise.backends.cpu.emit.depthwise import DepthwiseKernel
from depthwise.backends.cpu.lower.pointwise import pointwise_program
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.pack import pack_of, pack_pointwise
from depthwise.backends.cpu.plan.pointwise import PointwisePlan
from depthwise.backends.cpu.run import threads
from depthwise.backends.cpu.run.program import SCRATCH, ZEROS, Program, Stage, Table
from depthwise.backends.eager import activate
from depthwise.backends.problem import Activation
from depthwise.backends.weights import NO_PRINTS
from depthwise.geometry import geometry
from tests.support.cases import small_integers
from tests.support.kernels import HERE, NAN, Input, Layer, assert_same, decide, numbers_of

on_each_machine = pytest.mark.parametrize("target", HERE, ids=lambda target: target.isa)
LAST = torch.channels_last


def run(program: Program, buffers: Mapping[str, Tensor]) -> None:
    """Run a program on these buffers, in memory of its own that starts as NaN."""
    table = Table(program)
    places, elements = program.arena
    own, zeros = torch.full((max(elements, 1),), NAN), torch.zeros(program.zeros)
    for name, begin in places.items():
        table.fill(name, own[begin:].data_ptr() if begin < elements else own.data_ptr())
    table.fill(ZEROS, zeros.data_ptr())
    for name, tensor in buffers.items():
        table.fill(name, tensor.data_ptr())
    assert set(table.places) - {ZEROS, *places, *buffers} <= {"residual"}
    _cells, address = table.copy()
    assert threads.launch(table.serial, table.parallel, address, NO_PRINTS.address, program.team) == 0


@on_each_machine
@pytest.mark.parametrize("team", [1, 2, 3])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    ("size", "out", "groups", "pixel_stride"), [((5, 7, 9), 33, 1, 5), ((24, 3, 4), 40, 2, 31), ((16, 1, 2), 8, 4, 16)]
)
def test_a_pointwise_convolution_alone(
    size: tuple[int, int, int], out: int, groups: int, pixel_stride: int, residual: bool, team: int, target: Machine
) -> None:
    g, draw = geometry(size, 1, out_channels=out, groups=groups), small_integers(0)
    activation: Activation = ("leaky_relu", 0.25)
    channels, height, width = size
    x = draw((2, height, width, pixel_stride)).permute(0, 3, 1, 2)[:, :channels]
    weight, bias, added = draw((out, channels // groups, 1, 1)), draw((out,)), draw((2, out, height, width))
    expected = reference.pointwise_conv(x, weight, bias, groups)
    expected = activate(expected + added if residual else expected, activation)
    program = pointwise_program(g, 2, pixel_stride, activation, residual=residual, machine=target, threads=team)
    assert isinstance(program.pointwise, PointwisePlan)
    packed, flat = pack_pointwise(weight, bias, program.pointwise)
    result = torch.full((2, out, height, width), NAN).contiguous(memory_format=LAST)
    added = added.contiguous(memory_format=LAST)
    own = {"pointwise_weight": packed, "pointwise_bias": flat, "residual": added}
    run(program, {"x": x, "out": result, **own})
    assert_same(result, expected, f"{target.isa}, {team} threads")


@on_each_machine
@pytest.mark.parametrize("team", [1, 3])
def test_two_layers_in_one_program(team: int, target: Machine) -> None:
    """Each stage reads a frame of its own: the same kernel twice is one kernel, at two places of memory."""
    layer, given = Layer(9, (3, 3)), Input(1, (14, 17), 1, threads=team)
    numbers = numbers_of(layer, given, lambda shape: small_integers(0)(shape).sign())
    x = numbers.x.contiguous(memory_format=LAST)
    (stage,) = decide(layer, given, x, target).program.stages

    def of_layer(index: int, **ends: str) -> Stage:
        names = {name: f"{name}{index}" for name in stage.kernel.pointers if name.startswith("depthwise_")}
        return replace(stage, buffers=tuple((names | ends).items()))

    one, two = of_layer(1, out="between"), of_layer(2, x="between")
    program = Program((one, two), (("between", x.numel()),))
    assert len(set(program.kernels)) == 1
    assert isinstance(program.kernels[0], DepthwiseKernel)
    assert program.codes[1] is program.codes[2]
    weights = [DepthwiseTensors(small_integers(seed)((9, 1, 3, 3)).sign(), torch.ones(9)) for seed in (1, 2)]
    packs = [pack_of(own, None) for own in weights]
    result = torch.full_like(x, NAN)
    own = {f"{name}{i}": getattr(pack, name) for i, pack in enumerate(packs, 1) for name in pack.addresses}
    run(program, {"x": x, "out": result, **own})
    expected = x
    for layer_weights in weights:
        expected = reference.depthwise_conv(expected, layer_weights.weight, layer_weights.bias, padding=1)
    assert_same(result, expected, target.isa)


@on_each_machine
def test_memory_of_a_program_is_for_its_largest_stage(target: Machine) -> None:
    layer, given = Layer(9, (3, 3), out_channels=33), Input(3, (6, 9), 1, threads=2)
    x = torch.empty((3, 9, 6, 9)).contiguous(memory_format=LAST)
    (stage,) = decide(layer, given, x, target).program.stages
    large = replace(stage, cut=replace(stage.cut, threads=3, scratch_elements=1000))
    to_a, from_a = (replace(large, buffers=((pointer, "a"),)) for pointer in ("out", "x"))
    program = Program((stage, to_a, from_a), (("a", 10), ("b", 20)))
    # "a" in whole cache lines; nobody uses "b".
    assert program.arena == ({"a": 0, SCRATCH: 16}, 3016)
    assert program.team == 3
    assert program.zeros == stage.zeros
