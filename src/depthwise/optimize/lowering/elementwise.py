"""What is done to each number alone: sums, products, activations, factors by channel."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Literal

from ...backends.pixels import Elementwise, Operand, Term
from ...backends.series import Step
from ..graph import Argument, Node, Value
from ..passes.activations import activation_of
from ..rules import Shape
from .context import Lie, Lowering, Order, RefusedError, step, usual_order

Sums = Literal["add", "sub", "mul", "div"]
Operation = Literal["add", "sub", "from", "mul", "div"]


@dataclass(frozen=True, slots=True)
class Other:
    """What a term does with a value beside x: how it is read, and its buffer or number.

    sizes: the images, pixels and channels that x is of for it; None where these do not matter
    """

    term: Term
    buffer: str | None = None
    sizes: tuple[int, int, int] | None = None


def lower_activation(node: Node, into: Lowering) -> tuple[Step, ...]:
    activation = activation_of(node)
    if activation is None:
        raise RefusedError(f"no code is generated for this {node.operator}")
    x = into.value(node.arguments[0][1])
    return _steps(node, x, [Other(Term("activation", activation=activation))], into)


def lower_affine(node: Node, into: Lowering) -> tuple[Step, ...]:
    x = into.along(node["input"], 1)
    operations: tuple[Sums, Sums] = ("mul", "add")
    others = []
    for operation, key in zip(operations, ("scale", "shift"), strict=True):
        numbers = _weight(node[key].name, into)
        shape = (*numbers.shape, *(1,) * (len(x.shape) - 2))
        others.append(_read(operation, x, Lie(numbers.buffer, shape, tuple(range(len(shape)))), into))
    return _steps(node, x, others, into)


def lower_binary(node: Node, into: Lowering) -> tuple[Step, ...]:
    """add, sub, mul and div of two tensors, or of a tensor and a number."""
    operation: Sums = node.operator  # type: ignore[assignment]
    alpha = node["alpha"] if operation in ("add", "sub") else 1
    shape, one, other = into.shape(node.name), node["self"], node["other"]
    turned: dict[Sums, Literal["add", "from", "mul"]] = {"add": "add", "sub": "from", "mul": "mul"}
    if not isinstance(other, Value):
        x = _whole(one, shape, into)
        return _steps(node, x, [_other(operation, x, _multiplied(other, alpha), into)], into)
    if alpha != 1:
        x = _whole(other, shape, into)
        number = Other(Term("mul", "number", float(alpha)))
        return _steps(node, x, [number, _other(turned[operation], x, one, into)], into)
    if operation in turned and not _is_whole(one, shape, into) and _is_whole(other, shape, into):
        x = into.value(other)
        return _steps(node, x, [_other(turned[operation], x, one, into)], into)
    x = _whole(one, shape, into)
    return _steps(node, x, [_other(operation, x, other, into)], into)


def lower_rsub(node: Node, into: Lowering) -> tuple[Step, ...]:
    """A number less a tensor."""
    x = into.value(node["self"])
    scaled = [] if node["alpha"] == 1 else [_other("mul", x, node["alpha"], into)]
    return _steps(node, x, [*scaled, _other("from", x, node["other"], into)], into)


def lower_addcmul(node: Node, into: Lowering) -> tuple[Step, ...]:
    """A product that is added to another tensor."""
    shape, factors = into.shape(node.name), (node["tensor1"], node["tensor2"])
    one, other = factors if _is_whole(factors[0], shape, into) else factors[::-1]
    x = _whole(one, shape, into)
    scaled = [] if node["value"] == 1 else [_other("mul", x, node["value"], into)]
    return _steps(node, x, [_other("mul", x, other, into), *scaled, _other("add", x, node["self"], into)], into)


def _multiplied(number: Argument, alpha: Argument) -> Argument:
    """A number that is added so many times."""
    numbers = [one for one in (number, alpha) if isinstance(one, int | float) and not isinstance(one, bool)]
    return numbers[0] * numbers[1] if len(numbers) == 2 and alpha != 1 else number


def _is_whole(argument: Argument, shape: Shape, into: Lowering) -> bool:
    """Whether an operand is a value of the result's shape, not a weight."""
    return isinstance(argument, Value) and argument.name not in into.weights and into.shape(argument.name) == shape


def _whole(argument: Argument, shape: Shape, into: Lowering) -> Lie:
    """An operand of the result's shape, its numbers repeated where it is smaller."""
    if isinstance(argument, Value) and argument.name in into.weights:
        return repeated(_weight(argument.name, into), shape, None, into)
    return repeated(into.value(argument), shape, None, into)


