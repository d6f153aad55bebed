"""What a node of an exported program says: its arguments by name, those that are written otherwise here, its module."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, fx
from torch._ops import OpOverload

from ..geometry import padding_pairs, per_axis
from .graph import Argument


def all_arguments(target: OpOverload, args: Any, kwargs: Any) -> list[tuple[str, Any]]:
    """All arguments of an operator by name, its defaults where none are given."""
    found = []
    for number, argument in enumerate(target._schema.arguments):
        if number < len(args):
            item = args[number]
        elif argument.name in kwargs:
            item = kwargs[argument.name]
        else:
            item = argument.default_value
        found.append((argument.name, item))
    return found


def is_batched_image(node: fx.Node, rank: int) -> bool:
    fake = node.args[0].meta["val"] if isinstance(node.args[0], fx.Node) else None
    return isinstance(fake, Tensor) and fake.dim() == rank + 2


def of_conv(arguments: dict[str, Any], node: fx.Node) -> list[tuple[str, Argument]]:
    """The arguments of our own convolution, padding in pairs."""
    weight = cast(fx.Node, node.args[1])
    kernel_size = tuple(weight.meta["val"].shape[2:])
    rank = len(kernel_size)
    stride, dilation = (per_axis(arguments[key], rank, key) for key in ("stride", "dilation"))
    # A "same" of torch's is at stride 1, where it depends on no size.
    padding = padding_pairs(arguments["padding"], kernel_size, kernel_size, stride, dilation)
    window = (("stride", stride), ("padding", padding), ("dilation", dilation), ("groups", arguments["groups"]))
    given = tuple((key, arguments[key]) for key in ("input", "weight", "bias"))
    return [*given, *window, ("residual", None), ("activation", None)]


def of_pieces(node: fx.Node, arguments: dict[str, Any]) -> list[tuple[str, Argument]]:
    """What is cut, and the size of each piece."""
    sizes = tuple(int(piece.shape[arguments["dim"]]) for piece in node.meta["val"])
    return [("self", arguments["self"]), ("split_sizes", sizes), ("dim", arguments["dim"])]


def of_mean(node: fx.Node, arguments: dict[str, Any]) -> list[tuple[str, Argument]]:
    """The arguments of a mean along every dimension."""
    rank = node.all_input_nodes[0].meta["val"].dim()
    return [("self", arguments["self"]), ("dim", tuple(range(rank))), ("keepdim", False), ("dtype", arguments["dtype"])]


def source_of(node: fx.Node) -> str:
    """Path of the module that called the operator."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return str(paths[-1]) if paths else ""
