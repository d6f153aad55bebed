"""Batch norms with running statistics, and factors of one number per channel, go into the convolution before them.

    norm(conv(x, w, b)) = conv(x, w · scale, b · scale + shift)         per output channel
    norm(x)             = affine(x, scale, shift)                       where there is no such convolution

Sums are done in float64 and rounded once. A convolution whose result something else reads too stays as it is; one that
is called twice gets weights of its own for each norm.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from ...folding import scale_and_shift_of
from ..graph import Argument, Node, Value
from ..network import Network, Rewriting

Linear = tuple[Hashable, Tensor, Tensor]  # what a scale and shift, float64, come from, and they


def fold_norms(network: Network) -> Network:
    """Fold norms and per-channel factors into convolutions and linear layers; norms that cannot become `affine`."""
    rewriting = Rewriting(network)
    for node in rewriting.each():
        found = _linear(node, rewriting)
        if found is None:
            continue
        operand, linear = found
        before = rewriting.maker(operand)
        if before is not None and rewriting.uses(before.name) == 1 and _takes(before, rewriting):
            rewriting.put(_scaled(before, node, linear, rewriting))
        elif node.operator == "batch_norm":
            rewriting.put(_affine(node, linear, rewriting))
    return rewriting.done()


def _linear(node: Node, rewriting: Rewriting) -> tuple[Argument, Linear] | None:
    """The operand, and what a node multiplies with and adds to it per channel, its second dimension."""
    if node.operator == "batch_norm":
        mean, var = (rewriting.constant(node[key]) for key in ("running_mean", "running_var"))
        weight, bias = (rewriting.constant(node[key]) for key in ("weight", "bias"))
        is_whole = (node["weight"] is None) == (weight is None) and (node["bias"] is None) == (bias is None)
        if node["training"] or mean is None or var is None or not is_whole:
            return None
        scale, shift = scale_and_shift_of(mean, var, weight, bias, node["eps"])
        key = tuple(node[key] for key in ("running_mean", "running_var", "weight", "bias", "eps"))
        return node["input"], (key, scale, shift)
    if node.operator == "affine":
        scale, shift = (rewriting.weights[node[key].name] for key in ("scale", "shift"))
        return node["input"], ((node["scale"], node["shift"]), scale.double(), shift.double())
    if node.operator == "mul":
        for operand, other in ((node["self"], node["other"]), (node["other"], node["self"])):
            factor = _factor(operand, other, node, rewriting)
            if factor is not None:
                return operand, ((other,), factor, torch.zeros_like(factor))
    return None


def _factor(operand: Argument, other: Argument, node: Node, rewriting: Rewriting) -> Tensor | None:
    """The number for each channel that an operand is multiplied with, where the other is such numbers."""
    shape = rewriting.shapes(node.name)[0] if rewriting.network.seen else None
    if shape is None or len(shape) < 2 or not isinstance(operand, Value) or operand.name in rewriting.weights:
        return None
    dtypes = rewriting.network.dtypes
    if not rewriting.same_shape(operand.name, node.name) or dtypes[operand.name] != dtypes[node.name]:
        return None
    if isinstance(other, int | float) and not isinstance(other, bool):
        # A sum of infinities of both signs is another number than an infinite sum.
        is_finite = abs(other) <= torch.finfo(torch.float32).max
        return torch.full((shape[1],), float(other), dtype=torch.float64) if is_finite else None
    tensor = rewriting.constant(other)
    if tensor is None or not tensor.is_floating_point():
        return None
    sizes = (1,) * (len(shape) - tensor.dim()) + tuple(tensor.shape)
    if len(sizes) != len(shape) or any(size != 1 for n, size in enumerate(sizes) if n != 1):
        return None
    return tensor.reshape(-1).double().expand(shape[1])


def _takes(node: Node, rewriting: Rewriting) -> bool:
    """Whether a norm after this node can go into it."""
    if node.operator not in ("conv", "linear") or rewriting.constant(node["weight"]) is None:
        return False
    if node["bias"] is not None and rewriting.constant(node["bias"]) is None:
        return False
    if node.operator == "conv":
        return node["residual"] is None and node["activation"] is None
    # The channels of a norm are a linear layer's features where there is no other dimension.
    return {len(shape) if shape else 0 for shape in rewriting.shapes(node.name)} == {2}


def _scaled(conv: Node, norm: Node, linear: Linear, rewriting: Rewriting) -> Node:
    """The convolution with the norm in it, in the norm's place."""
    key, scale, shift = linear
    weight, bias = rewriting.weights[conv["weight"].name], rewriting.constant(conv["bias"])

    def scaled_weight() -> Tensor:
        return (weight.double() * scale.view(-1, *(1,) * (weight.dim() - 1))).to(weight.dtype)

    def scaled_bias() -> Tensor:
        return (shift if bias is None else bias.double() * scale + shift).to(weight.dtype)

    made = Node(norm.name, conv.operator, conv.arguments, conv.source)
    return made.changed(
        weight=rewriting.weight(("weight", conv["weight"], key), scaled_weight, f"{conv['weight'].name}_scaled"),
        bias=rewriting.weight(("bias", conv["weight"], conv["bias"], key), scaled_bias, f"{conv['weight'].name}_bias"),
    )


def _affine(node: Node, linear: Linear, rewriting: Rewriting) -> Node:
    key, scale, shift = linear
    dtype = rewriting.weights[node["running_mean"].name].dtype
    hint = node["running_mean"].name
    scales = rewriting.weight(("scale", key), lambda: scale.to(dtype), f"{hint}_scale")
    shifts = rewriting.weight(("shift", key), lambda: shift.to(dtype), f"{hint}_shift")
    return Node(node.name, "affine", (("input", node["input"]), ("scale", scales), ("shift", shifts)), node.source)
