"""What makes a network cheaper and leaves what it computes: each pass a function from a network to a network.

They stand in the order in which they run; each can be left out, and the numbers stay the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from ...errors import DepthwiseError
from ..network import Network
from .activations import fuse_activations
from .branches import merge_branches
from .classifiers import order_classifiers
from .constants import fold_constants
from .gates import fuse_gates
from .identities import drop_identities
from .layout import choose_layout
from .norms import fold_norms
from .padding import fold_padding
from .separable import join_separable

Pass = Callable[[Network], Network]

PASSES: dict[str, Pass] = {
    "identities": drop_identities,
    "constants": fold_constants,
    "norms": fold_norms,
    "padding": fold_padding,
    "branches": merge_branches,
    "activations": fuse_activations,
    "separable": join_separable,
    "layout": choose_layout,
    "gates": fuse_gates,
    "classifiers": order_classifiers,
}


def apply_passes(network: Network, without: Collection[str] = ()) -> tuple[Network, dict[str, int]]:
    """The network after every pass, and how many nodes each made unnecessary."""
    unknown = set(without) - PASSES.keys()
    if unknown:
        raise DepthwiseError(f"there is no pass {', '.join(sorted(unknown))}; known: {', '.join(PASSES)}")
    saved = dict.fromkeys(PASSES, 0)
    for name in _rounds(without):
        before = len(network.graph.nodes)
        network = PASSES[name](network)
        saved[name] += before - len(network.graph.nodes)
    return network, saved


def _rounds(without: Collection[str]) -> list[str]:
    # A merged branch leaves the norm that follows it to be folded, and that a sum with another branch.
    again = ["norms", "branches"] * 3
    order = [name for name in PASSES if name != "branches"]
    at = order.index("activations")
    return [name for name in (*order[:at], *again, *order[at:]) if name not in without]
