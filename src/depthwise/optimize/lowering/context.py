"""Where the values of a network lie, and what lowering a node needs to know."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor

from ...backends import CPU
from ...backends.base import Weights
from ...backends.formats import same_strides
from ...backends.pixels import MOST_AXES, PixelProblem, Rearrange
from ...backends.problem import Problem
from ...backends.series import Step
from ..graph import Argument, Node, Value
from ..rules import Shape, Shapes

FLOAT = "float32"
Order = tuple[int, ...]  # of dimensions, the outermost first


class RefusedError(Exception):
    """Why a node has no steps."""


@dataclass(frozen=True, slots=True)
class Lie:
    """A dense value: its dimensions lie in this order, the outermost first. The batch, dimension 0, lies outermost.

    buffer: the value whose memory it is; nodes that only move dimensions give that of what they read
    """

    buffer: str
    shape: Shape
    order: Order

    @property
    def strides(self) -> Shape:
        return strides_of(self.shape, self.order)

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def inner(self) -> int:
        """The innermost dimension."""
        return self.order[-1] if self.order else 0

    def lies_as(self, order: Order) -> bool:
        """Whether it lies as one does whose dimensions are in this order."""
        return same_strides(self.shape, self.strides, strides_of(self.shape, order))


def strides_of(shape: Shape, order: Order) -> Shape:
    """Of a dense value whose dimensions lie in this order.

    >>> strides_of((2, 3, 4, 5), (0, 2, 3, 1))
    (60, 1, 15, 3)
    """
    strides, step = [0] * len(shape), 1
    for dimension in reversed(order):
        strides[dimension] = step
        step *= max(shape[dimension], 1)
    return tuple(strides)


def usual_order(rank: int) -> Order:
    """Images and volumes are channels-last, everything else lies as it is written."""
    return (0, *range(2, rank), 1) if rank in (4, 5) else tuple(range(rank))


def order_of(shape: Shape, strides: Shape) -> Order | None:
    """The order of the dimensions of a tensor that lies so; None where it is not dense, or its batch not outermost."""
    rank = len(shape)
    by_distance = sorted(range(1, rank), key=lambda n: (shape[n] != 1, -strides[n]))
    for order in (usual_order(rank), tuple(range(rank)), (0, *by_distance) if rank else ()):
        if same_strides(shape, strides, strides_of(shape, order)):
            return order
    return None


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a value along one of its dimensions: where it begins there, and its shape."""

    x: Lie
    dimension: int
    start: int
    shape: Shape


class Lowering:
    """Nodes lowered one after another, at shapes that are known.

    lies:     of each value, how it lies; those from elsewhere are laid so when they come in
    elements: of each buffer that steps write
    pieces:   of a node that gives several, where each lies
    planar:   inputs that come contiguous, and that only dense convolutions read
    before:   steps of the node at hand that bring what it reads into another order
    """

    def __init__(
        self,
        shapes: Mapping[str, Shapes],
        weights: Mapping[str, Tensor],
        dtypes: Mapping[str, str],
        batch: int,
        planar: Collection[str] = (),
    ) -> None:
        self.shapes = shapes
        self.weights = weights
        self.dtypes = dtypes
        self.batch = batch
        self.planar = planar
        self.lies: dict[str, Lie] = {}
        self.elements: dict[str, int] = {}
        self.pieces: dict[str, tuple[Piece, ...]] = {}
        self.before: list[Step] = []

    def shape(self, name: str) -> Shape:
        """Of a value of plain numbers."""
        found = self.shapes.get(name)
        if found is None:
            raise RefusedError("the size of what it reads is not known: it lies behind an operator without a rule")
        if any(isinstance(size, tuple) for size in found):
            raise RefusedError("it reads several tensors")
        return found  # type: ignore[return-value]

    def value(self, argument: Argument) -> Lie:
        """Where an operand lies."""
        if not isinstance(argument, Value):
            raise RefusedError("an operand is not a tensor")
        name = argument.name
        if name not in self.lies:
            if name in self.weights:
                raise RefusedError("an operand is a weight")
            shape = self.shape(name)
            dtype = self.dtypes.get(name, FLOAT)
            if dtype != FLOAT:
                raise RefusedError(f"torch.{dtype} is not supported, only torch.float32")
            if not prod(shape):
                raise RefusedError("an operand has no numbers")
            self.lies[name] = Lie(name, shape, usual_order(len(shape)))
        return self.lies[name]

    def laid(self, argument: Argument, order: Order) -> Lie:
        """An operand whose dimensions lie in this order, brought into it where they do not."""
        return self.moved(self.value(argument), order)

    def along(self, argument: Argument, inner: int) -> Lie:
        """An operand whose dimension `inner` lies innermost, the others as they lie."""
        x = self.value(argument)
        if inner == 0 and len(x.shape) > 1:
            raise RefusedError("the batch does not lie innermost")
        return self.moved(x, (*(n for n in x.order if n != inner), inner))

    def moved(self, x: Lie, order: Order) -> Lie:
        """The same numbers in another order."""
        found = Lie(x.buffer, x.shape, order)
        return found if x.lies_as(order) else self.copied(x, x.strides, x.shape, order)

    def copied(self, x: Lie, strides: Shape, shape: Shape, order: Order) -> Lie:
        """A value of this shape, in this order, whose numbers lie so in x."""
        made = self.own(shape, order)
        sizes = tuple(shape[n] for n in order)
        steps = tuple((strides[n], made.strides[n]) for n in order)
        self.before.append(step(boxed(sizes, (0, 0), steps), x=x.buffer, out=made.buffer))
        return made

    def own(self, shape: Shape, order: Order) -> Lie:
        """Memory between the steps of the node at hand."""
        made = Lie(f"between.{len(self.elements)}", shape, order)
        # A node that only moves dimensions may give it.
        self.lies[made.buffer] = made
        self.elements[made.buffer] = made.elements
        return made

    def weight(self, argument: Argument) -> Tensor | None:
        """The weight that an operand is, or None."""
        return self.weights.get(argument.name) if isinstance(argument, Value) else None

    def made(self, node: Node, order: Order, shape: Shape | None = None) -> Lie:
        """A new value of the node's own."""
        shape = self.shape(node.name) if shape is None else shape
        if not prod(shape):
            raise RefusedError("its result has no numbers")
        found = Lie(node.name, shape, order)
        self.lies[node.name] = found
        self.elements[node.name] = found.elements
        return found


def boxed(
    sizes: tuple[int, ...], starts: tuple[int, int], steps: tuple[tuple[int, int], ...], fill: float | None = None
) -> Rearrange:
    """A box of numbers that goes to other places; raises where it has too many axes."""
    used = [n for n, size in enumerate(sizes) if size != 1]
    if len(used) > MOST_AXES:
        raise RefusedError(f"numbers of {len(used)} dimensions change places")
    return Rearrange(tuple(sizes[n] for n in used), starts, tuple(steps[n] for n in used), fill)


def step(problem: Problem | PixelProblem, weights: Weights | None = None, **buffers: str) -> Step:
    """A step that the CPU backend runs."""
    why = CPU.refusal(problem)
    if why is not None:
        raise RefusedError(why)
    return Step(problem, tuple(buffers.items()), weights)
