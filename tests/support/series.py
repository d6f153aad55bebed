"""Series of problems run on buffers that a test can look at."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise.backends.base import DepthwiseTensors, PointwiseTensors, Weights
from depthwise.backends.cpu import series as module
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.pack import Shelf
from depthwise.backends.cpu.run.program import ZEROS, Program
from depthwise.backends.packs import Packs
from depthwise.backends.pixels import Copy, Elementwise, Mean, PixelProblem, Term
from depthwise.backends.problem import Activation, Operation, Problem
from depthwise.backends.series import Series, Step
from depthwise.geometry import Geometry, geometry
from depthwise.optimize.frozen import optimized
from depthwise.optimize.whole import Whole
from tests.support.cases import small_integers
from tests.support.convolutions import run_program
from tests.support.kernels import HEAP, Memory, assert_same
from tests.support.networks import InvertedResidual
from tests.support.whole import randomised


def program_of(problem: PixelProblem, buffers: tuple[str, ...], target: Machine, team: int) -> Program:
    """The program of a problem alone, its buffers by their own names."""
    step = Step(problem, tuple((name, name) for name in buffers))
    takes = frozenset(buffers) - {"out"}
    return module.plan(Series((step,), takes, frozenset({"out"}), {}), target, team).program


def run_problem(
    problem: PixelProblem,
    tensors: Mapping[str, Tensor],
    size: tuple[int, ...],
    target: Machine,
    team: int = 1,
    memory: Memory = HEAP,
    *,
    in_place: str = "",
) -> Tensor:
    """Its result, which starts as NaN or lies where one of its tensors does."""
    program = program_of(problem, (*tensors, "out"), target, team)
    placed = {name: memory.place(tensor) for name, tensor in tensors.items()}
    out = placed[in_place].view(size) if in_place else memory.empty_strided(size, torch.empty(size).stride())
    run_program(program, placed | {"out": out}, memory)
    return out


def run_series(
    series: Series,
    tensors: Mapping[str, Tensor],
    target: Machine,
    team: int,
    memory: Memory = HEAP,
    *,
    apart: bool = False,
) -> dict[str, Tensor]:
    """What a series gives, by name, flat; its arena starts as NaN. apart: each buffer of the arena in memory alone."""
    found = module.plan(series, target, team)
    program = found.program
    packs = Packs()
    buffers = {name: memory.place(tensor) for name, tensor in {**tensors, **series.constants}.items()}
    for number, own in found.packings.items():
        pack = module._packed(series.steps[number], own, packs, Shelf(0))
        for name in pack.addresses:
            buffers[f"#{number}.{name}"] = memory.place(getattr(pack, name))
    out = {name: memory.floats(series.elements[name]) for name in series.gives}
    if apart:
        buffers |= {name: memory.floats(elements) for name, elements in program.between}
    zeros = memory.place(torch.zeros(max(program.zeros, 1)))
    run_program(program, {**buffers, **out, ZEROS: zeros}, memory)
    return out


LAST = torch.channels_last


def example() -> tuple[Series, dict[str, Tensor], dict[str, Tensor]]:
    """An inverted residual block with squeeze-excite, two results, small integers: the series, what it takes and gives.

    All sums are small and all divisions by powers of two, so that every order of them gives the same bits.
    """
    draw = small_integers(0)
    x = draw((2, 9, 4, 8)).sign().contiguous(memory_format=LAST)
    expand, depthwise, project = draw((17, 9, 1, 1)).sign(), draw((17, 1, 3, 3)).sign(), draw((9, 17, 1, 1)).sign()
    reduce, back, shift = draw((4, 17)).sign(), draw((17, 4)).sign(), draw((17,)).sign()
    relu, leaky = ("relu", 0.0), ("leaky_relu", 0.25)
    big, small = (2, 17, 4, 8), (2, 9, 4, 8)
    wide, narrow = geometry(x.shape[1:], 1, out_channels=17), geometry(big[1:], 1, out_channels=9)
    window = geometry(big[1:], 3, padding=1)
    one = geometry((17, 1, 1), 1, out_channels=4), geometry((4, 1, 1), 1, out_channels=17)
    steps = (
        convolution("pointwise", wide, (None, relu), PointwiseTensors(expand), "x", "a"),
        convolution("depthwise", window, (relu, None), DepthwiseTensors(depthwise, shift), "a", "b"),
        Step(Mean(2, 32, 17), (("x", "b"), ("out", "m"))),
        convolution("pointwise", one[0], (None, relu), PointwiseTensors(reduce), "m", "s"),
        convolution("pointwise", one[1], (None, leaky), PointwiseTensors(back, shift), "s", "t"),
        Step(Elementwise(2, 32, 17, (Term("mul", "image"),)), (("x", "b"), ("operand_0", "t"), ("out", "c"))),
        Step(Elementwise(2, 32, 17, (Term("add", "each"),)), (("x", "c"), ("operand_0", "a"), ("out", "d"))),
        Step(Elementwise(2, 32, 17, (Term("from", "number", 1.0),)), (("x", "d"), ("out", "e"))),
        convolution("pointwise", narrow, (None, None), PointwiseTensors(project), "d", "y", "x"),
        Step(Elementwise(2, 32, 9, (Term("add", "channel"),)), (("x", "y"), ("operand_0", "shift"), ("out", "z"))),
        Step(Copy(64, 9, (0, 0), (9, 26)), (("x", "z"), ("out", "cat"))),
        Step(Copy(64, 17, (0, 9), (17, 26)), (("x", "e"), ("out", "cat"))),
    )
    a = F.relu(F.conv2d(x, expand))
    b = F.relu(F.conv2d(a, depthwise, shift, padding=1, groups=17))
    t = F.leaky_relu(F.linear(F.relu(F.linear(b.mean((2, 3)), reduce)), back, shift), 0.25)
    d = b * t[:, :, None, None] + a
    y = F.conv2d(d, project) + x
    z = y + shift[:9, None, None]
    given = {"z": z, "cat": torch.cat([z, 1 - d], 1)}
    sizes = {
        "a": big,
        "b": big,
        "c": big,
        "d": big,
        "e": big,
        "m": (2, 17),
        "s": (2, 4),
        "t": (2, 17),
        "y": small,
        "z": small,
    }
    elements = {name: prod(size) for name, size in sizes.items()} | {"cat": 64 * 26}
    series = Series(steps, frozenset({"x"}), frozenset({"z", "cat"}), elements, {"shift": shift[:9].clone()})
    return series, {"x": x}, given


def check_beside(target: Machine, team: int, memory: Memory = HEAP, *, apart: bool = False) -> None:
    """Check values that are written into their parts of a concatenation, between one that is copied and one read on."""
    draw = small_integers(0)
    x = draw((2, 9, 4, 8)).sign().contiguous(memory_format=LAST)
    expand, depthwise = draw((17, 9, 1, 1)).sign(), draw((17, 1, 3, 3)).sign()
    relu, big = ("relu", 0.0), (2, 17, 4, 8)
    wide, window = geometry(x.shape[1:], 1, out_channels=17), geometry(big[1:], 3, padding=1)
    steps = (
        convolution("pointwise", wide, (None, relu), PointwiseTensors(expand), "x", "a"),
        convolution("depthwise", window, (relu, None), DepthwiseTensors(depthwise), "a", "b"),
        convolution("depthwise", window, (None, None), DepthwiseTensors(depthwise), "b", "c"),
        Step(Copy(64, 9, (0, 0), (9, 43)), (("x", "x"), ("out", "cat"))),
        Step(Copy(64, 17, (0, 9), (17, 43)), (("x", "a"), ("out", "cat"))),
        Step(Copy(64, 17, (0, 26), (17, 43)), (("x", "b"), ("out", "cat"))),
        Step(Copy(64, 17, (0, 0), (17, 34)), (("x", "c"), ("out", "pair"))),
        Step(Copy(64, 17, (0, 17), (17, 34)), (("x", "c"), ("out", "pair"))),
    )
    elements = dict.fromkeys("abc", prod(big)) | {"cat": 64 * 43, "pair": 64 * 34}
    series = Series(steps, frozenset({"x"}), frozenset({"cat", "pair"}), elements)
    a = F.relu(F.conv2d(x, expand))
    b = F.relu(F.conv2d(a, depthwise, padding=1, groups=17))
    c = F.conv2d(b, depthwise, padding=1, groups=17)
    found = run_series(series, {"x": x}, target, team, memory, apart=apart)
    # What goes to two places is copied.
    assert len(module.plan(series, target, team).program.stages) == 6
    for name, expected in (("cat", torch.cat([x, a, b], 1)), ("pair", torch.cat([c, c], 1))):
        assert_same(found[name].view(2, 4, 8, -1).permute(0, 3, 1, 2), expected, f"{name}, {team} threads")


def convolution(
    operation: Operation,
    g: Geometry,
    activations: tuple[Activation, Activation],
    weights: Weights,
    x: str,
    out: str,
    residual: str = "",
    batch: int = 2,
) -> Step:
    """A step over channels-last images."""
    last = torch.empty((batch, *g.input_size), device="meta").contiguous(memory_format=LAST).stride()
    result = torch.empty((batch, *g.output_size), device="meta").contiguous(memory_format=LAST).stride()
    added = result if residual else None
    problem = Problem(operation, g, torch.float32, "cpu", batch, last, result, activations, added)
    buffers = {"x": x, "out": out} | ({"residual": residual} if residual else {})
    return Step(problem, tuple(buffers.items()), weights)


def check_example(target: Machine, team: int, memory: Memory = HEAP, *, apart: bool = False) -> None:
    """Check that the example gives PyTorch's numbers."""
    series, tensors, given = example()
    found = run_series(series, tensors, target, team, memory, apart=apart)
    for name, expected in given.items():
        assert_same(found[name].view(2, 4, 8, -1).permute(0, 3, 1, 2), expected, f"{name}, {team} threads")


