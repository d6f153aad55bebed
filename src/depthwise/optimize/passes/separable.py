"""A depthwise convolution and the pointwise one that alone reads it become one node.

conv(conv(x, depthwise, activation=a), pointwise, activation=b)   becomes   separable(x, depthwise, pointwise, a, b)
"""

from __future__ import annotations

from ..graph import Node
from ..network import Network, Rewriting


def join_separable(network: Network) -> Network:
    """Join each depthwise convolution with its pointwise one."""
    rewriting = Rewriting(network)
    for node in rewriting.each():
        if node.operator != "conv" or not is_pointwise(node, rewriting):
            continue
        first = rewriting.maker(node["input"])
        if first is not None and rewriting.uses(first.name) == 1 and _is_depthwise(first, rewriting):
            rewriting.put(_joined(first, node))
    return rewriting.done()


def is_pointwise(conv: Node, rewriting: Rewriting) -> bool:
    """Whether a convolution mixes the channels of each pixel alone."""
    weight = rewriting.constant(conv["weight"])
    if weight is None or any(size != 1 for size in weight.shape[2:]):
        return False
    is_still = all(step == 1 for step in conv["stride"]) and all(pair == (0, 0) for pair in conv["padding"])
    # A convolution to one filter for each channel mixes none: it is depthwise.
    return is_still and not (conv["groups"] > 1 and weight.shape[1] == 1)


def _is_depthwise(node: Node, rewriting: Rewriting) -> bool:
    if node.operator != "conv" or node["residual"] is not None:
        return False
    weight = rewriting.constant(node["weight"])
    # With one input channel a convolution is depthwise and dense at once.
    return weight is not None and weight.shape[1] == 1 and weight.shape[0] % node["groups"] == 0


def _joined(first: Node, last: Node) -> Node:
    window = tuple((key, first[key]) for key in ("stride", "padding", "dilation"))
    arguments = (
        ("input", first["input"]),
        ("depthwise_weight", first["weight"]),
        ("depthwise_bias", first["bias"]),
        ("pointwise_weight", last["weight"]),
        ("pointwise_bias", last["bias"]),
        *window,
        ("groups", last["groups"]),
        ("depthwise_activation", first["activation"]),
        ("residual", last["residual"]),
        ("activation", last["activation"]),
    )
    return Node(last.name, "separable", arguments, first.source)
