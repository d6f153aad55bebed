"""Nodes that give numbers in another shape or place: no work where memory stays as it is, else copies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from ...backends.pixels import Bilinear, Copy, Nearest, Rearrange
from ...backends.series import Step
from ..graph import Node
from ..operators import bound
from ..rules import Shape, pair_of
from .context import Lie, Lowering, Order, Piece, RefusedError, boxed, order_of, step, usual_order
from .elementwise import repeated

COPIES = ("clone", "contiguous")


def lower_layout(node: Node, into: Lowering) -> tuple[Step, ...]:
    """Images are laid out where they come in; those that only dense convolutions read are read as they come."""
    name = node["self"].name
    shape = into.value(node["self"]).shape
    natural = tuple(range(len(shape)))
    if name in into.planar:
        into.lies[name] = into.lies[node.name] = Lie(name, shape, natural)
    else:
        into.lies[node.name] = into.laid(node["self"], usual_order(len(shape)) if node["channels_last"] else natural)
    return ()


def lower_view(node: Node, into: Lowering) -> tuple[Step, ...]:
    """What torch makes of such a tensor by another look at its memory, which is in its own order where it must."""
    x = into.value(node.arguments[0][1])
    found = _view(node, x, into) or _view(node, into.moved(x, tuple(range(len(x.shape)))), into)
    if found is None:
        raise RefusedError("the batch does not lie outermost")
    into.lies[node.name] = found
    return ()


def _view(node: Node, x: Lie, into: Lowering) -> Lie | None:
    """The node's value in the memory of x, if torch would need no other."""
    tensor, shape = torch.empty_strided(x.shape, x.strides, device="meta"), into.shape(node.name)
    if node.operator in COPIES:
        made = tensor
    elif node.operator == "reshape_as":
        made = tensor.reshape(shape)
    else:
        made = bound(node)(lambda _: tensor, into.batch)
    if made.untyped_storage()._cdata != tensor.untyped_storage()._cdata or made.storage_offset():
        return None
    order = order_of(shape, made.stride())
    return None if order is None else Lie(x.buffer, shape, order)


def lower_expand(node: Node, into: Lowering) -> tuple[Step, ...]:
    """Numbers repeated along dimensions of one."""
    x, shape = into.value(node["self"]), into.shape(node.name)
    if x.shape == shape:
        into.lies[node.name] = x
        return ()
    found = repeated(x, shape, None, into)
    into.lies[node.name] = found
    return ()


def lower_cat(node: Node, into: Lowering) -> tuple[Step, ...]:
    """Values side by side along a dimension."""
    shape = into.shape(node.name)
    return _beside(node, node["dim"] % len(shape), [into.value(operand) for operand in node["tensors"]], into)


def lower_stack(node: Node, into: Lowering) -> tuple[Step, ...]:
    """Values side by side along a dimension of their own, the innermost but one."""
    rank = len(into.shape(node.name))
    dimension = node["dim"] % rank

    def wider(x: Lie) -> Lie:
        *outer, inner = (n + (n >= dimension) for n in x.order)
        # The batch does not lie innermost.
        order = (*outer, dimension, inner) if outer else (inner, dimension)
        shape = (*x.shape[:dimension], 1, *x.shape[dimension:])
        return Lie(x.buffer, shape, order)

    if rank == 1:
        raise RefusedError("numbers of no dimension are put beside each other")
    return _beside(node, dimension, [wider(into.value(operand)) for operand in node["tensors"]], into)


def _beside(node: Node, dimension: int, parts: Sequence[Lie], into: Lowering) -> tuple[Step, ...]:
    """Parts along a dimension, in the order in which the first lies."""
    order = parts[0].order
    _check_images(dimension, order)
    parts = [into.moved(part, order) for part in parts if part.elements]
    out = into.made(node, order)
    after = _after(out, dimension)
    whole = out.shape[dimension] * after
    rows, steps, start = out.elements // whole, [], 0
    for part in parts:
        n = part.shape[dimension] * after
        steps.append(step(Copy(rows, n, (0, start), (n, whole)), x=part.buffer, out=out.buffer))
        start += n
    return tuple(steps)


def _check_images(dimension: int, order: Order) -> None:
    if dimension == 0 and len(order) > 1:
        raise RefusedError("images are put beside images, or taken apart")


def _after(x: Lie, dimension: int) -> int:
    """Elements from one number to the next along a dimension."""
    return x.strides[dimension]


def lower_pieces(node: Node, into: Lowering) -> tuple[Step, ...]:
    """split, chunk and their like: nothing is done before a piece is taken."""
    found = into.shapes.get(node.name)
    x = into.value(node["self"])
    dimension = node["dim"] % len(x.shape)
    _check_images(dimension, x.order)
    shapes: Sequence[Shape] = found if found and isinstance(found[0], tuple) else ()
    starts = accumulate((shape[dimension] for shape in shapes), initial=0)
    into.pieces[node.name] = tuple(
        Piece(x, dimension, start, shape) for start, shape in zip(starts, shapes, strict=False)
    )
    return ()


