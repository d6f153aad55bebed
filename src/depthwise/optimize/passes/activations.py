"""A sum with another tensor and the activation that follows go into the convolution before them.

    conv -> add other -> relu      becomes      conv(..., residual=other, activation=relu)

where nothing else reads what is between.
"""

from __future__ import annotations

from ...backends.base import Activation
from ..graph import Node, Value
from ..network import Network, Rewriting

NAMES = ("relu", "relu6", "silu", "hardswish", "hardsigmoid", "sigmoid")


def fuse_activations(network: Network) -> Network:
    """Give convolutions the sum and the activation after them."""
    rewriting = Rewriting(network)
    for node in rewriting.each():
        activation = activation_of(node)
        if activation is not None:
            conv = _alone(node, node.arguments[0][0], rewriting)
            if conv is not None and conv["activation"] is None:
                rewriting.put(_at(node, conv.changed(activation=activation)))
        elif node.operator == "add" and node["alpha"] == 1:
            fused = _with_residual(node, rewriting)
            if fused is not None:
                rewriting.put(fused)
    return rewriting.done()


def activation_of(node: Node) -> Activation:
    """The activation that a node is, among those that kernels know."""
    if node.operator in NAMES:
        return node.operator, 0.0
    if node.operator == "hardtanh":
        return ("relu6", 0.0) if (node["min_val"], node["max_val"]) == (0, 6) else None
    if node.operator == "gelu":
        return ("gelu", 0.0) if node["approximate"] == "none" else None
    if node.operator == "leaky_relu":
        return "leaky_relu", float(node["negative_slope"])
    if node.operator == "elu":
        return ("elu", float(node["alpha"])) if (node["scale"], node["input_scale"]) == (1, 1) else None
    return None


def _alone(node: Node, key: str, rewriting: Rewriting) -> Node | None:
    """The convolution that gives this operand, where no other node reads it."""
    maker = rewriting.maker(node[key])
    is_alone = maker is not None and maker.operator == "conv" and rewriting.uses(maker.name) == 1
    return maker if is_alone else None


def _with_residual(node: Node, rewriting: Rewriting) -> Node | None:
    """The sum as a convolution, the later of two where both operands are one."""
    found = []
    for key, other in (("self", "other"), ("other", "self")):
        conv, residual = _alone(node, key, rewriting), node[other]
        if conv is None or conv["activation"] is not None or conv["residual"] is not None:
            continue
        if isinstance(residual, Value) and _is_alike(residual.name, conv.name, rewriting):
            found.append(conv.changed(residual=residual))
    if not found:
        return None
    order = list(rewriting.nodes)
    return _at(node, max(found, key=lambda conv: order.index(conv.name)))


def _is_alike(one: str, other: str, rewriting: Rewriting) -> bool:
    """Whether two values are of one shape and dtype, so that their sum is too."""
    dtypes = rewriting.network.dtypes
    return rewriting.same_shape(one, other) and one in dtypes and dtypes[one] == dtypes.get(other)


def _at(node: Node, conv: Node) -> Node:
    """The convolution in another node's place."""
    return Node(node.name, conv.operator, conv.arguments, conv.source)
