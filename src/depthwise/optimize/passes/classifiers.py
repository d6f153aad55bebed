"""A linear layer behind a flattened image reads its pixels in the order in which they lie.

linear(flatten(x), w)   becomes   linear(flatten(permute(x, channels last)), w with its columns in that order)

Images are channels-last inside, so that flattening one channel by channel would copy it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import prod

from torch import Tensor

from ..graph import Node, Value
from ..network import Network, Shape, pruned, specs_of

FLATTENING = ("flatten", "reshape")
LAST = (0, 2, 3, 1)


def order_classifiers(network: Network) -> Network:
    """Let each linear layer behind a flattened image read its channels last."""
    makers = {node.name: node for node in network.graph.nodes}
    uses = Counter(operand for node in network.graph.nodes for operand in node.operands())
    uses.update(network.graph.returned())
    weights, changed, dtypes = dict(network.weights), dict(makers), dict(network.dtypes)
    taken = changed.keys() | weights.keys() | {spec.name for spec in network.graph.inputs}

    def free(name: str) -> str:
        return name if name not in taken else free(f"{name}_")

    before: dict[str, Node] = {}
    for node in network.graph.nodes:
        flat = makers.get(node["input"].name) if node.operator == "linear" else None
        size = None if flat is None or uses[flat.name] > 1 else _image_size(flat, network)
        if flat is None or size is None or node["weight"].name not in network.weights:
            continue
        image, permuted, columns = flat["self"].name, free(f"{flat.name}_pixels"), free(f"{node.name}_by_pixels")
        before[flat.name] = Node(permuted, "permute", (("self", Value(image)), ("dims", LAST)), flat.source)
        changed[flat.name] = flat.changed(self=Value(permuted))
        changed[node.name] = node.changed(weight=Value(columns))
        weights[columns] = _by_pixels(network.weights[node["weight"].name], size)
        dtypes[permuted], dtypes[columns] = dtypes.get(image, ""), dtypes.get(node["weight"].name, "")
    if not before:
        return network
    nodes = tuple(
        each for node in network.graph.nodes for each in (before.get(node.name), changed[node.name]) if each is not None
    )
    seen = tuple(_with(shapes, before, weights) for shapes in network.seen)
    graph = replace(network.graph, nodes=nodes, weights=specs_of(weights))
    return pruned(replace(network, graph=graph, weights=weights, seen=seen, dtypes=dtypes))


def _image_size(node: Node, network: Network) -> Shape | None:
    """(channels, height, width) of the image that a node flattens, the same in every capture; None where it is none."""
    if node.operator not in FLATTENING or not isinstance(node["self"], Value):
        return None
    found = set()
    for shapes in network.seen:
        image, flat = shapes.get(node["self"].name), shapes.get(node.name)
        if image is None or flat is None or len(image) != 4 or flat != (image[0], prod(image[1:])):
            return None
        found.add(image[1:])
    # Of one pixel both orders are the same.
    return found.pop() if len(found) == 1 and prod(next(iter(found))[1:]) > 1 else None


def _by_pixels(weight: Tensor, size: Shape) -> Tensor:
    columns: Tensor = weight.unflatten(1, size).permute(LAST).flatten(1)
    return columns.contiguous()


def _with(shapes: dict[str, Shape], before: dict[str, Node], weights: dict[str, Tensor]) -> dict[str, Shape]:
    """The shapes of a capture, with those of nodes and weights that are new."""
    found = shapes | {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for node in before.values():
        batch, channels, *spatial = shapes[node["self"].name]
        found[node.name] = (batch, *spatial, channels)
    return found
