"""Where the values of a network lie, and what lowering a node needs to know."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor

from ...backends import CPU
from ...backends.base import Weights
from ...backends.formats import same_strides
from ...backends.pixels import PixelProblem
from ...backends.problem import Problem
from ...backends.series import Step
from ..graph import Argument, Node, Value
from ..rules import Shape, Shapes

FLOAT = "float32"


class RefusedError(Exception):
    """Why a node has no steps."""


@dataclass(frozen=True, slots=True)
class Lie:
    """A dense value: its first dimension lies outermost, `inner` innermost, the others in order between.

    buffer: the value whose memory it is; nodes that only move dimensions give that of what they read
    """

    buffer: str
    shape: Shape
    inner: int

    @property
    def strides(self) -> Shape:
        return strides_of(self.shape, self.inner)

    @property
    def elements(self) -> int:
        return prod(self.shape)

    def lies_along(self, inner: int) -> bool:
        """Whether it lies as one does whose innermost dimension is this."""
        return same_strides(self.shape, self.strides, strides_of(self.shape, inner))


def strides_of(shape: Shape, inner: int) -> Shape:
    """Of a dense value whose dimension `inner` lies innermost."""
    order = [*(n for n in range(len(shape)) if n != inner), *([inner] if shape else [])]
    strides, step = [0] * len(shape), 1
    for dimension in reversed(order):
        strides[dimension] = step
        step *= max(shape[dimension], 1)
    return tuple(strides)


def usual_inner(shape: Shape) -> int:
    """Images are channels-last, everything else lies in order."""
    return 1 if len(shape) in (4, 5) else max(len(shape) - 1, 0)


class Lowering:
    """Nodes lowered one after another, at shapes that are known.

    lies:     of each value, how it lies; those from elsewhere are laid so when they come in
    elements: of each buffer that steps write
    pieces:   of a node that gives several, each one's place: the value, its first channel, its shape
    planar:   inputs that come contiguous, and that only dense convolutions read
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
        self.pieces: dict[str, tuple[tuple[Lie, int, Shape], ...]] = {}

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
            self.lies[name] = Lie(name, shape, usual_inner(shape))
        return self.lies[name]

    def along(self, argument: Argument, inner: int) -> Lie:
        """The same, where the dimension `inner` lies innermost.

        The first dimension is the batch: of one alone it lies innermost by chance, and at any other batch it does not.
        """
        found = self.value(argument)
        if inner == 0 and len(found.shape) > 1:
            raise RefusedError("the batch does not lie innermost")
        if not found.lies_along(inner):
            raise RefusedError(f"dimension {inner} of {found.shape} does not lie innermost")
        return Lie(found.buffer, found.shape, inner)

    def weight(self, argument: Argument) -> Tensor | None:
        """The weight that an operand is, or None."""
        return self.weights.get(argument.name) if isinstance(argument, Value) else None

    def made(self, node: Node, inner: int, shape: Shape | None = None) -> Lie:
        """A new value of the node's own."""
        shape = self.shape(node.name) if shape is None else shape
        if not prod(shape):
            raise RefusedError("its result has no numbers")
        found = Lie(node.name, shape, inner)
        self.lies[node.name] = found
        self.elements[node.name] = found.elements
        return found


def step(problem: Problem | PixelProblem, weights: Weights | None = None, **buffers: str) -> Step:
    """A step that the CPU backend runs."""
    why = CPU.refusal(problem)
    if why is not None:
        raise RefusedError(why)
    return Step(problem, tuple(buffers.items()), weights)