def lower_unbind(node: Node, into: Lowering) -> tuple[Step, ...]:
    """Pieces of one, without the dimension that they are taken along."""
    x = into.value(node["self"])
    dimension = node["dim"] % len(x.shape)
    _check_images(dimension, x.order)
    one = (*x.shape[:dimension], 1, *x.shape[dimension + 1 :])
    into.pieces[node.name] = tuple(Piece(x, dimension, start, one) for start in range(x.shape[dimension]))
    return ()


def lower_getitem(node: Node, into: Lowering) -> tuple[Step, ...]:
    pieces = into.pieces.get(node["self"].name)
    if pieces is None:
        raise RefusedError("what it takes a piece of is torch's")
    return _piece(node, pieces[node["index"]], 1, into)


def lower_slice(node: Node, into: Lowering) -> tuple[Step, ...]:
    x = into.value(node["self"])
    dimension = node["dim"] % len(x.shape)
    start, _, stride = slice(node["start"], node["end"], node["step"]).indices(x.shape[dimension])
    return _piece(node, Piece(x, dimension, start, into.shape(node.name)), stride, into)


def lower_select(node: Node, into: Lowering) -> tuple[Step, ...]:
    x = into.value(node["self"])
    dimension = node["dim"] % len(x.shape)
    one = (*x.shape[:dimension], 1, *x.shape[dimension + 1 :])
    return _piece(node, Piece(x, dimension, node["index"] % x.shape[dimension], one), 1, into)


def _piece(node: Node, piece: Piece, stride: int, into: Lowering) -> tuple[Step, ...]:
    """Neighbours along a dimension, or every so many; without the dimension where the node has fewer."""
    x, dimension, shape = piece.x, piece.dimension, into.shape(node.name)
    _check_images(dimension, x.order)
    order = x.order
    if len(shape) < len(x.shape):
        order = tuple(n - (n > dimension) for n in order if n != dimension)
    out = into.made(node, order)
    after = _after(x, dimension)
    if stride == 1:
        whole, n = x.shape[dimension] * after, piece.shape[dimension] * after
        problem: Copy | Rearrange = Copy(out.elements // n, n, (piece.start * after, 0), (whole, n))
    else:
        sizes, places = tuple(piece.shape[n] for n in x.order), Lie("", piece.shape, x.order).strides
        steps = tuple((x.strides[n] * (stride if n == dimension else 1), places[n]) for n in x.order)
        problem = boxed(sizes, (piece.start * after, 0), steps)
    return (step(problem, x=x.buffer, out=out.buffer),)


def lower_bilinear(node: Node, into: Lowering) -> tuple[Step, ...]:
    """Images of another size, as torch counts: by the factors given, else by the sizes."""
    shape = into.shape(node.name)
    if len(shape) != 4:
        raise RefusedError("its input is no image")
    x = into.laid(node["input"], usual_order(4))
    aligned, factors = bool(node["align_corners"]), node["scale_factors"]
    if (factors is None) == (node["output_size"] is None):
        raise RefusedError("a size or factors are given")

    def pace(axis: int) -> float:
        small, large = x.shape[axis], shape[axis]
        if aligned:
            return (small - 1) / (large - 1) if large > 1 else 0.0
        return small / large if factors is None else 1 / float(factors[axis - 2])

    sizes = pair_of(x.shape[2:]), pair_of(shape[2:])
    problem = Bilinear(x.shape[0], x.shape[1], *sizes, (pace(2), pace(3)), aligned)
    return (step(problem, x=x.buffer, out=into.made(node, x.order).buffer),)


def lower_nearest(node: Node, into: Lowering) -> tuple[Step, ...]:
    """Images made larger by whole factors: every pixel is repeated."""
    shape = into.shape(node.name)
    if len(shape) != 4:
        raise RefusedError("its input is no image")
    x = into.laid(node["input"], usual_order(4))
    down, across = (large // small for large, small in zip(shape[2:], x.shape[2:], strict=True))
    if (down * x.shape[2], across * x.shape[3]) != shape[2:]:
        raise RefusedError("an image is made larger by whole factors")
    factors = node["scale_factors"]
    if node["output_size"] is None and tuple(factors) != (down, across):
        raise RefusedError("an image is made larger by whole factors")
    problem = Nearest(x.shape[0] * x.shape[2], x.shape[3], x.shape[1], down, across)
    return (step(problem, x=x.buffer, out=into.made(node, x.order).buffer),)
