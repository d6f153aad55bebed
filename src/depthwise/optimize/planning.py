"""A network made ready for inputs of certain sizes: its segments, and what runs each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..backends.packs import Packs
from ..backends.tensors import address_of
from .engines import Kernels, TorchOperators
from .network import Network, Shape
from .operators import DTYPES, bound
from .rules import Arguments, Shapes
from .segments import Engine, Program, Segment, cut
from .shapes import Ask, infer

# Operators whose weights are packed.
PRODUCTS = ("conv", "gated", "linear", "separable")


@dataclass(frozen=True, slots=True)
class Plan:
    """How a network runs at certain sizes; the batch is told at each call.

    shapes:   of every value, at the batch planned with
    refusals: of each node, why none of our kernels runs it; None where one does
    kernels:  of the others, the names of their code
    last:     for each segment, the values that nothing reads after it
    packs:    of its weights, which other plans of the network share
    weight_addresses: of the memory of those weights that results may lie in
    """

    network: Network
    shapes: Mapping[str, Shapes]
    refusals: Mapping[str, str | None]
    kernels: Mapping[str, str | None]
    segments: tuple[Segment, ...]
    programs: tuple[Program, ...]
    last: tuple[tuple[str, ...], ...]
    packs: Packs
    weight_addresses: frozenset[int | None]

    def run(self, inputs: Sequence[Tensor], batch: int) -> dict[str, Any]:
        """The values that the network gives, by name."""
        graph, weights = self.network.graph, self.network.weights
        values: dict[str, Any] = dict(zip((spec.name for spec in graph.inputs), inputs, strict=True))
        for segment, program, last in zip(self.segments, self.programs, self.last, strict=True):
            given = [values[name] for name in segment.reads]
            values.update(zip(segment.gives, program.run(given, batch), strict=True))
            for name in last:
                del values[name]
        return {name: values[name] if name in values else weights[name] for name in graph.returned()}


def plan(
    network: Network, inputs: Mapping[str, Shape], batch: int, packs: Packs, *, node_by_node: bool = False
) -> Plan:
    """The plan for inputs of these shapes; raises DepthwiseError where they do not fit the network.

    packs:        what is packed of the network's weights, which more is put into
    node_by_node: a segment for each node, so that each can be timed
    """
    with packs.weights():
        return _plan(network, inputs, batch, packs, node_by_node=node_by_node)


def _plan(network: Network, inputs: Mapping[str, Shape], batch: int, packs: Packs, *, node_by_node: bool) -> Plan:
    graph = network.graph
    shapes = shapes_of(network, inputs, batch)

    def shapes_at(other: int) -> Mapping[str, Shapes]:
        return shapes if other == batch else shapes_of(network, at_batch(network, inputs, other), other)

    engine, rest = Kernels(network, shapes_at, batch, packs), TorchOperators(network)
    refusals = {node.name: engine.refusal(node) for node in graph.nodes}
    kernels = {node.name: engine.kernel(node) for node in graph.nodes if refusals[node.name] is None}
    segments = cut(graph, refusals, engine.name, rest.name, node_by_node=node_by_node)
    engines: dict[str, Engine] = {engine.name: engine, rest.name: rest}
    programs = tuple(engines[segment.engine].compile(segment) for segment in segments)
    kept = [network.weights[name] for name in sorted(_read_as_they_lie(network, segments, engine.name))]
    packs.keep(kept)
    addresses = frozenset(map(address_of, kept))
    last = _last(segments, set(graph.returned()))
    return Plan(network, shapes, refusals, kernels, segments, programs, last, packs, addresses)


def _read_as_they_lie(network: Network, segments: Sequence[Segment], engine: str) -> set[str]:
    """The weights that more is done with than that our kernels multiply by them."""
    nodes = [
        node
        for segment in segments
        for node in segment.nodes
        if segment.engine != engine or node.operator not in PRODUCTS
    ]
    return network.weights.keys() & set(network.graph.returned()).union(*(node.operands() for node in nodes))


def shapes_of(network: Network, inputs: Mapping[str, Shape], batch: int) -> dict[str, Shapes]:
    """Of all values, for inputs of these; raises DepthwiseError where they do not fit the network."""
    return infer(network.graph, inputs, batch, _asked(network.dtypes))


def at_batch(network: Network, inputs: Mapping[str, Shape], batch: int) -> dict[str, Shape]:
    """The inputs' shapes at another batch, where the network takes any."""
    if network.batch is not None:
        return dict(inputs)
    return {
        spec.name: (batch, *inputs[spec.name][1:]) if is_batched(spec.shape) else inputs[spec.name]
        for spec in network.graph.inputs
    }


def is_batched(shape: Sequence[object]) -> bool:
    """Whether an input's first dimension is the batch."""
    return bool(shape) and not isinstance(shape[0], int)


def _last(segments: Sequence[Segment], returned: set[str]) -> tuple[tuple[str, ...], ...]:
    last: dict[str, int] = {}
    for number, segment in enumerate(segments):
        last.update(dict.fromkeys((*segment.reads, *segment.gives), number))
    gone: list[list[str]] = [[] for _ in segments]
    for name, number in last.items():
        if name not in returned:
            gone[number].append(name)
    return tuple(map(tuple, gone))


def _asked(dtypes: Mapping[str, str]) -> Ask:
    """What tells the shapes that an operator without a rule gives: torch, on tensors without data."""

    def ask(arguments: Arguments) -> Shapes:
        node = arguments.node

        def empty(name: str) -> Any:
            shape: Any = arguments.known[name]
            if _is_one(shape):
                return torch.empty(shape, dtype=DTYPES[dtypes.get(name, "float32")], device="meta")
            return tuple(torch.empty(one, device="meta") for one in shape)

        try:
            made = bound(node)(empty, arguments.batch)
        # Some operators are not for such tensors; what is behind them stays with torch then.
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError):
            return None
        if isinstance(made, Tensor):
            return tuple(made.shape)
        is_several = isinstance(made, list | tuple) and all(isinstance(one, Tensor) for one in made)
        return tuple(tuple(one.shape) for one in made) if is_several else None

    return ask


def _is_one(shape: Shapes) -> bool:
    return shape is not None and all(isinstance(size, int) for size in shape)
