"""Convolutions of the same input whose results are added become one, whatever their kernel sizes.

    conv(x, w1) + conv(x, w2)      = conv(x, w1 + w2)           the smaller kernel set into the larger one
    conv(x, w) + affine(x, s, t)   = conv(x, w + s · one)       `one` is the kernel that gives its input
    conv(x, w) + x                 = conv(x, w + one)           where a norm follows, or the convolution is depthwise

A convolution reads zeros outside of the image, the small kernel as the large one, so where each tap of the small kernel
lies on a tap of the large one the sum is exact; it is done in float64 and rounded once. A branch that something else
reads too stays. (RepVGG, arXiv 2101.03697, section 3.3; MobileOne, arXiv 2206.04040, section 3.2.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph import Argument, Node, Value
from ..network import Network, Rewriting

ONE = torch.ones((), dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Branch:
    """One term of a sum: what it does to `source`, the value that it reads.

    rank: of its tensors; key: what its numbers are made of
    conv: the convolution that it is; scale, shift: per channel, float64, where it is none
    """

    source: Argument
    rank: int
    key: tuple[Argument, ...]
    conv: Node | None = None
    scale: Tensor = ONE
    shift: Tensor | None = None


def merge_branches(network: Network) -> Network:
    """Merge sums and differences of branches over the same input."""
    rewriting = Rewriting(network)
    for node in rewriting.each():
        if node.operator not in ("add", "sub") or node["alpha"] != 1:
            continue
        sign = -1 if node.operator == "sub" else 1
        merged = _merged(node, sign, rewriting)
        if merged is not None:
            rewriting.put(merged)
    return rewriting.done()


def _merged(node: Node, sign: int, rewriting: Rewriting) -> Node | None:
    left, right = (_branch(node[key], rewriting) for key in ("self", "other"))
    if left is None or right is None or left.source != right.source:
        return None
    if left.conv is None or (right.conv is not None and _reach(right.conv, rewriting) > _reach(left.conv, rewriting)):
        large, small, signs = right, left, (sign, 1)
    else:
        large, small, signs = left, right, (1, sign)
    conv = large.conv
    if conv is None:
        return None
    is_bare = small.conv is None and small.shift is None
    if is_bare and not (_is_depthwise(conv, rewriting) or _before_norm(node, rewriting)):
        return None
    at = _place(conv, small, rewriting)
    if at is None or not _same_sizes(node, rewriting):
        return None
    key = (large.key, small.key, signs, at, conv["groups"])
    weight = rewriting.weights[conv["weight"].name]
    hint = conv["weight"].name

    def merged_weight() -> Tensor:
        whole = weight.double() * signs[0]
        window = tuple(
            slice(first, first + size) for first, size in zip(at, _kernel_size(small, rewriting), strict=True)
        )
        whole[(slice(None), slice(None), *window)] += _kernel(small, conv, rewriting) * signs[1]
        return whole.to(weight.dtype)

    def merged_bias() -> Tensor:
        total = torch.zeros(weight.shape[0], dtype=torch.float64)
        return (total + _bias(large, rewriting) * signs[0] + _bias(small, rewriting) * signs[1]).to(weight.dtype)

    return Node(node.name, "conv", conv.arguments, conv.source).changed(
        weight=rewriting.weight(("weight", key), merged_weight, f"{hint}_merged"),
        bias=rewriting.weight(("bias", key), merged_bias, f"{hint}_merged_bias"),
    )


def _branch(argument: Argument, rewriting: Rewriting) -> Branch | None:
    """What a term of a sum is; a value that is no branch stands for itself."""
    if not isinstance(argument, Value) or argument.name in rewriting.weights:
        return None
    shape = next(iter(rewriting.shapes(argument.name)), None)
    if shape is None or len(shape) < 3:
        return None
    maker = rewriting.maker(argument)
    if maker is not None and rewriting.uses(maker.name) == 1:
        if maker.operator == "conv" and _is_plain(maker, rewriting):
            return Branch(maker["input"], len(shape), (maker["weight"], maker["bias"]), conv=maker)
        if maker.operator == "affine":
            scale, shift = (rewriting.weights[maker[key].name].double() for key in ("scale", "shift"))
            return Branch(maker["input"], len(shape), (maker["scale"], maker["shift"]), scale=scale, shift=shift)
    return Branch(argument, len(shape), ("one",), scale=torch.ones(shape[1], dtype=torch.float64))


def _is_plain(conv: Node, rewriting: Rewriting) -> bool:
    is_constant = rewriting.constant(conv["weight"]) is not None
    is_constant &= conv["bias"] is None or rewriting.constant(conv["bias"]) is not None
    return is_constant and conv["residual"] is None and conv["activation"] is None


def _same_sizes(node: Node, rewriting: Rewriting) -> bool:
    """Whether neither term is repeated to fit the other."""
    operands = [node["self"].name, node["other"].name]
    return all(rewriting.same_shape(operand, node.name) for operand in operands)


def _before_norm(node: Node, rewriting: Rewriting) -> bool:
    readers = rewriting.readers(node.name)
    return rewriting.uses(node.name) == 1 and bool(readers) and readers[0].operator in ("affine", "batch_norm")


def _is_depthwise(conv: Node, rewriting: Rewriting) -> bool:
    weight = rewriting.weights[conv["weight"].name]
    return bool(conv["groups"] == weight.shape[0] and weight.shape[1] == 1)


def _reach(conv: Node, rewriting: Rewriting) -> int:
    return rewriting.weights[conv["weight"].name][0, 0].numel()


def _kernel_size(branch: Branch, rewriting: Rewriting) -> tuple[int, ...]:
    if branch.conv is None:
        return (1,) * (branch.rank - 2)
    return tuple(rewriting.weights[branch.conv["weight"].name].shape[2:])


def _place(conv: Node, small: Branch, rewriting: Rewriting) -> tuple[int, ...] | None:
    """Where the small kernel's first tap lies in the large kernel; None where they do not fit."""
    rank = len(conv["stride"])
    if small.conv is None:
        # A value gives itself where each output lies on one input, and each channel on its own.
        if conv["stride"] != (1,) * rank or not _keeps_channels(conv, rewriting):
            return None
        padding, dilation = ((0, 0),) * rank, (1,) * rank
    else:
        if small.conv["stride"] != conv["stride"] or small.conv["groups"] != conv["groups"]:
            return None
        padding, dilation = small.conv["padding"], small.conv["dilation"]
    sizes = _kernel_size(small, rewriting)
    large = tuple(rewriting.weights[conv["weight"].name].shape[2:])
    if len(sizes) != rank or len(large) != rank:
        return None
    found = []
    axes = zip(large, sizes, conv["padding"], padding, conv["dilation"], dilation, strict=True)
    for k, small_k, (before, after), (small_before, small_after), d, small_d in axes:
        first, rest = divmod(before - small_before, d)
        is_on_taps = rest == 0 and (small_d == d or small_k == 1)
        is_inside = first >= 0 and first + small_k <= k
        is_as_long = before + after - d * (k - 1) == small_before + small_after - small_d * (small_k - 1)
        if not (is_on_taps and is_inside and is_as_long):
            return None
        found.append(first)
    return tuple(found)


def _keeps_channels(conv: Node, rewriting: Rewriting) -> bool:
    weight = rewriting.weights[conv["weight"].name]
    return bool(weight.shape[0] == weight.shape[1] * conv["groups"])


def _kernel(branch: Branch, conv: Node, rewriting: Rewriting) -> Tensor:
    """The branch's own kernel, float64, for the groups of the convolution that it goes into."""
    if branch.conv is not None:
        return rewriting.weights[branch.conv["weight"].name].double()
    weight = rewriting.weights[conv["weight"].name]
    outputs, inputs = weight.shape[:2]
    kernel = torch.zeros(outputs, inputs, dtype=torch.float64)
    channel = torch.arange(outputs)
    kernel[channel, channel % inputs] = branch.scale
    return kernel.reshape(outputs, inputs, *(1,) * (weight.dim() - 2))


def _bias(branch: Branch, rewriting: Rewriting) -> Tensor:
    if branch.shift is not None:
        return branch.shift
    bias = None if branch.conv is None else rewriting.constant(branch.conv["bias"])
    return torch.zeros((), dtype=torch.float64) if bias is None else bias.double()
