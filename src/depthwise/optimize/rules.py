"""The rule for the shape of what each operator gives; no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import floor, prod
from typing import Any

from ..geometry import out_spatial, per_axis, pooled
from .graph import Argument, Batch, Node, Value

Shape = tuple[int, ...]
Shapes = Shape | tuple[Shape, ...] | None


class Arguments:
    """A node's arguments, with shapes in the places of values and numbers in the places of batches."""

    def __init__(self, node: Node, known: Mapping[str, Shapes], batch: int) -> None:
        self.node = node
        self.known = known
        self.batch = batch

    def __getitem__(self, name: str) -> Any:
        return self._filled(self.node[name])

    def ints(self, name: str) -> tuple[int, ...]:
        found = self[name]
        return found if isinstance(found, tuple) else (found,)

    def is_known(self) -> bool:
        return all(self.known.get(operand) is not None for operand in self.node.operands())

    def _filled(self, argument: Argument) -> Any:
        if isinstance(argument, Value):
            return self.known.get(argument.name)
        if isinstance(argument, Batch):
            return argument.multiple * self.batch
        return tuple(map(self._filled, argument)) if isinstance(argument, tuple) else argument


def broadcast(*shapes: Shape) -> Shape:
    """The shape that these give together, aligned at their ends.

    >>> broadcast((2, 8, 5, 5), (8, 1, 1), ())
    (2, 8, 5, 5)
    """
    rank = max(map(len, shapes))
    found = []
    for sizes in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True):
        wide = {size for size in sizes if size != 1}
        if len(wide) > 1:
            raise ValueError(f"{' and '.join(map(str, shapes))} do not broadcast")
        found.append(wide.pop() if wide else 1)
    return tuple(found)


def axis(dim: int, rank: int) -> int:
    """`dim` counted from the front."""
    if not -rank <= dim < rank:
        raise ValueError(f"there is no dimension {dim} of {rank}")
    return dim % rank


def axes_of(argument: Any, rank: int) -> set[int]:
    """The dimensions that an argument names; None and () mean all."""
    given = argument if isinstance(argument, tuple) else () if argument is None else (argument,)
    return {axis(dim, rank) for dim in given} or set(range(rank))


def _same(a: Arguments) -> Shape:
    shape: Shape = a[a.node.arguments[0][0]]
    return shape


def _together(*names: str) -> Callable[[Arguments], Shape]:
    def rule(a: Arguments) -> Shape:
        shapes = (a[name] for name in names)
        return broadcast(*(shape if isinstance(shape, tuple) else () for shape in shapes))

    return rule


def _conv(a: Arguments) -> Shape:
    x, weight, groups = a["input"], a["weight"], a["groups"]
    if len(x) != len(weight) or x[1] != weight[1] * groups or weight[0] % groups:
        raise ValueError(f"weights {weight} in {groups} groups for an input of {x}")
    return _checked((x[0], weight[0], *_window(a, x, weight)), a)


def _separable(a: Arguments) -> Shape:
    x, first, last, groups = a["input"], a["depthwise_weight"], a["pointwise_weight"], a["groups"]
    if len(x) != len(first) or first[1] != 1 or first[0] % x[1] or last[1] * groups != first[0] or prod(last[2:]) != 1:
        raise ValueError(f"weights {first} and {last} in {groups} groups for an input of {x}")
    return _checked((x[0], last[0], *_window(a, x, first)), a)


def _gated(a: Arguments) -> Shape:
    x, gate, weight = a["input"], a["gate"], a["weight"]
    is_gate = gate == (*x[:2], *(1,) * (len(x) - 2))
    if len(x) < 3 or len(x) != len(weight) or not is_gate or x[1] != weight[1] * a["groups"] or prod(weight[2:]) != 1:
        raise ValueError(f"weights of {weight} in {a['groups']} groups and a gate of {gate} for an input of {x}")
    return _checked((x[0], weight[0], *x[2:]), a)


