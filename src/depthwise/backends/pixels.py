"""What is asked of a backend beside convolutions, as pure numbers: of images whose channels lie side by side.

Each sees its tensors as rows of `channels` numbers, `pixels` of them for each of `images`. `in_place` names the buffers
that its result may lie in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..geometry import Geometry, Pairs
from .problem import Activation

# Of one elementwise problem.
MOST_OPERANDS = 4
# Of a box that is rearranged, where neighbours that are one axis in both places count as one.
MOST_AXES = 6

# Beside x: one number for each of its own, for each channel of each image, each pixel, each channel; or one for all.
Operand = Literal["each", "image", "pixel", "channel", "number"]
# Those for which it matters where rows and images end.
OF_ROWS = ("image", "pixel", "channel")


@dataclass(frozen=True, slots=True)
class Term:
    """x becomes x operation other; `from` is other - x, and `activation` changes x alone.

    `derivative` takes the gradient x of what `activation` gave to that of what it was given, which is the other.

    value: the number, where the operand is one
    """

    operation: Literal["add", "sub", "from", "mul", "div", "activation", "derivative"]
    operand: Operand | None = None
    value: float = 0.0
    activation: Activation = None

    @property
    def reads(self) -> bool:
        """Whether the operand is a tensor."""
        return self.operand == "each" or self.operand in OF_ROWS


@dataclass(frozen=True, slots=True)
class Elementwise:
    """Terms, one after another, of every number.

    Buffers: x, operand_0, operand_1, ... of the terms that read one, out; out may be x.
    """

    operation: ClassVar[str] = "elementwise"
    in_place: ClassVar[tuple[str, ...]] = ("x", "operand_0")

    images: int
    pixels: int
    channels: int
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean over the pixels of each image, or their sum, or the root of the sum of their squares.

    Buffers: x, (images, pixels, channels); out, (images, channels).
    sums: x holds sums of pixels instead, so many rows of them for each image; 0: it does not
    block: channels of a block of sums, the last of which overlaps the one before it where channels do not fill it
    """

    operation: ClassVar[str] = "mean"
    in_place: ClassVar[tuple[str, ...]] = ()

    images: int
    pixels: int
    channels: int
    result: Literal["mean", "sum", "norm"] = "mean"
    sums: int = 0
    block: int = 0


@dataclass(frozen=True, slots=True)
class Copy:
    """`channels` numbers of each row, from one place in rows of x to another in those of out.

    starts, steps: in x and in out, the first one's place and the elements from row to row
    """

    operation: ClassVar[str] = "copy"
    in_place: ClassVar[tuple[str, ...]] = ()

    rows: int
    channels: int
    starts: tuple[int, int]
    steps: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Rearrange:
    """A box of numbers, from places in x to places in out. Buffers: x, out.

    sizes:  along each axis, the outermost first
    starts: in x and in out, the place of the first number
    steps:  along each axis, elements from one number to the next, in x and in out; those in x may be 0 or negative
    fill:   a number for all places in out, and nothing is read; None: those of x
    """

    operation: ClassVar[str] = "rearrange"
    in_place: ClassVar[tuple[str, ...]] = ()

    sizes: tuple[int, ...]
    starts: tuple[int, int]
    steps: tuple[tuple[int, int], ...]
    fill: float | None = None


@dataclass(frozen=True, slots=True)
class Nearest:
    """Each pixel `down` times and `across` times. Buffers: x, out.

    rows: of all images; columns: of each row
    """

    operation: ClassVar[str] = "nearest"
    in_place: ClassVar[tuple[str, ...]] = ()

    rows: int
    columns: int
    channels: int
    down: int
    across: int


@dataclass(frozen=True, slots=True)
class Bilinear:
    """Images of another size, each pixel of which weighs the four around its place. Buffers: x, out.

    size, out_size: height and width, before and after
    steps:   pixels of the image, down and across, from one of the result to the next
    aligned: corners lie on corners; else outer edges on outer edges
    """

    operation: ClassVar[str] = "bilinear"
    in_place: ClassVar[tuple[str, ...]] = ()

    images: int
    channels: int
    size: tuple[int, int]
    out_size: tuple[int, int]
    steps: tuple[float, float]
    aligned: bool


@dataclass(frozen=True, slots=True)
class GroupNorm:
    """Each group of channels of an image normalised over its pixels, then scaled and shifted by channel where `affine`.

    Buffers: x, scale and shift, out; out may be x.
    """

    operation: ClassVar[str] = "group_norm"
    in_place: ClassVar[tuple[str, ...]] = ("x",)

    images: int
    pixels: int
    channels: int
    groups: int
    eps: float
    affine: bool


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Each row normalised, then scaled and shifted by channel where it is `affine`.

    Buffers: x, scale and shift, out; out may be x.
    """

    operation: ClassVar[str] = "layer_norm"
    in_place: ClassVar[tuple[str, ...]] = ("x",)

    rows: int
    channels: int
    eps: float
    affine: bool


@dataclass(frozen=True, slots=True)
class Softmax:
    """The softmax of each row. Buffers: x, out; out may be x."""

    operation: ClassVar[str] = "softmax"
    in_place: ClassVar[tuple[str, ...]] = ("x",)

    rows: int
    channels: int


@dataclass(frozen=True, slots=True)
class MaxPool:
    """The greatest number of each window, NaN where it has one. Buffers: x, out."""

    operation: ClassVar[str] = "max_pool"
    in_place: ClassVar[tuple[str, ...]] = ()

    images: int
    geometry: Geometry


@dataclass(frozen=True, slots=True)
class AveragePool:
    """The sum of each window, divided. Buffers: x, out.

    divisor: by what; None: by how many of the window's places are in the image or the padding that is counted
    counted: such padding, before and after each axis
    """

    operation: ClassVar[str] = "average_pool"
    in_place: ClassVar[tuple[str, ...]] = ()

    images: int
    geometry: Geometry
    divisor: int | None
    counted: Pairs


Pool = MaxPool | AveragePool
PixelProblem = Elementwise | Mean | Copy | Rearrange | Nearest | Bilinear | GroupNorm | LayerNorm | Softmax | Pool


def activations_of(problem: PixelProblem) -> tuple[Activation, ...]:
    """Those that it computes."""
    return tuple(term.activation for term in problem.terms) if isinstance(problem, Elementwise) else ()
