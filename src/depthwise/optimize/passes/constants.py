"""What depends on no input is computed once: position codes, scaled weights, index tables."""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph import Node, follows_batch
from ..network import Network, Rewriting
from ..operators import bound, is_random

# A constant is not folded into one of more numbers than this, and than sixteen times what it is made of.
MOST_NUMBERS = 1 << 16
MOST_GROWTH = 16


def fold_constants(network: Network) -> Network:
    """Replace nodes that read weights alone by weights."""
    rewriting = Rewriting(network)
    found: dict[str, object] = {}
    for node in rewriting.each():
        if not _is_constant(node, rewriting, found):
            continue
        computed = _computed(node, rewriting, found)
        if not isinstance(computed, Tensor):
            # Several tensors: each is folded where it is taken out.
            found[node.name] = computed
            continue
        if _is_small(computed, node, rewriting):
            rewriting.skip(node, rewriting.weight(node.name, computed.clone, f"{node.name}_folded").name)
    return rewriting.done()


def _is_constant(node: Node, rewriting: Rewriting, found: dict[str, object]) -> bool:
    if is_random(node.operator) or follows_batch(node):
        return False
    return all(name in rewriting.weights or name in found for name in node.operands())


def _computed(node: Node, rewriting: Rewriting, found: dict[str, object]) -> object:
    with torch.no_grad():
        return bound(node)(lambda name: found[name] if name in found else rewriting.weights[name], 0)


def _is_small(made: Tensor, node: Node, rewriting: Rewriting) -> bool:
    read = sum(rewriting.weights[name].numel() for name in node.operands() if name in rewriting.weights)
    return made.numel() <= max(MOST_NUMBERS, MOST_GROWTH * read)