def _window(a: Arguments, x: Shape, weight: Shape) -> Shape:
    sizes = out_spatial(x[2:], weight[2:], a["stride"], a["padding"], a["dilation"])
    if any(size < 1 for size in sizes):
        raise ValueError(f"a kernel of {weight[2:]} on an input of {x[2:]} gives {sizes}")
    return sizes


def _checked(shape: Shape, a: Arguments) -> Shape:
    residual = a["residual"]
    if residual is not None and residual != shape:
        raise ValueError(f"a residual of {residual} for a result of {shape}")
    return shape


def _linear(a: Arguments) -> Shape:
    x, weight = a["input"], a["weight"]
    if not x or x[-1] != weight[1]:
        raise ValueError(f"weights {weight} for an input of {x}")
    return (*x[:-1], weight[0])


def _flatten(a: Arguments) -> Shape:
    shape = a["self"] or (1,)
    first, last = axis(a["start_dim"], len(shape)), axis(a["end_dim"], len(shape))
    return (*shape[:first], prod(shape[first : last + 1]), *shape[last + 1 :])


def _adaptive(a: Arguments) -> Shape:
    shape = a["self"]
    return (*shape[:-2], *per_axis(a["output_size"], 2, "output_size"))


def _pool(a: Arguments) -> Shape:
    shape, kernel = a["self"], pair_of(a["kernel_size"])
    stride, padding = pair_of(a["stride"] or kernel), pair_of(a["padding"])
    dilation = pair_of(a["dilation"]) if a.node.operator == "max_pool2d" else (1, 1)
    axes = zip(shape[-2:], kernel, stride, padding, dilation, strict=True)
    return (*shape[:-2], *(pooled(*one, ceil_mode=a["ceil_mode"]) for one in axes))


def pair_of(value: Any) -> tuple[int, int]:
    """A number for each of two axes, from one or two."""
    first, *rest = value if isinstance(value, tuple) else (value,)
    return first, rest[0] if rest else first


def _reduced(a: Arguments) -> Shape:
    shape = a["self"]
    gone = axes_of(a["dim"], len(shape))
    sizes = ((1 if n in gone else size) for n, size in enumerate(shape) if a["keepdim"] or n not in gone)
    return tuple(sizes)


def _cat(a: Arguments) -> Shape:
    shapes = [shape for shape in a["tensors"] if shape != (0,)]
    at = axis(a["dim"], len(shapes[0]))
    if len({(*shape[:at], *shape[at + 1 :]) for shape in shapes}) > 1:
        raise ValueError(f"{' and '.join(map(str, shapes))} differ beside dimension {at}")
    return (*shapes[0][:at], sum(shape[at] for shape in shapes), *shapes[0][at + 1 :])


def _stack(a: Arguments) -> Shape:
    shapes = a["tensors"]
    if len(set(shapes)) > 1:
        raise ValueError(f"{' and '.join(map(str, shapes))} differ")
    at = axis(a["dim"], len(shapes[0]) + 1)
    return (*shapes[0][:at], len(shapes), *shapes[0][at:])


def _reshape(a: Arguments) -> Shape:
    return _sized(a["self"], a.ints("shape"))


