"""Operators that give what they got: copies, sizes that stay, a zero added, a one multiplied; what is repeated for
readers that would repeat it themselves.

Dropout outside of training, `alias` and `detach` give the very tensor that they got, and reading a program drops them.
"""

from __future__ import annotations

from ..graph import Node, Value
from ..network import Network, Rewriting

COPIES = ("clone", "contiguous", "lift_fresh_copy")
RESIZINGS = ("expand", "flatten", "reshape")
REPEATING = ("expand", "expand_as")
# The number that leaves the other operand as it is.
NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "div": 1}


def drop_identities(network: Network) -> Network:
    """Let the readers of such a node read what it read."""
    rewriting = Rewriting(network)
    for node in rewriting.each():
        first = node.arguments[0][1]
        if isinstance(first, Value) and _gives(first.name, node, rewriting):
            rewriting.skip(node, first.name)
    return rewriting.done()


def _gives(name: str, node: Node, rewriting: Rewriting) -> bool:
    """Whether a node's result is its first operand's."""
    if node.operator in COPIES:
        return True
    if node.operator in RESIZINGS and rewriting.same_shape(name, node.name):
        return True
    if node.operator in (*RESIZINGS, *REPEATING):
        return node.operator in REPEATING and _is_repeated_anyway(node, rewriting)
    other = node["other"] if node.operator in NEUTRAL else None
    dtypes = rewriting.network.dtypes
    # A zero may still turn whole numbers into others.
    return type(other) in (int, float) and other == NEUTRAL[node.operator] and dtypes[name] == dtypes[node.name]


def _is_repeated_anyway(node: Node, rewriting: Rewriting) -> bool:
    """Whether all who read a repeated value take it together with another one of its size."""
    readers = rewriting.readers(node.name)
    others = [
        reader[key]
        for reader in readers
        if reader.operator in NEUTRAL
        for key, twin in (("self", "other"), ("other", "self"))
        if reader[twin] == Value(node.name)
    ]
    if len(others) < rewriting.uses(node.name):
        return False
    return all(
        isinstance(other, Value) and other.name != node.name and rewriting.same_shape(other.name, node.name)
        for other in others
    )
