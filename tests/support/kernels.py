"""Run a program directly: on a chosen machine, in chosen memory, cut into tasks as chosen; and what it should give."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import cycle
from random import Random
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor

from depthwise import reference
from depthwise.backends.base import DepthwiseTensors, SeparableTensors
from depthwise.backends.cpu import launch, machine
from depthwise.backends.cpu.emit.boxes import BoxedDepthwiseKernel, PackedDepthwiseKernel
from depthwise.backends.cpu.emit.depthwise import DepthwiseKernel
from depthwise.backends.cpu.emit.direct import DirectKernel
from depthwise.backends.cpu.emit.fused import BoxedFusedKernel, FusedKernel
from depthwise.backends.cpu.emit.kernel import Kernel
from depthwise.backends.cpu.emit.padded import PaddedKernel
from depthwise.backends.cpu.emit.patches import PatchKernel
from depthwise.backends.cpu.emit.planar import PlanarPointwiseKernel
from depthwise.backends.cpu.emit.pointwise import PointwiseKernel
from depthwise.backends.cpu.launch import Launch
from depthwise.backends.cpu.lower.decision import Decision
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.pack import Pack, pack_of
from depthwise.backends.cpu.plan import planar, tuning
from depthwise.backends.cpu.plan.pointwise import PointwisePlan
from depthwise.backends.cpu.plan.tuning import tuning_of
from depthwise.backends.cpu.run import memory as buffers
from depthwise.backends.cpu.run import threads
from depthwise.backends.cpu.run.program import Program, Stage
from depthwise.backends.eager import activate
from depthwise.backends.formats import suggested_format, suggested_strides
from depthwise.backends.problem import Activation, Operation, Problem
from depthwise.backends.weights import NO_PRINTS
from depthwise.geometry import Geometry, IntOrTuple, Padding, geometry, per_axis
from tests.support.cases import CHANNELS_LAST, small_integers

HOST = machine.host()
# One for each vector width that this machine can run.
HERE = [] if HOST is None else [HOST, *([machine.avx2()] if HOST.isa == "avx512" else [])]
NAN = float("nan")
Thing = TypeVar("Thing")
# So little cache that small images are cut into many bands and boxes.
SMALL_CACHE = 4096


@dataclass(frozen=True)
class Layer:
    """What is constant in a program's code: a depthwise convolution, or with `out_channels` a separable one."""

    channels: int
    kernel: tuple[int, ...]
    multiplier: int = 1
    out_channels: int | None = None
    groups: int = 1
    stride: IntOrTuple = 1
    dilation: IntOrTuple = 1
    activations: tuple[Activation, Activation] = (None, None)
    residual: bool = False

    @property
    def rank(self) -> int:
        return len(self.kernel)

    @property
    def filters(self) -> int:
        return self.channels * self.multiplier

    @property
    def window(self) -> dict[str, Any]:
        return {"stride": self.stride, "dilation": self.dilation}

    @property
    def reach(self) -> list[int]:
        """Input elements from the first to the last that an output sees, along each axis."""
        return [
            d * (k - 1) + 1 for k, d in zip(self.kernel, per_axis(self.dilation, self.rank, "dilation"), strict=True)
        ]


@dataclass(frozen=True)
class Input:
    """What may change from call to call."""

    batch: int
    spatial: tuple[int, ...]
    padding: Padding = 0
    layout: str = "last"
    threads: int = 1
    small_cache: bool = False


def geometry_of(layer: Layer, given: Input) -> Geometry:
    return geometry(
        (layer.channels, *given.spatial),
        layer.kernel,
        padding=given.padding,
        depth_multiplier=layer.multiplier,
        out_channels=layer.out_channels,
        groups=layer.groups,
        **layer.window,
    )


@dataclass(frozen=True)
class Numbers:
    """The tensors of one call, contiguous."""

    x: Tensor
    weights: DepthwiseTensors | SeparableTensors

    @property
    def residual(self) -> Tensor | None:
        return self.weights.residual

    @property
    def separable(self) -> SeparableTensors:
        assert isinstance(self.weights, SeparableTensors)
        return self.weights

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Numbers:
        """`change` of every tensor."""
        tensors = {field.name: getattr(self.weights, field.name) for field in fields(self.weights)}
        changed: dict[str, Any] = {name: change(value) for name, value in tensors.items() if isinstance(value, Tensor)}
        return Numbers(change(self.x), replace(self.weights, **changed))


