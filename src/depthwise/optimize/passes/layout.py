"""Images are channels-last inside, whatever order of bytes they come in.

A convolution's image is laid out where it comes from outside or from an operator that moves dimensions; every other
operator keeps the order that it reads. Weights follow: torch reorders those of another layout at each call.
"""

from __future__ import annotations

from dataclasses import replace

from ..graph import Node, Value
from ..network import Network
from ..operators import FORMATS

CONVOLUTIONS = ("conv", "separable")
MOVING = ("getitem", "index", "permute", "reshape", "reshape_as", "select", "stack", "transpose", "unsqueeze")


def choose_layout(network: Network) -> Network:
    """Let every convolution over images read them channels-last."""
    makers = {node.name: node for node in network.graph.nodes}
    taken = makers.keys() | network.weights.keys() | {spec.name for spec in network.graph.inputs}
    laid_out: dict[str, str] = {}
    nodes: list[Node] = []
    dtypes, added = dict(network.dtypes), {}
    for node in network.graph.nodes:
        image = _image(node, network, makers)
        if image is not None:
            if image not in laid_out:
                name = f"{image}_channels_last"
                while name in taken:
                    name += "_"
                laid_out[image] = name
                arguments = (("self", Value(image)), ("channels_last", True))
                nodes.append(Node(name, "layout", arguments, node.source))
                dtypes[name], added[name] = dtypes.get(image, ""), image
            nodes.append(node.changed(input=Value(laid_out[image])))
        else:
            nodes.append(node)
    seen = tuple(shapes | {name: shapes[image] for name, image in added.items()} for shapes in network.seen)
    return lay_out_weights(replace(network, graph=replace(network.graph, nodes=tuple(nodes)), seen=seen, dtypes=dtypes))


def lay_out_weights(network: Network) -> Network:
    """The same network with the weights of its dense convolutions as such images need them."""
    if not any(node.operator == "layout" for node in network.graph.nodes):
        return network
    weights = dict(network.weights)
    for node in network.graph.nodes:
        weight = weights.get(node["weight"].name) if node.operator == "conv" else None
        if weight is not None and weight.dim() in FORMATS:
            weights[node["weight"].name] = weight.contiguous(memory_format=FORMATS[weight.dim()])
    return replace(network, weights=weights)


def _image(node: Node, network: Network, makers: dict[str, Node]) -> str | None:
    """The value that a convolution should read channels-last, where it may not be."""
    if node.operator not in CONVOLUTIONS or len(node["stride"]) + 2 not in FORMATS:
        return None
    name: str = node["input"].name
    maker = makers.get(name)
    if maker is None:
        return None if name in network.weights else name
    # Of an operator without rules nothing is known.
    return name if maker.operator in MOVING or "." in maker.operator else None