def repeated(x: Lie, shape: Shape, order: Order | None, into: Lowering) -> Lie:
    """A value as one of this shape, its numbers repeated along each dimension of one."""
    if x.shape == shape:
        return x if order is None else into.moved(x, order)
    found = _aligned(x, len(shape))
    if any(size not in (1, whole) for size, whole in zip(found.shape, shape, strict=True)):
        raise RefusedError(f"{x.shape} is not repeated to {shape}")
    sizes = zip(found.shape, shape, found.strides, strict=True)
    strides = tuple(0 if size == 1 and whole != 1 else step for size, whole, step in sizes)
    return into.copied(x, strides, shape, usual_order(len(shape)) if order is None else order)


def _aligned(x: Lie, rank: int) -> Lie:
    """A value with dimensions of one in front, until there are so many."""
    missing = rank - len(x.shape)
    if missing < 0:
        raise RefusedError(f"{x.shape} has too many dimensions")
    order = (*range(missing), *(missing + n for n in x.order))
    return Lie(x.buffer, (1,) * missing + x.shape, order)


def _other(operation: Operation, x: Lie, argument: Argument, into: Lowering) -> Other:
    if isinstance(argument, bool) or not isinstance(argument, int | float | Value):
        raise RefusedError("an operand is neither a tensor nor a number")
    if not isinstance(argument, Value):
        return Other(Term(operation, "number", float(argument)))
    tensor = into.weight(argument)
    if tensor is None:
        return _read(operation, x, into.value(argument), into)
    numbers = _weight(argument.name, into)
    if tensor.numel() == 1 and tensor.dim() <= len(x.shape):
        return Other(Term(operation, "number", tensor.item()))
    return _read(operation, x, numbers, into)


def _weight(name: str, into: Lowering) -> Lie:
    tensor = into.weights[name]
    if str(tensor.dtype) != "torch.float32":
        raise RefusedError(f"{tensor.dtype} is not supported, only torch.float32")
    return Lie(name, tuple(tensor.shape), tuple(range(tensor.dim())))


def _read(operation: Operation, x: Lie, other: Lie, into: Lowering) -> Other:
    """A term with another value: of each number, or of those along some dimensions, the others repeated.

    In the order in which x lies these may be its last ones, its first ones, or both; what is otherwise is copied.
    """
    if other.shape == x.shape:
        return Other(Term(operation, "each"), into.moved(other, x.order).buffer)
    found = _aligned(other, len(x.shape))
    # The batch counts also where it is one: the code is for any.
    axes = [n for n in x.order if x.shape[n] != 1 or (n == 0 and len(x.shape) > 1)]
    runs = [(is_there, [*run]) for is_there, run in groupby(axes, lambda n: found.shape[n] == x.shape[n])]
    kinds, sizes = tuple(is_there for is_there, _ in runs), [prod(x.shape[n] for n in run) for _, run in runs]
    if kinds not in _READ or any(found.shape[n] != 1 for is_there, run in runs for n in run if not is_there):
        return Other(Term(operation, "each"), repeated(other, x.shape, x.order, into).buffer)
    buffer, (first, second, third) = into.moved(found, x.order).buffer, (*(1,) * (3 - len(sizes)), *sizes)
    return Other(Term(operation, _READ[kinds]), buffer, (first, second, third) if len(kinds) > 1 else None)


# How an operand is read by where, in the order in which x lies, its numbers are: along which dimensions.
_READ: dict[tuple[bool, ...], Operand] = {
    (True,): "each",
    (True, False, True): "image",
    (True, False): "pixel",
    (False, True): "channel",
}


def _rows(x: Lie) -> tuple[int, int, int]:
    """Images, pixels and channels of a value."""
    images, channels = x.shape[0] if len(x.shape) > 1 else 1, x.shape[x.inner] if x.shape else 1
    return images, x.elements // (images * channels), channels


def _steps(node: Node, x: Lie, others: list[Other], into: Lowering) -> tuple[Step, ...]:
    sizes = {other.sizes for other in others} - {None}
    if len(sizes) > 1:
        raise RefusedError("its operands are repeated along several dimensions")
    images, pixels, channels = next(iter(sizes), None) or _rows(x)
    problem = Elementwise(images, pixels, channels, tuple(other.term for other in others))
    read = [other.buffer for other in others if other.buffer is not None]
    operands = {f"operand_{index}": buffer for index, buffer in enumerate(read)}
    return (step(problem, None, x=x.buffer, **operands, out=into.made(node, x.order, x.shape).buffer),)
