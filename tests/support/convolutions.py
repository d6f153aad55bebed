"""Dense convolutions to test with: what runs them, in chosen memory and cut as chosen, and what they should give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import cycle, islice
from unittest.mock import patch

import torch
from torch import Tensor

from depthwise.backends.base import DenseTensors
from depthwise.backends.cpu.emit.dense import DenseKernel
from depthwise.backends.cpu.lower.dense import dense_program
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.pack import pack_of
from depthwise.backends.cpu.plan import tuning
from depthwise.backends.cpu.plan.dense import DenseCut
from depthwise.backends.cpu.plan.tuning import tuning_of
from depthwise.backends.cpu.run import threads
from depthwise.backends.cpu.run.program import ZEROS, Program, Table
from depthwise.backends.eager import CONVOLUTIONS, activate
from depthwise.backends.weights import NO_PRINTS
from depthwise.geometry import Geometry
from tests.support.cases import small_integers
from tests.support.kernels import HEAP, SMALL_CACHE, Input, Layer, Memory, assert_same, geometry_of, inputs_of


@dataclass(frozen=True)
class Numbers:
    """The tensors of one call, as they lie: the input by its layout, the residual channels-last."""

    x: Tensor
    tensors: DenseTensors

    @property
    def residual(self) -> Tensor | None:
        return self.tensors.residual

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Numbers:
        """`change` of every tensor."""
        own = self.tensors
        bias, added = (None if tensor is None else change(tensor) for tensor in (own.bias, own.residual))
        return Numbers(change(self.x), replace(own, weight=change(own.weight), bias=bias, residual=added))


def pixels_first(x: Tensor) -> Tensor:
    """`x` with its channels side by side, whatever its rank."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


Draw = Callable[[tuple[int, ...]], Tensor]


