"""A graph with its weights, and how a pass rewrites it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .graph import Argument, Graph, Node, Spec, Value, renamed, values_in
from .operators import dtype_name

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """A graph, the numbers of its weights, and what is known of its sizes.

    batch:    the only one that it runs, or None where it runs any
    sizes:    shapes of the inputs, at the smallest batch it was captured with, each by its input's name
    is_sized: other heights and widths need another capture
    seen:     for each capture, the shape of every value; dtypes: theirs
    least:    smaller batches than this are not what was captured: their slices are shorter, or one is its own case
    why_fixed: why the batch is fixed; "" where it is not
    takes_last: an image among the example inputs was channels-last
    gives_last: for each value returned, whether torch then gives it channels-last
    """

    graph: Graph
    weights: dict[str, Tensor]
    batch: int | None
    sizes: dict[str, Shape]
    is_sized: bool
    seen: tuple[dict[str, Shape], ...] = ()
    dtypes: dict[str, str] = field(default_factory=dict)
    why_fixed: str = ""
    takes_last: bool = False
    gives_last: tuple[bool, ...] = ()
    least: int = 0

    def copied(self) -> Network:
        """The same with weights of its own, made in no inference mode: they may be changed anywhere."""
        with torch.inference_mode(mode=False):
            return replace(self, weights={name: weight.clone() for name, weight in self.weights.items()})

    def bytes(self) -> int:
        storages = {w.untyped_storage().data_ptr(): w.untyped_storage().nbytes() for w in self.weights.values()}
        return sum(storages.values())


class Rewriting:
    """A network while a pass rewrites it.

    A node that replaces others takes the name of the last of them, so that who reads it does not notice; what nobody
    reads any more goes.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.nodes = {node.name: node for node in network.graph.nodes}
        self.weights = dict(network.weights)
        self.changes = 0
        self._returned = Counter(network.graph.returned())
        self._readers: dict[str, Counter[str]] = defaultdict(Counter)
        for node in self.nodes.values():
            self._connect(node)
        self._stands_for: dict[str, str] = {}
        self._made: dict[Hashable, str] = {}

    def each(self) -> Iterator[Node]:
        """The nodes in order, as each is when its turn comes; those that went by then are passed over."""
        for name in list(self.nodes):
            if name in self.nodes:
                yield self.nodes[name]

    def maker(self, argument: Argument) -> Node | None:
        """The node that gives this operand; None for inputs, weights and numbers."""
        return self.nodes.get(argument.name) if isinstance(argument, Value) else None

    def constant(self, argument: Argument) -> Tensor | None:
        """The weight that this operand is."""
        return self.weights.get(argument.name) if isinstance(argument, Value) else None

    def uses(self, name: str) -> int:
        """How often nodes and results read this value."""
        return self._readers[name].total() + self._returned[name]

    def readers(self, name: str) -> list[Node]:
        """The nodes that read this value."""
        return [self.nodes[reader] for reader in self._readers[name]]

    def shapes(self, name: str) -> tuple[Shape | None, ...]:
        """The shape of a value in each capture; None where it is not one tensor or not known."""
        return tuple(seen.get(name) for seen in self.network.seen)

    def same_shape(self, one: str, other: str) -> bool:
        """Whether two values had the same shape in every capture."""
        shapes = self.shapes(one)
        return bool(shapes) and None not in shapes and shapes == self.shapes(other)

    def put(self, node: Node) -> None:
        """Let this node stand in the place of the one of the same name."""
        before = self.nodes[node.name]
        self.nodes[node.name] = node
        self._connect(node)
        self._disconnect(before)
        self.changes += 1

    def skip(self, node: Node, instead: str) -> None:
        """Let whoever reads a node read something else."""
        for reader in self.readers(node.name):
            changed = reader.reading(lambda operand: instead if operand == node.name else operand)
            self.nodes[reader.name] = changed
            self._connect(changed)
            self._disconnect(reader)
        self._stands_for[node.name] = instead
        self._returned[instead] += self._returned.pop(node.name, 0)
        if self.nodes.pop(node.name, None) is not None:
            self._disconnect(node)
        self.changes += 1

    def weight(self, key: Hashable, make: Callable[[], Tensor], hint: str) -> Value:
        """A weight made by a pass; what is made of the same things, told by the key, is made once."""
        if key not in self._made:
            taken = {spec.name for spec in self.network.graph.inputs} | self._stands_for.keys() | self.nodes.keys()
            name, number = hint, 0
            while name in self.weights or name in taken:
                number += 1
                name = f"{hint}_{number}"
            self.weights[name] = make().detach().contiguous()
            self._made[key] = name
        return Value(self._made[key])

    def done(self) -> Network:
        """The network as it is now, without what nobody reads."""
        if not self.changes:
            return self.network
        gives = renamed(self.network.graph.gives, self._final)
        nodes = tuple(self.nodes.values())
        read = set(values_in(gives)).union(*(node.operands() for node in nodes))
        weights = {name: tensor for name, tensor in self.weights.items() if name in read}
        graph = replace(self.network.graph, weights=specs_of(weights), nodes=nodes, gives=gives)
        seen = tuple(
            shapes | {name: tuple(tensor.shape) for name, tensor in weights.items()} for shapes in self.network.seen
        )
        return replace(self.network, graph=graph, weights=weights, seen=seen)

    def _connect(self, node: Node) -> None:
        for operand in node.operands():
            self._readers[operand][node.name] += 1

    def _disconnect(self, node: Node) -> None:
        """Forget what a node that is no more read; makers that nobody else reads go too."""
        for operand in node.operands():
            readers = self._readers[operand]
            readers[node.name] -= 1
            if readers[node.name] == 0:
                del readers[node.name]
            if operand in self.nodes and self.uses(operand) == 0:
                self._disconnect(self.nodes.pop(operand))

    def _final(self, name: str) -> str:
        while name in self._stands_for:
            name = self._stands_for[name]
        return name


def specs_of(weights: dict[str, Tensor]) -> tuple[Spec, ...]:
    return tuple(Spec(name, tuple(tensor.shape), dtype_name(tensor.dtype)) for name, tensor in weights.items())


def pruned(network: Network) -> Network:
    """The network without nodes that nobody reads."""
    wanted = set(network.graph.returned())
    kept: list[Node] = []
    for node in reversed(network.graph.nodes):
        if node.name in wanted:
            kept.append(node)
            wanted.update(node.operands())
    weights = {name: tensor for name, tensor in network.weights.items() if name in wanted}
    graph = replace(network.graph, weights=specs_of(weights), nodes=tuple(reversed(kept)))
    return replace(network, graph=graph, weights=weights)