def numbers_of(layer: Layer, given: Input, draw: Callable[[tuple[int, ...]], Tensor]) -> Numbers:
    g = geometry_of(layer, given)
    x = draw((given.batch, *g.input_size))
    weight, bias = draw((layer.filters, 1, *layer.kernel)), draw((layer.filters,))
    if layer.out_channels is None:
        return Numbers(x, DepthwiseTensors(weight, bias))
    pointwise = draw((layer.out_channels, layer.filters // layer.groups, *(1,) * layer.rank))
    residual = draw((given.batch, *g.output_size)) if layer.residual else None
    return Numbers(
        x, SeparableTensors(weight, pointwise, bias, draw((layer.out_channels,)), *layer.activations, residual)
    )


def expected_of(layer: Layer, given: Input, numbers: Numbers) -> Tensor:
    """The reference's result, in the dtype of the numbers."""
    window = {"padding": given.padding, **layer.window}
    w = numbers.weights
    if isinstance(w, DepthwiseTensors):
        return reference.depthwise_conv(numbers.x, w.weight, w.bias, **window)
    y = activate(
        reference.depthwise_conv(numbers.x, w.depthwise_weight, w.depthwise_bias, **window), layer.activations[0]
    )
    y = reference.pointwise_conv(y, w.pointwise_weight, w.pointwise_bias, layer.groups)
    return activate(y if w.residual is None else y + w.residual, layer.activations[1])


@lru_cache(maxsize=4096)
def exact_example(layer: Layer, given: Input) -> tuple[Numbers, Tensor]:
    """Small integers, and what the reference makes of them."""
    numbers = numbers_of(layer, given, small_integers(0))
    return numbers, expected_of(layer, given, numbers)


class Memory:
    """Where buffers lie; each begins as NaN."""

    def floats(self, count: int) -> Tensor:
        """`count` numbers of their own."""
        return torch.full((count,), NAN)

    def empty_strided(self, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        return self.floats(span(size, stride)).as_strided(size, stride)

    def place(self, tensor: Tensor) -> Tensor:
        """A copy with the same strides; what its strides step over stays NaN."""
        copy = self.empty_strided(tuple(tensor.shape), tensor.stride())
        for axis, stride in enumerate(tensor.stride()):
            if stride == 0:
                tensor = tensor.narrow(axis, 0, 1)
        copy.as_strided(tensor.shape, tensor.stride()).copy_(tensor)
        return copy


class Roomy(Memory):
    """Buffers with room around them: a mutant that reaches beside one does no harm, and meets NaN."""

    def floats(self, count: int) -> Tensor:
        room = 1 << 14
        return torch.full((count + 2 * room,), NAN)[room : room + count]


def span(size: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements from the first of a tensor to its last."""
    return 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if all(size) else 0


HEAP = Memory()


def laid_out(x: Tensor, layout: str) -> Tensor:
    """`x` in strides of this layout; see `LAYOUTS`."""
    where, _, how = layout.partition("_")
    rank = x.dim() - 2
    rows_last = rank > 1 and how == "sliced"
    wide = x
    if how == "sliced":
        # Slices along channels, columns, rows: nothing but the innermost axis lies as if it were alone.
        wide = torch.nn.functional.pad(x, (1, 2) + (0, 1) * rows_last + (0, 0) * (rank - 1 - rows_last) + (2, 3))
    elif how == "strided":
        wide = x.repeat_interleave(2, dim=-1)
    elif how == "expanded":
        wide = x[:1]
    if where == "last":
        wide = wide.movedim(1, -1).contiguous().movedim(-1, 1)
    if how == "sliced":
        wide = wide[:, 2:-3, ..., 1:-2]
        return wide[..., :-1, :] if rows_last else wide
    if how == "strided":
        return wide[..., ::2]
    return wide.expand_as(x) if how == "expanded" else wide


# last: channels side by side; planar: columns. A strided planar input has neither, and is copied first.
LAYOUTS = ("last", "planar", "last_sliced", "planar_sliced", "last_strided", "planar_strided", "last_expanded")


def input_tensor(layer: Layer, given: Input, x: Tensor) -> Tensor:
    if given.layout == "last" and layer.rank > 1:
        # Of torch's own strides, which differ where an extent is 1.
        return x.contiguous(memory_format=CHANNELS_LAST[layer.rank])
    return laid_out(x, given.layout)


def problem_of(
    g: Geometry, x: Tensor, activations: tuple[Activation, Activation] = (None, None), *, residual: bool = False
) -> Problem:
    """A convolution of `x`, whose result and residual lie as it does."""
    result = suggested_strides((x.shape[0], *g.output_size), x)
    operation: Operation = "depthwise" if g.out_channels is None else "separable"
    added = result if residual else None
    return Problem(operation, g, x.dtype, "cpu", x.shape[0], x.stride(), result, activations, added)


def decide(layer: Layer, given: Input, x: Tensor, target: Machine) -> Decision:
    """What the backend would run, but for the heights of tiles, the first of the table: one program for all sizes.

    No call is too small for its threads. With a small cache, bands begin within rows rather than two stages run, and
    what is contiguous is multiplied as pixels, in boxes.
    """
    tuned = replace(
        tuning_of(target),
        serial_macs=0,
        far_strip_rows=2,
        fewest_pixels=2,
        fewest_pixels_far=2,
        two_stages=100.0 if given.small_cache else 1.0,
    )
    seen = replace(target, l1_bytes=SMALL_CACHE, l2_bytes=SMALL_CACHE) if given.small_cache else target
    with (
        patch.object(threads, "team_size", lambda: given.threads),
        patch.dict(tuning.ROWS, {target.kind: tuned}),
        patch.object(planar, "MACS_TO_PLANES", -1 if given.small_cache else planar.MACS_TO_PLANES),
    ):
        problem = problem_of(geometry_of(layer, given), x, layer.activations, residual=layer.residual)
        decision = launch.decide(problem, seen)
    pointwise = decision.program.pointwise
    if isinstance(pointwise, PointwisePlan):
        pointwise = replace(pointwise, heights=tuning_of(target).tiles[pointwise.vectors][0])
    return with_kernels(decision, machine=target, pointwise=pointwise)


def with_kernels(decision: Decision, **changes: Any) -> Decision:
    """The same with these fields of the kernels that have them."""

    def changed(stage: Stage) -> Stage:
        own = {field.name for field in fields(stage.kernel)} & set(changes)
        return replace(stage, kernel=replace(stage.kernel, **{name: changes[name] for name in own}))

    return with_stages(decision, changed)


def with_stages(decision: Decision, change: Callable[[Stage], Stage]) -> Decision:
    stages = tuple(map(change, decision.program.stages))
    return replace(decision, program=replace(decision.program, stages=stages))


def plan_of(program: Program) -> Any:
    """That of the first loop nest."""
    return program.kernels[0].plans[0]


def program_of(layer: Layer, given: Input, target: Machine) -> Program:
    x = input_tensor(layer, given, torch.empty(given.batch, layer.channels, *given.spatial))
    return decide(layer, given, x, target).program


def run_decision(decision: Decision, g: Geometry, x: Tensor, numbers: Numbers, memory: Memory = HEAP) -> Tensor:
    """The result of `numbers`, whose input is `x`, with every buffer in `memory`."""
    pack = pack_of(numbers.weights, decision.program.pointwise)
    kept = {field.name: getattr(pack, field.name) for field in fields(Pack) if field.name != "number"}
    copies: dict[str, Any] = {name: None if tensor is None else memory.place(tensor) for name, tensor in kept.items()}
    x, residual = memory.place(x), numbers.residual
    if residual is not None:
        residual = memory.place(residual.contiguous(memory_format=suggested_format(x)))
    with patch.object(buffers, "zeros", lambda count: memory.place(torch.zeros(count))):
        launched = Launch(decision, problem_of(g, x, residual=residual is not None))

    def scratch(size: int) -> buffers.Buffer:
        floats = memory.floats(-(-size // 4))
        return buffers.Buffer(size, floats.data_ptr(), floats)

    with (
        patch.object(buffers, "new_result", lambda size, stride, _: memory.empty_strided(size, stride)),
        patch.object(buffers, "scratch", scratch),
    ):
        out = launched.run(x, residual, Pack(**copies), NO_PRINTS.address)
    assert out is not None
    return out


def run(layer: Layer, given: Input, numbers: Numbers, target: Machine, memory: Memory = HEAP) -> Tensor:
    x = input_tensor(layer, given, numbers.x)
    return run_decision(decide(layer, given, x, target), geometry_of(layer, given), x, numbers, memory)


def assert_exact(layer: Layer, given: Input, target: Machine, memory: Memory = HEAP) -> None:
    """Check that small integers give the reference's bits."""
    numbers, expected = exact_example(layer, replace(given, layout="planar", threads=1, small_cache=False))
    if given.layout.endswith("expanded"):
        numbers = replace(numbers, x=numbers.x[:1].expand_as(numbers.x))
        expected = expected_of(layer, given, numbers)
    assert_same(run(layer, given, numbers, target, memory), expected, f"{target.isa}, {layer}, {given}")


def assert_same(actual: Tensor, expected: Tensor, what: str) -> None:
    """Check that two tensors have the same numbers, NaN included."""
    assert actual.shape == expected.shape, f"{what}: {tuple(actual.shape)} is not {tuple(expected.shape)}"
    differs = (actual != expected) & ~(actual.isnan() & expected.isnan())
    first = differs.nonzero()[0].tolist() if differs.any() else None
    assert first is None, (
        f"{what}: {int(differs.sum())} of {actual.numel()} elements differ, the first at {first}: "
        f"{float(actual[tuple(first)])} is not {float(expected[tuple(first)])}"
    )


def kind(program: Program) -> str:
    """The kernels of a program, and how they read and write."""
    return "_".join((KERNELS[tuple(map(type, program.kernels))], *_ends(program)))


def _ends(program: Program) -> tuple[str, ...]:
    """How a program reads, and how it writes, where its kernels may do so in more than one way."""
    kernel = program.kernels[0]
    if isinstance(kernel, DirectKernel | PackedDepthwiseKernel | PatchKernel):
        return ()
    if isinstance(kernel, PaddedKernel):
        return ("last", "last") if kernel.plan.pixels else ("planar", "planar")
    if isinstance(kernel, BoxedDepthwiseKernel | BoxedFusedKernel):
        return ("planar" if kernel.depthwise.planar else "last", "planar")
    return ("last", "last")


KERNELS: dict[tuple[type[Kernel], ...], str] = {
    (DepthwiseKernel,): "depthwise",
    (BoxedDepthwiseKernel,): "depthwise",
    (PackedDepthwiseKernel,): "depthwise_packed",
    (DirectKernel,): "depthwise_planes",
    (PatchKernel,): "depthwise_patches",
    (PaddedKernel,): "depthwise_padded",
    (FusedKernel,): "fused",
    (BoxedFusedKernel,): "fused",
    (DepthwiseKernel, PointwiseKernel): "two_stage",
    (BoxedDepthwiseKernel, PlanarPointwiseKernel): "two_stage",
    (DirectKernel, PlanarPointwiseKernel): "two_stage_planes",
}
KINDS = {
    *(
        "depthwise_last_last",
        "depthwise_last_planar",
        "depthwise_planar_planar",
        "depthwise_planes",
        "depthwise_patches",
        "depthwise_padded_last_last",
        "depthwise_padded_planar_planar",
        "depthwise_packed",
    ),
    *("fused_last_last", "fused_last_planar", "fused_planar_planar", "two_stage_last_last"),
    *("two_stage_last_planar", "two_stage_planar_planar", "two_stage_planes"),
}
# Patches as wide as a vector of four lanes are left to planes as they lie, and two channels of pixels fill half of one.
NEON_KINDS = KINDS - {"depthwise_patches", "depthwise_padded_last_last"}


def inputs_of(layer: Layer, count: int, layouts: tuple[str, ...] = ("last", "planar")) -> list[Input]:
    """`count` inputs of each layout, drawn and always the same: tails of every axis, paddings beyond the reach."""
    random = Random(repr(layer))
    strides = per_axis(layer.stride, layer.rank, "stride")
    inputs = []
    # Of many channels short rows only.
    widths = WIDTHS if layer.channels < 1024 else WIDTHS[:9]
    for _ in range(count):
        team, small_cache = random.choice((1, 1, 2, 2, 3, 5)), random.random() < 0.5
        spatial, padding = [], []
        for axis in range(layer.rank):
            reach, stride = layer.reach[axis], strides[axis]
            last = axis == layer.rank - 1
            outputs = random.choice(widths if last else (1, 2, 3, 5, 8))
            before, after = random.choice(_paddings(reach))
            covered = (outputs - 1) * stride + reach + random.randrange(stride)
            spatial.append(max(1, covered - before - after))
            padding.append((before, after))
        batch = random.choice((1, 1, 2, 3))
        given = Input(batch, tuple(spatial), tuple(padding), layouts[0], team, small_cache)
        inputs += [replace(given, layout=layout) for layout in layouts]
    return inputs


# Below, equal to, a multiple of and above 6 and 7 columns; rows that are cut into segments.
WIDTHS = (*range(1, 17), *range(1, 17), 20, 21, 43, 70, 130)


def _paddings(reach: int) -> list[tuple[int, int]]:
    half = reach // 2
    return [(0, 0), (half, half), (half, reach - 1 - half), (reach - 1, 0), (0, reach - 1), (reach, reach + 2), (1, 2)]


def outside_calls(assembly: str) -> set[str]:
    """The symbols that are called or jumped to, but for those that the module defines."""
    targets = re.findall(r"^\s+(?:callq?|jmpq?|bl|b)\s+([A-Za-z_][\w.@]*)", assembly, re.MULTILINE)
    return set(targets) - set(re.findall(r"^([A-Za-z_][\w.]*):", assembly, re.MULTILINE))


_BOTH = ("last", "planar")
# Below, equal to, a multiple of and above the lanes of every machine.
CHANNELS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48)

# What the kernels are tried with: layers, and the layouts of their inputs.
TAILS: dict[str, tuple[list[Layer], tuple[str, ...]]] = {
    "channels": ([Layer(channels, (3, 3)) for channels in CHANNELS], _BOTH),
    "layouts": ([Layer(17, (3,)), Layer(9, (3, 2), stride=(1, 2)), Layer(5, (2, 2, 2), 3)], LAYOUTS),
    "lengths": ([Layer(17, (width,)) for width in (2, 5, 6, 7, 10, 11, 14, 15, 16, 18, 19, 20)], ("last",)),
    "both lengths": ([Layer(9, (width,)) for width in (1, 3, 4, 8, 9, 12, 13, 17, 31, 51, 255)], _BOTH),
    "windows": (
        [
            *(Layer(9, kernel) for kernel in ((1, 1), (1, 4), (5, 1), (2, 2), (5, 5), (51, 51))),
            *(Layer(9, kernel) for kernel in ((3, 13), (2, 16), (2, 17), (1, 23))),
            *(Layer(9, (3, 3), stride=stride) for stride in (2, 3, (1, 4), (3, 1))),
            *(Layer(9, (3, 3), dilation=dilation) for dilation in (2, 6, (1, 3))),
            *(Layer(9, (2, 9), dilation=2), Layer(9, (2, 11), stride=2)),
            *(Layer(9, (2, 3), stride=3, dilation=2), Layer(9, (1, 2), stride=4), Layer(9, (9,), stride=2, dilation=3)),
            *(Layer(9, kernel) for kernel in ((3, 3, 3), (1, 2, 3))),
            Layer(9, (2, 1, 3), stride=(1, 2, 3), dilation=(3, 2, 1)),
        ],
        _BOTH,
    ),
    "patches": (
        [
            *(Layer(4, (1, 16), stride=(2, 16)), Layer(2, (2, 2, 8), stride=(2, 1, 8))),
            *(Layer(7, (2, 2, 8), stride=(2, 1, 8)), Layer(4, (2, 7), stride=(1, 8))),
        ],
        ("planar",),
    ),
    # Few channels under windows of many taps.
    "padded": (
        [
            *(Layer(3, (5, 7)), Layer(1, (6, 6), 3, stride=2), Layer(2, (1, 31)), Layer(3, (33, 1), stride=(2, 1))),
            *(Layer(1, (4, 5), 2, dilation=(2, 3), stride=(1, 3)), Layer(2, (19,), stride=4), Layer(1, (9, 4))),
            *(Layer(2, (7, 7), 3, stride=(1, 2)), Layer(2, (49,)), Layer(1, (8, 6), 2, dilation=(1, 2))),
            *(Layer(2, (7, 7)), Layer(2, (49, 1), 2), Layer(2, (10, 5), 3, stride=2), Layer(2, (1, 50), dilation=2)),
        ],
        _BOTH,
    ),
    # All pixels share one set of L1.
    "crowded": ([Layer(1024, (5, 5)), Layer(1024, (7, 5), dilation=(2, 1))], ("last",)),
    # Columns a dilation apart go together where rows are long enough: 20, 43, 70 and 130 are.
    "dilations": (
        [
            *(Layer(9, (2, 3), dilation=dilation) for dilation in (4, 5, (1, 7))),
            *(Layer(9, (2, taps), dilation=(2, 5)) for taps in (2, 4, 5)),
            *(Layer(9, (13,), dilation=8), Layer(5, (3,), 2, 7, dilation=4), Layer(9, (2, 2, 3), dilation=(1, 2, 4))),
        ],
        _BOTH,
    ),
    "multipliers": (
        [
            *(Layer(5, (2, 3), multiplier) for multiplier in (2, 3, 4, 5, 8, 16, 17, 32)),
            *(Layer(channels, (3, 3), multiplier) for channels, multiplier in ((1, 6), (13, 7), (4, 12))),
            *(Layer(1, (3,), multiplier, stride=2) for multiplier in (3, 8, 33)),
        ],
        _BOTH,
    ),
    "outputs": ([Layer(9, (3,), out_channels=channels) for channels in (*CHANNELS, 80, 96)], ("last",)),
    "outputs of images": (
        [Layer(5, (2, 2), out_channels=channels, residual=True) for channels in (1, 2, 3, 7, 9, 16, 17, 31, 33, 80)],
        _BOTH,
    ),
    "inputs": (
        [
            *(Layer(channels, (1, 2), out_channels=17) for channels in (1, 2, 8, 31, 33, 256)),
            *(Layer(3, (3,), multiplier, out_channels=7) for multiplier in (3, 8)),
        ],
        _BOTH,
    ),
    "groups": (
        [
            Layer(2 * inputs, (3,), out_channels=2 * outputs, groups=2, residual=outputs == 3)
            for inputs, outputs in ((1, 1), (5, 3), (3, 8), (2, 17), (9, 33), (1, 40))
        ]
        + [Layer(7, (2, 3), 3, out_channels=35, groups=7), Layer(33, (1, 1), out_channels=33, groups=33)],
        _BOTH,
    ),
    "blocks": (
        [
            Layer(8, (2, 3, 2), out_channels=12, stride=(2, 1, 2), residual=True),
            Layer(6, (3, 3), 2, 24, 2, stride=2, activations=(("relu6", 0.0), None)),
            Layer(
                17, (5,), out_channels=10, dilation=2, activations=(("relu", 0.0), ("leaky_relu", 0.25)), residual=True
            ),
        ],
        LAYOUTS,
    ),
}


# Those whose channels are tails of a vector.
LANE_TAILS = {"channels", "outputs"}


def tails(count: int, *, every: bool = True) -> Iterator[tuple[str, Layer, list[Input], Machine]]:
    """Every layer of `TAILS`, `count` inputs for each of its layouts, and every machine.

    Unless `every`, where channels are no tails of a vector, each layer on one machine only: they take turns.
    """
    for name, (layers, layouts) in TAILS.items():
        turns = [(layer, target) for layer in layers for target in HERE]
        for layer, target in turns if every or name in LANE_TAILS else in_turn(layers):
            yield name, layer, inputs_of(layer, count, layouts), target


def in_turn(things: Sequence[Thing]) -> list[tuple[Thing, Machine]]:
    """Each thing with one of the machines that run here, the next with the next."""
    return list(zip(things, cycle(HERE), strict=False)) if HERE else []
