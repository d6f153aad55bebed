"""Operators that give what they got: copies, sizes that stay, a zero added, a one multiplied.

Dropout outside of training, `alias` and `detach` give the very tensor that they got, and reading a program drops them.
"""

from __future__ import annotations

from ..graph import Node, Value
from ..network import Network, Rewriting

COPIES = ("clone", "contiguous", "lift_fresh_copy")
RESIZINGS = ("expand", "flatten", "reshape")
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
    if node.operator in RESIZINGS:
        return rewriting.same_shape(name, node.name)
    other = node["other"] if node.operator in NEUTRAL else None
    dtypes = rewriting.network.dtypes
    # A zero may still turn whole numbers into others.
    return type(other) in (int, float) and other == NEUTRAL[node.operator] and dtypes[name] == dtypes[node.name]