class Everything(nn.Module):
    """A network of all that has kernels: planes and pixels, dense and depthwise, pools, gates, pieces, norms, rows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 17, 3, stride=2, padding=1)
        self.wide = nn.Conv2d(17, 33, (1, 3), padding=(0, 1))
        self.block = InvertedResidual(33, 40, squeeze=5)
        self.norm = nn.LayerNorm(33)
        self.last = nn.Linear(33, 9)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(F.silu(self.stem(x)), 3, 2, 1)
        x = self.block(self.wide(x))
        a, b = x.split([10, 23], 1)
        x = torch.cat([F.avg_pool2d(b, 3, 1, 1), a * 2], 1) + x
        y = self.norm(x.permute(0, 2, 3, 1)).softmax(-1)
        return self.last(y.mean((1, 2))), x


def check_network(target: Machine, team: int, memory: Memory = HEAP) -> None:
    """Check a whole network, each value in memory of its own, against PyTorch."""
    torch.manual_seed(0)
    model, x = randomised(Everything()), torch.randn(2, 3, 27, 21)
    found = optimized(model, x)
    (program,) = found._first.programs
    assert isinstance(program, Whole)
    graph = program._at(2)
    series = program._series(graph)
    assert series is not None
    made = run_series(series, {"input_0": x}, target, team, memory, apart=True)
    with torch.no_grad():
        expected = model(x)
    for name, one in zip(found._network.graph.returned(), expected, strict=True):
        lie = graph.lies[name]
        torch.testing.assert_close(made[lie.buffer].as_strided(lie.shape, lie.strides), one, rtol=1e-4, atol=1e-5)
