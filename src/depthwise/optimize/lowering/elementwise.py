"""What is done to each number alone: sums, products, activations, factors by channel."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from typing import Literal

from torch import Tensor

from ...backends.pixels import Elementwise, Term
from ...backends.series import Step
from ..graph import Argument, Node, Value
from ..passes.activations import activation_of
from ..rules import Shape
from .context import Lie, Lowering, RefusedError, step

Sums = Literal["add", "sub", "mul", "div"]


@dataclass(frozen=True, slots=True)
class Other:
    """What a term does with a value beside x: how it is read, and its buffer or number."""

    term: Term
    buffer: str | None = None


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
        name = node[key].name
        numbers = into.weights[name].view(-1, *(1,) * (len(x.shape) - 2))
        others.append(_weight(operation, x, numbers, name))
    return _steps(node, x, others, into)


def lower_binary(node: Node, into: Lowering) -> tuple[Step, ...]:
    """add, sub, mul and div of two values, or of a value and a weight or a number."""
    operation: Sums = node.operator  # type: ignore[assignment]
    alpha = node["alpha"] if operation in ("add", "sub") else 1
    shape, one, other = into.shape(node.name), node["self"], node["other"]
    is_first = isinstance(one, Value) and one.name not in into.weights and into.shape(one.name) == shape
    if not is_first:
        if operation == "div" or alpha != 1:
            raise RefusedError("its first operand is not of the result's shape")
        one, other = other, one
    x = into.value(one)
    if x.shape != shape:
        raise RefusedError("both operands are repeated")
    found = _other(operation, x, other, into)
    if alpha != 1:
        if found.term.operand != "number":
            raise RefusedError("a multiple of a tensor is added")
        found = Other(Term(operation, "number", found.term.value * alpha))
    if not is_first and operation == "sub":
        found = Other(Term("from", found.term.operand, found.term.value), found.buffer)
    return _steps(node, x, [found], into)


def _other(operation: Sums, x: Lie, argument: Argument, into: Lowering) -> Other:
    if isinstance(argument, bool) or not isinstance(argument, int | float | Value):
        raise RefusedError("an operand is neither a tensor nor a number")
    if not isinstance(argument, Value):
        return Other(Term(operation, "number", float(argument)))
    tensor = into.weight(argument)
    if tensor is not None:
        return _weight(operation, x, tensor, argument.name)
    other = into.value(argument)
    if other.shape == x.shape:
        if not other.lies_along(x.inner):
            raise RefusedError("its operands do not lie alike")
        return Other(Term(operation, "each"), other.buffer)
    if _only(other.shape, x.shape, (0, x.inner)):
        return Other(Term(operation, "image"), other.buffer)
    if _only(other.shape, x.shape, [n for n in range(len(x.shape)) if n != x.inner]) and other.lies_along(x.inner):
        return Other(Term(operation, "pixel"), other.buffer)
    raise RefusedError(f"{other.shape} is repeated over {x.shape}")


def _only(shape: Shape, whole: Shape, axes: Collection[int]) -> bool:
    """Whether a value has numbers along these axes of a whole one, all of them, and one along every other."""
    return len(shape) == len(whole) and all(size == (whole[n] if n in axes else 1) for n, size in enumerate(shape))


def _weight(operation: Sums, x: Lie, tensor: Tensor, name: str) -> Other:
    if str(tensor.dtype) != "torch.float32":
        raise RefusedError(f"{tensor.dtype} is not supported, only torch.float32")
    if tensor.numel() == 1 and tensor.dim() <= len(x.shape):
        return Other(Term(operation, "number", tensor.item()))
    sizes = (1,) * (len(x.shape) - tensor.dim()) + tuple(tensor.shape)
    along = tuple(size for n, size in enumerate(sizes) if n != x.inner)
    if tensor.numel() == x.shape[x.inner] and prod(along) == 1:
        return Other(Term(operation, "channel"), name)
    raise RefusedError(f"a weight of {tuple(tensor.shape)} is repeated over {x.shape}")


def _steps(node: Node, x: Lie, others: list[Other], into: Lowering) -> tuple[Step, ...]:
    images, channels = x.shape[0] if len(x.shape) > 1 else 1, x.shape[x.inner] if x.shape else 1
    problem = Elementwise(images, x.elements // (images * channels), channels, tuple(o.term for o in others))
    read = [other.buffer for other in others if other.buffer is not None]
    operands = {f"operand_{index}": buffer for index, buffer in enumerate(read)}
    return (step(problem, None, x=x.buffer, **operands, out=into.made(node, x.inner, x.shape).buffer),)
