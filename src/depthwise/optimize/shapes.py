"""Shapes of every value of a graph, by a rule for each operator; no torch, and no numbers.

A value has one shape, or a tuple of shapes where its operator gives several tensors, or None where nothing is known:
behind operators without a rule, unless somebody is asked for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..errors import DepthwiseError
from .graph import Graph, Node
from .rules import RULES, Arguments, Shape, Shapes

Ask = Callable[[Arguments], Shapes]


def infer(graph: Graph, inputs: Mapping[str, Shape], batch: int, ask: Ask | None = None) -> dict[str, Shapes]:
    """Shapes of all values for inputs of these shapes.

    ask: gives the shapes of a node whose operator has no rule, where those of all that it reads are known

    Raises DepthwiseError where the sizes do not fit an operator.
    """
    known: dict[str, Shapes] = {spec.name: spec.at(batch) for spec in graph.weights}
    known |= inputs
    for node in graph.nodes:
        arguments = Arguments(node, known, batch)
        try:
            known[node.name] = _shapes(arguments, ask) if arguments.is_known() else None
        except (ArithmeticError, IndexError, TypeError, ValueError) as error:
            raise DepthwiseError(f"the sizes do not fit {_described(node, known)}: {error}") from error
    return known


def _shapes(arguments: Arguments, ask: Ask | None) -> Shapes:
    rule = RULES.get(arguments.node.operator)
    if rule is not None:
        return rule(arguments)
    return None if ask is None else ask(arguments)


def _described(node: Node, known: Mapping[str, Shapes]) -> str:
    shapes = ", ".join(f"{operand} {known.get(operand)}" for operand in dict.fromkeys(node.operands()))
    return f"{node.operator} in {node.source or 'the model'} ({node.name} of {shapes})"