def _sized(shape: Shape, wanted: Shape) -> Shape:
    """Sizes for as many numbers, one of which may be -1: what is left."""
    whole, fixed, free = prod(shape), prod(size for size in wanted if size != -1), wanted.count(-1)
    if free > 1 or (free and (not fixed or whole % fixed)) or (not free and whole != fixed):
        raise ValueError(f"{shape} is not {wanted}")
    return tuple(whole // fixed if size == -1 else size for size in wanted)


def _reshape_as(a: Arguments) -> Shape:
    shape, other = a["self"], a["other"]
    if prod(shape) != prod(other):
        raise ValueError(f"{shape} is not {other}")
    return tuple(other)


def _expand(a: Arguments) -> Shape:
    sizes = a.ints("size")
    shape = (None,) * (len(sizes) - len(a["self"])) + a["self"]
    return tuple(old if new == -1 else new for old, new in zip(shape, sizes, strict=True))


def _permute(a: Arguments) -> Shape:
    shape = a["self"]
    dims = [axis(dim, len(shape)) for dim in a.ints("dims")]
    if sorted(dims) != list(range(len(shape))):
        raise ValueError(f"{dims} of {shape}")
    return tuple(shape[dim] for dim in dims)


def _transpose(a: Arguments) -> Shape:
    shape = list(a["self"])
    if shape:
        one, other = axis(a["dim0"], len(shape)), axis(a["dim1"], len(shape))
        shape[one], shape[other] = shape[other], shape[one]
    return tuple(shape)


# A size may come out of a file, and so many tensors are no network.
MOST_PIECES = 1 << 16


def _pieces(shape: Shape, at: int, sizes: Sequence[int]) -> tuple[Shape, ...]:
    return tuple((*shape[:at], size, *shape[at + 1 :]) for size in sizes)


def _split(a: Arguments) -> tuple[Shape, ...]:
    shape = a["self"]
    at, size = axis(a["dim"], len(shape)), a["split_size"]
    return _pieces(shape, at, _steps(shape[at], size))


def _steps(whole: int, step: int) -> list[int]:
    if not whole:
        return [0]
    _check_pieces(-(-whole // step))
    return [min(step, whole - start) for start in range(0, whole, step)]


def _check_pieces(count: int) -> None:
    if count > MOST_PIECES:
        raise ValueError(f"{count} pieces of one tensor")


def _split_with_sizes(a: Arguments) -> tuple[Shape, ...]:
    shape = a["self"]
    at, sizes = axis(a["dim"], len(shape)), a.ints("split_sizes")
    if sum(sizes) != shape[at]:
        raise ValueError(f"{sizes} of {shape[at]}")
    return _pieces(shape, at, sizes)


def _chunk(a: Arguments) -> tuple[Shape, ...]:
    shape = a["self"]
    at = axis(a["dim"], len(shape))
    return _pieces(shape, at, _steps(shape[at], -(-shape[at] // a["chunks"])))


def _unbind(a: Arguments) -> tuple[Shape, ...]:
    shape = a["self"]
    at = axis(a["dim"], len(shape))
    piece: Shape = (*shape[:at], *shape[at + 1 :])
    _check_pieces(shape[at])
    return (piece,) * int(shape[at])


def _getitem(a: Arguments) -> Shape:
    shape: Shape = a["self"][a["index"]]
    return shape


def _slice(a: Arguments) -> Shape:
    shape = a["self"]
    at = axis(a["dim"], len(shape))
    first, last, step = slice(a["start"], a["end"], a["step"]).indices(shape[at])
    return (*shape[:at], max(0, -(-(last - first) // step)), *shape[at + 1 :])


def _select(a: Arguments) -> Shape:
    shape = a["self"]
    at = axis(a["dim"], len(shape))
    axis(a["index"], shape[at])
    return (*shape[:at], *shape[at + 1 :])


def _squeeze(a: Arguments) -> Shape:
    shape = a["self"]
    at = axis(a["dim"], len(shape))
    return (*shape[:at], *shape[at + 1 :]) if shape[at] == 1 else shape


def _unflatten(a: Arguments) -> Shape:
    shape, at = a["self"], axis(a["dim"], len(a["self"]))
    return (*shape[:at], *_sized(shape[at : at + 1], a.ints("sizes")), *shape[at + 1 :])


def _unsqueeze(a: Arguments) -> Shape:
    shape = a["self"]
    at = axis(a["dim"], len(shape) + 1)
    return (*shape[:at], 1, *shape[at:])


def _pad(a: Arguments) -> Shape:
    sizes, amounts = list(a["self"]), a.ints("pad")
    if len(amounts) % 2 or len(amounts) > 2 * len(sizes):
        raise ValueError(f"padding {amounts} of {a['self']}")
    for number in range(len(amounts) // 2):
        sizes[-1 - number] += amounts[2 * number] + amounts[2 * number + 1]
    if any(size < 0 for size in sizes):
        raise ValueError(f"padding {amounts} of {a['self']}")
    return tuple(sizes)


def _upsample(a: Arguments) -> Shape:
    shape, size, factors = a["input"], a["output_size"], a["scale_factors"]
    if size is None:
        size = tuple(floor(n * factor) for n, factor in zip(shape[2:], factors, strict=True))
    return (*shape[:2], *per_axis(size, 2, "output_size"))


def _index(a: Arguments) -> Shape:
    shape, indices = a["self"], a["indices"]
    indices = indices + (None,) * (len(shape) - len(indices))
    if any(at is not None and not isinstance(at, tuple) for at in indices) or len(indices) != len(shape):
        raise ValueError(f"indices {indices} of {shape}")
    places = [n for n, at in enumerate(indices) if at is not None]
    found = broadcast(*(indices[n] for n in places))
    rest = [size for n, size in enumerate(shape) if n not in places]
    # Where the indexed dimensions do not stand together, theirs come first.
    first = places[0] if places[-1] - places[0] == len(places) - 1 else 0
    return (*rest[:first], *found, *rest[first:])


def _normalised(a: Arguments) -> Shape:
    shape: Shape = a["input"]
    wanted = a.ints("normalized_shape")
    if shape[len(shape) - len(wanted) :] != wanted:
        raise ValueError(f"normalised over {wanted}, an input of {shape}")
    return shape


def _per_channel(name: str) -> Callable[[Arguments], Shape]:
    def rule(a: Arguments) -> Shape:
        shape: Shape = a["input"]
        given = a[name]
        if given is not None and (len(shape) < 2 or given != (shape[1],)):
            raise ValueError(f"{given} numbers for the channels of {shape}")
        return shape

    return rule


RULES: dict[str, Callable[[Arguments], Shapes]] = {
    **dict.fromkeys(
        (
            *("alias", "clone", "contiguous", "detach", "dropout", "elu", "gelu", "hardsigmoid", "hardswish"),
            *("hardtanh", "layout", "leaky_relu", "lift_fresh_copy", "relu", "relu6", "rsub", "sigmoid", "silu"),
            *("softmax", "tanh"),
        ),
        _same,
    ),
    **dict.fromkeys(("add", "div", "mul", "sub"), _together("self", "other")),
    "addcmul": _together("self", "tensor1", "tensor2"),
    "adaptive_avg_pool2d": _adaptive,
    "affine": _per_channel("scale"),
    "avg_pool2d": _pool,
    "batch_norm": _per_channel("running_mean"),
    "cat": _cat,
    "chunk": _chunk,
    "conv": _conv,
    "expand": _expand,
    "expand_as": lambda a: broadcast(a["self"], a["other"]),
    "flatten": _flatten,
    "gated": _gated,
    "getitem": _getitem,
    "group_norm": _per_channel("weight"),
    "index": _index,
    "layer_norm": _normalised,
    "linalg_vector_norm": _reduced,
    "linear": _linear,
    "max_pool2d": _pool,
    "mean": _reduced,
    "pad": _pad,
    "permute": _permute,
    "reshape": _reshape,
    "reshape_as": _reshape_as,
    "select": _select,
    "separable": _separable,
    "slice": _slice,
    "split": _split,
    "split_with_sizes": _split_with_sizes,
    "squeeze": _squeeze,
    "stack": _stack,
    "sum": _reduced,
    "transpose": _transpose,
    "unbind": _unbind,
    "unflatten": _unflatten,
    "unsqueeze": _unsqueeze,
    "upsample_bilinear2d": _upsample,
    "upsample_nearest2d": _upsample,
}
