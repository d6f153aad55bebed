"""What the engine takes, what stays with torch, and the cut into as few segments as possible.

    while nodes are left:
        take every node of one kind whose operands are there, again and again, until none is
        go on with the other kind

Started with either kind, the shorter of the two is the shortest of all: a node never has to wait for another turn of
its own kind than the one in which its operands are there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..backends.series import Figures
from .graph import Graph, Node


@dataclass(frozen=True, slots=True)
class Segment:
    """Nodes that run in one call.

    reads: values that come from outside, weights not among them; gives: those that something outside reads
    """

    engine: str
    nodes: tuple[Node, ...]
    reads: tuple[str, ...]
    gives: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.engine}: {len(self.nodes)} nodes, {', '.join(self.reads)} -> {', '.join(self.gives)}"


class Program(ABC):
    """What runs a segment."""

    @abstractmethod
    def run(self, given: Sequence[Any], batch: int) -> Sequence[Any]:
        """The values that the segment gives, from those that it reads and the batch."""

    def figures(self) -> Figures | None:
        """What it is as one program of a backend's, at the batch that it was planned with."""
        return None


class Engine(ABC):
    """One way to run segments of a network, at sizes that it knows."""

    name: ClassVar[str]

    @abstractmethod
    def refusal(self, node: Node) -> str | None:
        """Why this engine does not run `node`, or None where it does."""

    @abstractmethod
    def compile(self, segment: Segment) -> Program:
        """What runs the segment."""

    def kernel(self, node: Node) -> str | None:  # noqa: ARG002  some have no names
        """The name of the code that runs `node`."""
        return None


def cut(
    graph: Graph, refusals: Mapping[str, str | None], engine: str, rest: str, *, node_by_node: bool = False
) -> tuple[Segment, ...]:
    """The fewest segments, in the order in which they run; or one for each node.

    refusals: of each node, why the engine does not run it; None where it does
    """
    kinds = {node.name: engine if refusals[node.name] is None else rest for node in graph.nodes}
    if node_by_node:
        return tuple(_segment(kinds[node.name], [node], graph, {node.name}) for node in graph.nodes)
    orders = [_turns(graph, kinds, first, other) for first, other in ((engine, rest), (rest, engine))]
    turns = min(orders, key=len)
    outside = set(graph.returned())
    return tuple(_segment(kind, nodes, graph, outside) for kind, nodes in turns)


def _turns(graph: Graph, kinds: Mapping[str, str], first: str, other: str) -> list[tuple[str, list[Node]]]:
    """Runs of nodes of one kind."""
    there = {spec.name for spec in (*graph.inputs, *graph.weights)}
    left, kind, turns = list(graph.nodes), first, []
    while left:
        # The nodes stand in an order in which they could run, so one walk finds all whose turn it is.
        taken, waiting = [], []
        for node in left:
            if kinds[node.name] == kind and all(operand in there for operand in node.operands()):
                taken.append(node)
                there.add(node.name)
            else:
                waiting.append(node)
        if taken:
            turns.append((kind, taken))
        left, kind = waiting, other if kind == first else first
    return turns


def _segment(kind: str, nodes: Sequence[Node], graph: Graph, returned: set[str]) -> Segment:
    weights = {spec.name for spec in graph.weights}
    inside = {node.name for node in nodes}
    reads = dict.fromkeys(operand for node in nodes for operand in node.operands())
    wanted = returned | {operand for node in _others(graph, inside) for operand in node.operands()}
    return Segment(
        kind,
        tuple(nodes),
        tuple(name for name in reads if name not in inside and name not in weights),
        tuple(node.name for node in nodes if node.name in wanted),
    )


def _others(graph: Graph, inside: set[str]) -> Iterator[Node]:
    return (node for node in graph.nodes if node.name not in inside)
