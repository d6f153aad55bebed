"""Nodes that give numbers in another shape or place: no work where memory stays as it is, else copies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from ...backends.formats import same_strides
from ...backends.pixels import Bilinear, Copy, Nearest
from ...backends.series import Step
from ..graph import Node
from ..operators import bound
from ..rules import Shape, pair_of
from .context import Lie, Lowering, RefusedError, step, strides_of, usual_inner


def lower_layout(node: Node, into: Lowering) -> tuple[Step, ...]:
    """Images are laid out where they come in; those that only dense convolutions read are read as they come."""
    name = node["self"].name
    if name in into.planar and name not in into.lies:
        shape = into.value(node["self"]).shape
        into.lies[name] = into.lies[node.name] = Lie(name, shape, len(shape) - 1)
        return ()
    x = into.value(node["self"])
    if not node["channels_last"] or not x.lies_along(usual_inner(x.shape)):
        raise RefusedError("images lie channels-last inside")
    into.lies[node.name] = Lie(x.buffer, x.shape, usual_inner(x.shape))
    return ()


def lower_view(node: Node, into: Lowering) -> tuple[Step, ...]:
    """What torch makes of such a tensor by another look at its memory."""
    x = into.value(node.arguments[0][1])
    if len(list(node.operands())) != 1:
        raise RefusedError("its shape is another tensor's")
    tensor = torch.empty_strided(x.shape, x.strides, device="meta")
    made = bound(node)(lambda _: tensor, into.batch)
    shape = into.shape(node.name)
    if made.untyped_storage()._cdata != tensor.untyped_storage()._cdata or made.storage_offset():
        raise RefusedError("its numbers would lie elsewhere")
    for inner in (usual_inner(shape), *range(1, len(shape))):
        if same_strides(shape, made.stride(), strides_of(shape, inner)):
            into.lies[node.name] = Lie(x.buffer, shape, inner)
            return ()
    raise RefusedError("its numbers would lie elsewhere")


def lower_cat(node: Node, into: Lowering) -> tuple[Step, ...]:
    """Values side by side along their innermost dimension."""
    shape = into.shape(node.name)
    inner = node["dim"] % len(shape)
    lies = [into.along(operand, inner) for operand in node["tensors"]]
    out = into.made(node, inner)
    rows, whole = out.elements // shape[inner], shape[inner]
    starts = accumulate((lie.shape[inner] for lie in lies), initial=0)
    return tuple(
        step(Copy(rows, n, (0, start), (n, whole)), x=lie.buffer, out=out.buffer)
        for lie, start, n in ((lie, start, lie.shape[inner]) for lie, start in zip(lies, starts, strict=False))
    )


def lower_pieces(node: Node, into: Lowering) -> tuple[Step, ...]:
    """split, chunk and their like: nothing is done before a piece is taken."""
    found = into.shapes.get(node.name)
    x = into.value(node["self"])
    inner = node["dim"] % len(x.shape)
    x = into.along(node["self"], inner)
    shapes: Sequence[Shape] = found if found and isinstance(found[0], tuple) else ()
    starts = accumulate((shape[inner] for shape in shapes), initial=0)
    into.pieces[node.name] = tuple((x, start, shape) for start, shape in zip(starts, shapes, strict=False))
    return ()


def lower_getitem(node: Node, into: Lowering) -> tuple[Step, ...]:
    pieces = into.pieces.get(node["self"].name)
    if pieces is None:
        raise RefusedError("what it takes a piece of is torch's")
    x, start, _ = pieces[node["index"]]
    return _piece(node, x, start, into)


def lower_slice(node: Node, into: Lowering) -> tuple[Step, ...]:
    x = into.value(node["self"])
    inner = node["dim"] % len(x.shape)
    start, _, stride = slice(node["start"], node["end"], node["step"]).indices(x.shape[inner])
    if stride != 1:
        raise RefusedError("it takes every so many")
    return _piece(node, into.along(node["self"], inner), start, into)


def _piece(node: Node, x: Lie, start: int, into: Lowering) -> tuple[Step, ...]:
    """Neighbours along the innermost dimension."""
    out = into.made(node, x.inner)
    whole, channels = x.shape[x.inner], out.shape[x.inner]
    problem = Copy(out.elements // channels, channels, (start, 0), (whole, channels))
    return (step(problem, x=x.buffer, out=out.buffer),)


def lower_bilinear(node: Node, into: Lowering) -> tuple[Step, ...]:
    """Images of another size, as torch counts: by the factors given, else by the sizes."""
    x, shape = into.along(node["input"], 1), into.shape(node.name)
    if len(shape) != 4:
        raise RefusedError("its input is no image")
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
    return (step(problem, x=x.buffer, out=into.made(node, 1).buffer),)


def lower_nearest(node: Node, into: Lowering) -> tuple[Step, ...]:
    """Images made larger by whole factors: every pixel is repeated."""
    x, shape = into.along(node["input"], 1), into.shape(node.name)
    if len(shape) != 4:
        raise RefusedError("its input is no image")
    down, across = (large // small for large, small in zip(shape[2:], x.shape[2:], strict=True))
    if (down * x.shape[2], across * x.shape[3]) != shape[2:]:
        raise RefusedError("an image is made larger by whole factors")
    factors = node["scale_factors"]
    if node["output_size"] is None and tuple(factors) != (down, across):
        raise RefusedError("an image is made larger by whole factors")
    problem = Nearest(x.shape[0] * x.shape[2], x.shape[3], x.shape[1], down, across)
    return (step(problem, x=x.buffer, out=into.made(node, 1).buffer),)
