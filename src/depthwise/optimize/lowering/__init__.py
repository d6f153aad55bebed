"""Nodes become problems of a backend, named by the values that they read and write: the table of all that can."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...backends.series import Step
from ..graph import Node, follows_batch
from ..network import Network
from ..rules import Shapes
from .context import Lie, Lowering, RefusedError
from .convolutions import is_dense, lower_conv, lower_gated, lower_linear, lower_separable
from .elementwise import lower_activation, lower_addcmul, lower_affine, lower_binary, lower_rsub
from .fusing import fused
from .moving import (
    lower_bilinear,
    lower_cat,
    lower_expand,
    lower_getitem,
    lower_layout,
    lower_nearest,
    lower_pieces,
    lower_select,
    lower_slice,
    lower_stack,
    lower_unbind,
    lower_view,
)
from .padding import lower_pad
from .reductions import (
    lower_adaptive_pool,
    lower_average_pool,
    lower_group_norm,
    lower_layer_norm,
    lower_max_pool,
    lower_mean,
    lower_norm,
    lower_softmax,
    lower_sum,
)

LOWERED: Mapping[str, Callable[[Node, Lowering], tuple[Step, ...]]] = {
    **dict.fromkeys(("add", "div", "mul", "sub"), lower_binary),
    **dict.fromkeys(
        ("elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "relu", "relu6", "sigmoid", "silu"),
        lower_activation,
    ),
    **dict.fromkeys(("chunk", "split", "split_with_sizes"), lower_pieces),
    **dict.fromkeys(("expand", "expand_as"), lower_expand),
    **dict.fromkeys(
        (
            "clone",
            "contiguous",
            "flatten",
            "permute",
            "reshape",
            "reshape_as",
            "squeeze",
            "transpose",
            "unflatten",
            "unsqueeze",
        ),
        lower_view,
    ),
    "adaptive_avg_pool2d": lower_adaptive_pool,
    "addcmul": lower_addcmul,
    "affine": lower_affine,
    "avg_pool2d": lower_average_pool,
    "cat": lower_cat,
    "conv": lower_conv,
    "gated": lower_gated,
    "getitem": lower_getitem,
    "group_norm": lower_group_norm,
    "layer_norm": lower_layer_norm,
    "layout": lower_layout,
    "linalg_vector_norm": lower_norm,
    "linear": lower_linear,
    "max_pool2d": lower_max_pool,
    "mean": lower_mean,
    "pad": lower_pad,
    "rsub": lower_rsub,
    "select": lower_select,
    "separable": lower_separable,
    "slice": lower_slice,
    "softmax": lower_softmax,
    "stack": lower_stack,
    "sum": lower_sum,
    "unbind": lower_unbind,
    "upsample_bilinear2d": lower_bilinear,
    "upsample_nearest2d": lower_nearest,
}
# What may have the batch among its arguments: it stands in no kernel.
VIEWS = (lower_view, lower_expand)


@dataclass(frozen=True, slots=True)
class LoweredGraph:
    """A network's nodes at one batch.

    steps:    of each node that has some, or needs none; refusals: of the others, why
    lies:     how values lie, where they are dense numbers; elements: of each buffer that a step writes
    """

    steps: Mapping[str, tuple[Step, ...]]
    refusals: Mapping[str, str]
    lies: Mapping[str, Lie]
    elements: Mapping[str, int]


def lower_graph(network: Network, shapes: Mapping[str, Shapes], batch: int) -> LoweredGraph:
    """The steps of all nodes that have some; what reads pieces of a value that torch makes is torch's too."""
    dtypes = network.dtypes | {spec.name: spec.dtype for spec in network.graph.inputs}
    refused: dict[str, str] = {}
    planar = _planar_inputs(network)
    while True:
        into = Lowering(shapes, network.weights, dtypes, batch, planar)
        steps: dict[str, tuple[Step, ...]] = {}
        refusals: dict[str, str] = {}
        for node in network.graph.nodes:
            found = refused.get(node.name) or lowered(node, into)
            if isinstance(found, str):
                refusals[node.name] = found
            else:
                steps[node.name] = found
        apart = _read_apart(network, into, refusals)
        if not apart:
            return LoweredGraph(steps, refusals, into.lies, into.elements)
        refused |= dict.fromkeys(apart, "torch reads its pieces")


def _planar_inputs(network: Network) -> set[str]:
    """Inputs that only dense convolutions read: they take contiguous images as they come."""
    if network.takes_last:
        return set()
    readers: dict[str, list[Node]] = defaultdict(list)
    for node in network.graph.nodes:
        for operand in node.operands():
            readers[operand].append(node)

    def is_taken(node: Node) -> bool:
        weight = network.weights.get(node["weight"].name) if node.operator == "conv" else None
        return weight is not None and is_dense(node, tuple(weight.shape))

    inputs = {spec.name for spec in network.graph.inputs} - set(network.graph.returned())
    return {
        name
        for name in inputs
        if len(readers[name]) == 1
        and readers[name][0].operator == "layout"
        and all(map(is_taken, readers[readers[name][0].name]))
    }


def _read_apart(network: Network, into: Lowering, refusals: Mapping[str, str]) -> set[str]:
    """The nodes that give pieces to somebody else than our own."""
    read = set(network.graph.returned())
    read.update(operand for node in network.graph.nodes if node.name in refusals for operand in node.operands())
    return read & into.pieces.keys()


def lowered(node: Node, into: Lowering) -> tuple[Step, ...] | str:
    """The steps of a node, or why it has none."""
    lower = LOWERED.get(node.operator)
    if lower is None:
        return f"{node.operator} has no kernel of ours"
    # A view is made at the batch that it is lowered for; a kernel with another batch in it would be another kernel.
    if follows_batch(node) and lower not in VIEWS:
        return "its arguments depend on the batch"
    into.before = []
    try:
        steps = lower(node, into)
    except RefusedError as why:
        return str(why)
    return (*into.before, *steps)


__all__ = ["LOWERED", "Lie", "LoweredGraph", "fused", "lower_graph"]