def numbers_of(layer: Layer, given: Input, draw: Draw | None = None) -> Numbers:
    """Of `draw`, or small integers."""
    draw, g = draw or small_integers(0), geometry_of(layer, given)
    x = draw((given.batch, *g.input_size))
    weight, bias = draw((g.output_size[0], layer.channels // layer.groups, *layer.kernel)), draw(g.output_size[:1])
    added = pixels_first(draw((given.batch, *g.output_size))) if layer.residual else None
    return Numbers(
        x if given.layout == "planar" else pixels_first(x), DenseTensors(weight, bias, layer.activations[1], added)
    )


def expected_of(g: Geometry, numbers: Numbers) -> Tensor:
    """PyTorch's result in float64."""
    own = numbers.tensors
    pads = [amount for pair in reversed(g.padding) for amount in pair]
    x = torch.nn.functional.pad(numbers.x.double(), pads)
    bias = None if own.bias is None else own.bias.double()
    y = CONVOLUTIONS[g.rank](x, own.weight.double(), bias, g.stride, 0, g.dilation, g.groups)
    return activate(y if own.residual is None else y + own.residual, own.activation)


def program_of(layer: Layer, given: Input, target: Machine) -> Program:
    """What would run, but for the heights of tiles, the first of the table: one kernel for all sizes.

    No call is too small for its threads. With a small cache there are several slabs of input channels, and bands.
    """
    tuned = replace(tuning_of(target), serial_macs=0)
    seen = replace(target, l1_bytes=SMALL_CACHE // 2, l2_bytes=SMALL_CACHE) if given.small_cache else target
    g, x = geometry_of(layer, given), numbers_of(layer, given).x
    with patch.dict(tuning.ROWS, {target.kind: tuned}):
        program = dense_program(
            *(g, given.batch, x.stride(), layer.activations[1]),
            residual=layer.residual,
            machine=seen,
            threads=given.threads,
        )
    (stage,) = program.stages
    assert isinstance(stage.kernel, DenseKernel)
    assert isinstance(stage.cut, DenseCut)
    k = stage.kernel.plan
    k = replace(k, heights=tuning_of(target).tiles[k.vectors][0])
    stage = replace(stage, kernel=DenseKernel(target, k), cut=stage.cut.with_sums(k))
    return Program((stage,))


def run(layer: Layer, given: Input, target: Machine, memory: Memory = HEAP, draw: Draw | None = None) -> Tensor:
    """The result, every buffer in `memory`, which starts as NaN."""
    return run_numbers(
        program_of(layer, given, target), numbers_of(layer, given, draw), geometry_of(layer, given), memory
    )


def run_numbers(program: Program, numbers: Numbers, g: Geometry, memory: Memory = HEAP) -> Tensor:
    pack = pack_of(numbers.tensors, program.pointwise)
    size = (len(numbers.x), *g.output_size)
    out = memory.empty_strided(size, pixels_first(torch.empty(size, device="meta")).stride())
    buffers = {"x": numbers.x, ZEROS: torch.zeros(program.zeros)}
    buffers |= {name: tensor for name in pack.addresses if (tensor := getattr(pack, name)) is not None}
    if numbers.residual is not None:
        buffers["residual"] = numbers.residual
    run_program(program, {name: memory.place(tensor) for name, tensor in buffers.items()} | {"out": out}, memory)
    return out


def run_program(program: Program, buffers: Mapping[str, Tensor], memory: Memory = HEAP) -> None:
    """Run a program on these buffers, in memory of its own that starts as NaN."""
    table = Table(program)
    places, elements = program.arena
    own = memory.floats(elements)
    for name, begin in places.items():
        table.fill(name, own.data_ptr() + 4 * begin)
    for name, tensor in buffers.items():
        table.fill(name, tensor.data_ptr())
    # Held as long as the address is used.
    _cells, address = table.copy()
    assert threads.launch(table.serial, table.parallel, address, NO_PRINTS.address, program.team) == 0


def assert_exact(layer: Layer, given: Input, target: Machine, memory: Memory = HEAP) -> None:
    """Check that small integers give PyTorch's numbers."""
    expected = expected_of(geometry_of(layer, given), numbers_of(layer, given))
    assert_same(run(layer, given, target, memory).double(), expected, f"{target.isa}, {layer}, {given}")


_RELU = (None, ("relu", 0.0))
# Channels below, equal to, a multiple of and above the lanes of every machine; windows of every kind; groups.
LAYERS = [
    *(Layer(channels, (3, 3), out_channels=5) for channels in (1, 2, 3, 7, 8, 9, 33, 70)),
    *(Layer(5, (2, 3), out_channels=outputs, residual=outputs % 2 == 0) for outputs in (1, 3, 8, 15, 16, 17, 24, 70)),
    *(Layer(3, (k, k), out_channels=9, stride=s) for k, s in ((7, 2), (4, 4), (1, 2), (5, 3))),
    *(Layer(6, kernel, out_channels=10, activations=_RELU) for kernel in ((1, 6), (6, 1), (5, 2))),
    *(Layer(4, (3, 3), out_channels=9, dilation=dilation) for dilation in (2, (1, 3))),
    *(Layer(4 * n, (3, 2), out_channels=4 * m, groups=4, residual=True) for n, m in ((1, 2), (2, 8), (5, 9), (8, 1))),
    Layer(16, (3, 3), out_channels=64, groups=8, stride=2, activations=_RELU),
    Layer(5, (2, 3, 2), out_channels=9, stride=(1, 2, 1), dilation=(2, 1, 1), residual=True),
    Layer(9, (5,), out_channels=17, stride=2, activations=_RELU),
]


KINDS = [("last", True), ("planar", False), ("last", False)]


def tried(count: int, kinds: int = 1) -> Iterator[tuple[Layer, Input]]:
    """Each layer with `count` inputs of each of `kinds` kinds, in turn, as each needs another kernel."""
    turns = cycle(KINDS)
    for layer in LAYERS:
        for layout, small_cache in islice(turns, kinds):
            for given in inputs_of(layer, count, (layout,)):
                yield layer, replace(given, small_cache=small_cache)
