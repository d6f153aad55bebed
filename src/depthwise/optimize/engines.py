"""The two engines that there are: this library's kernels, a whole segment in one program, and torch's operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..backends import CPU
from ..backends.packs import Packs
from .graph import Node
from .lowering import LoweredGraph, lower_graph
from .network import Network
from .operators import bound
from .rules import Shapes
from .segments import Engine, Program, Segment
from .whole import Whole

Step = Callable[[dict[str, Any], int], Any]
NO_WORK = "no work: another look at its input"
# Of a network at its sizes: batches that it is lowered for, the oldest go first.
MOST_BATCHES = 8


class TorchOperators(Engine):
    """Runs the nodes of a segment one after the other."""

    name = "torch"

    def __init__(self, network: Network) -> None:
        self._weights = network.weights

    def refusal(self, node: Node) -> str | None:  # noqa: ARG002  it runs all
        return None

    def compile(self, segment: Segment) -> Program:
        return NodeByNode(segment, self._weights)


class NodeByNode(Program):
    """A segment on torch's operators, which drops each value behind its last reader."""

    def __init__(self, segment: Segment, weights: Mapping[str, Tensor]) -> None:
        self._steps = [(node.name, _step(node, weights), tuple(last)) for node, last in _lives(segment)]
        self._reads, self._gives = segment.reads, segment.gives

    def run(self, given: Sequence[Any], batch: int) -> Sequence[Any]:
        values = dict(zip(self._reads, given, strict=True))
        for name, step, last in self._steps:
            values[name] = step(values, batch)
            for dead in last:
                del values[dead]
        return [values[name] for name in self._gives]


def _step(node: Node, weights: Mapping[str, Tensor]) -> Step:
    """What computes the node's value from those that are there."""
    call = bound(node)

    def step(values: dict[str, Any], batch: int) -> Any:
        return call(lambda name: values[name] if name in values else weights[name], batch)

    return step


def _lives(segment: Segment) -> Iterator[tuple[Node, list[str]]]:
    """Each node with the values that nothing reads after it."""
    last: dict[str, int] = {}
    for number, node in enumerate(segment.nodes):
        last[node.name] = number
        last.update((operand, number) for operand in node.operands() if operand in segment.reads or operand in last)
    kept = set(segment.gives)
    for number, node in enumerate(segment.nodes):
        yield node, [name for name, at in last.items() if at == number and name not in kept]


class Kernels(Engine):
    """Nodes that become problems of the CPU backend, a segment of them one program.

    shapes_at: shapes of all values at a batch; batch: that of the plan; packs: of the network's weights
    """

    name = "cpu"

    def __init__(
        self, network: Network, shapes_at: Callable[[int], Mapping[str, Shapes]], batch: int, packs: Packs
    ) -> None:
        self._network = network
        self._shapes_at = shapes_at
        self._batch = batch
        self._packs = packs
        # Of one image more lies as kernels want it than of several, and the plan is for any batch.
        self._batches = (batch,) if network.batch is not None else tuple({batch, max(batch, 2)})
        self._lowered: dict[int, LoweredGraph] = {}

    def at(self, batch: int) -> LoweredGraph:
        """The network lowered for a batch."""
        found = self._lowered.get(batch)
        if found is None:
            found = lower_graph(self._network, self._shapes_at(batch), batch)
            while len(self._lowered) >= MOST_BATCHES:
                self._lowered.pop(next(iter(self._lowered), batch), None)
            self._lowered[batch] = found
        return found

    def refusal(self, node: Node) -> str | None:
        refusals = (self.at(batch).refusals.get(node.name) for batch in self._batches)
        return next((why for why in refusals if why is not None), None)

    def kernel(self, node: Node) -> str | None:
        steps = self.at(self._batch).steps.get(node.name, ())
        return " + ".join(CPU.kernel(step.problem) or "" for step in steps) or NO_WORK

    def compile(self, segment: Segment) -> Program:
        otherwise = NodeByNode(segment, self._network.weights)
        return Whole(segment, self.at, self._batch, otherwise, self._network.weights, self._packs)
