"""Zeros written around an image before a convolution become its padding."""

from __future__ import annotations

from ..graph import Argument, Node
from ..network import Network, Rewriting


def fold_padding(network: Network) -> Network:
    """Let convolutions that read a padded image read the image, where nothing but convolutions reads it."""
    rewriting = Rewriting(network)
    for node in rewriting.each():
        if node.operator != "conv":
            continue
        pad = rewriting.maker(node["input"])
        if pad is None or pad.operator != "pad":
            continue
        around = _around(pad, len(node["stride"]))
        if around is not None:
            pairs = zip(node["padding"], around, strict=True)
            padding = tuple((before + more, after + other) for (before, after), (more, other) in pairs)
            rewriting.put(node.changed(input=pad["self"], padding=padding))
    return rewriting.done()


def _around(pad: Node, rank: int) -> tuple[tuple[int, int], ...] | None:
    """(before, after) per spatial dimension where these are zeros, none is cut away, and no channel is added."""
    amounts: tuple[Argument, ...] = pad["pad"]
    if pad["mode"] != "constant" or pad["value"] not in (None, 0):
        return None
    if (
        len(amounts) % 2
        or len(amounts) > 2 * (rank + 2)
        or any(type(amount) is not int or amount < 0 for amount in amounts)
    ):
        return None
    # torch counts from the last dimension.
    last_first = [(amounts[2 * n], amounts[2 * n + 1]) for n in range(len(amounts) // 2)]
    last_first += [(0, 0)] * (rank + 2 - len(last_first))
    if any(pair != (0, 0) for pair in last_first[rank:]):
        return None
    return tuple(reversed(last_first[:rank]))  # type: ignore[arg-type]
