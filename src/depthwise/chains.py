"""Layers one after another where autograd records them, as one: convolutions with batch norms, and squeeze-excites.

Convolutions and norms compute what they compute one by one, bit for bit; a squeeze-excite, and a convolution that reads
one, within rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
from torch import Tensor

from .backends.calls import Seen, circumstances, is_plain_window
from .backends.formats import LAST, Strides, same_strides, torch_strides
from .backends.problem import Activation, Operation, Problem
from .errors import DepthwiseError
from .geometry import Geometry, IntOrTuple, Padding, geometry
from .norms import not_by_channel
from .refusals import foreign, refusal

if TYPE_CHECKING:
    from .backends.cpu.chains import Chain
    from .backends.cpu.lower.links import Link as Planned


class ConvNorm(NamedTuple):
    """A depthwise or pointwise convolution, the batch norm behind it in training mode, and an activation.

    weight, bias:  of the convolution
    window:        stride, padding, dilation of a depthwise one; None of a pointwise one
    groups:        of the convolution
    scale, shift:  weight and bias of the norm
    running:       its mean and variance, which move by `momentum` to the batch's; None where there are none
    counted:       how many batches there were, one more afterwards
    """

    weight: Tensor
    bias: Tensor | None
    window: tuple[IntOrTuple, Padding, IntOrTuple] | None
    groups: int
    scale: Tensor | None
    shift: Tensor | None
    running: tuple[Tensor, Tensor] | None
    counted: Tensor | None
    momentum: float
    eps: float
    activation: Activation

    @property
    def parameters(self) -> tuple[Tensor | None, ...]:
        return self.weight, self.bias, self.scale, self.shift

    @property
    def setting(self) -> tuple[object, ...]:
        """All but tensors."""
        return self.window, self.groups, self.running is None, self.momentum, self.eps, self.activation


class SqueezeExcite(NamedTuple):
    """An image times factors of its channels, made of their means by two pointwise convolutions.

    activations: after each of the two
    """

    reduce: tuple[Tensor, Tensor]
    expand: tuple[Tensor, Tensor]
    activations: tuple[Activation, Activation]

    @property
    def parameters(self) -> tuple[Tensor | None, ...]:
        return *self.reduce, *self.expand

    @property
    def setting(self) -> tuple[object, ...]:
        return self.activations


Link: TypeAlias = ConvNorm | SqueezeExcite


_seen: Seen[Chain] = Seen()


def adds(links: Sequence[Link]) -> bool:
    """Whether something may be added to the result of the last one within it."""
    last = links[-1] if links else None
    return isinstance(last, ConvNorm) and last.activation is None


def chained(x: Tensor, links: Sequence[Link], residual: Tensor | None = None) -> Tensor | None:
    """`x` through all of them, `residual` added to the last one's result; None where they must run one by one.

    residual: where `adds(links)`

    x, out: (batch, channels, *spatial) in float32, channels-last
    """
    if not torch.is_grad_enabled() or not isinstance(links[0], ConvNorm):
        return None
    parameters = [tensor for link in links for tensor in link.parameters]
    moved, counted = _statistics(links)
    given = [tensor for tensor in parameters if tensor is not None]
    # Torch's guards pass nothing where a tensor is among them twice.
    read = [x, *([] if residual is None or residual is x else [residual]), *given, *moved.values()]
    there = tuple(tensor is None for tensor in (residual, *parameters))
    # The first weight makes entries few for each key; whether one is right, its guard says.
    key = id(given[0]), residual is x, there, *(link.setting for link in links)
    chain = _seen.found(key, read)
    if chain is None:
        chain = _made(x, links, residual, read)
        if chain is None:
            return None
        _seen.keep(key, read, chain)
    if counted:
        torch._foreach_add_(counted, 1)
    return chain.run(x, parameters, residual, moved)


def _statistics(links: Sequence[Link]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """What moves: running statistics by the names of their buffers; and numbers of batches."""
    moved, counted = dict[str, Tensor](), []
    for number, link in enumerate(links):
        if isinstance(link, ConvNorm):
            if link.running is not None:
                moved[f"running_mean{number}"], moved[f"running_var{number}"] = link.running
            if link.counted is not None:
                counted.append(link.counted)
    return moved, counted


def _made(x: Tensor, links: Sequence[Link], residual: Tensor | None, read: Sequence[Tensor]) -> Chain | None:
    """What runs them; None where they must run one by one."""
    # Who is told of every choice hears of each by itself; and of a tensor that is there twice no guard can be kept.
    if circumstances.get().observe is not None or len({*map(id, read)}) < len(read) or refusal(x) is not None:
        return None
    if x.dim() - 2 not in LAST or not x.is_contiguous(memory_format=LAST[x.dim() - 2]):
        return None
    planned: list[Planned] = []
    size, strides = tuple(x.shape), x.stride()
    for link in links:
        if isinstance(link, SqueezeExcite):
            made = _planned_gate(size, link)
        else:
            made = _planned(size, strides, link, adds=link is links[-1] and residual is not None)
        if made is None:
            return None
        planned.append(made)
        result = made.made(0)[-1]
        size, strides = result.size, result.strides
    if residual is not None and (refusal(residual) is not None or not _lies_so(residual, size, strides)):
        return None
    from .backends.cpu.chains import chain_of

    return chain_of(tuple(planned))


def _planned(size: tuple[int, ...], strides: Strides, link: ConvNorm, *, adds: bool) -> Planned | None:
    """A convolution with its norm, for an input of this size; None where torch's operators run one of them."""
    g = _geometry(size, link)
    if g is None or not _are_trained(link.parameters, (g.output_size[0],) * 3):
        return None
    if not _are_statistics(link.running, g.output_size[0]):
        return None
    out = size[0], *g.output_size
    result = torch.empty(out, device="meta", memory_format=LAST[g.rank]).stride()
    image = torch.empty_strided(size, strides, device="meta")
    # One pixel has no variance, and torch says so.
    pixels = prod(out) // out[1]
    if pixels < 2 or not same_strides(out, torch_strides(image, (link.weight,), g, None), result):
        return None
    from .backends.cpu.lower.links import ConvNorm as Planned
    from .backends.cpu.lower.norms import NormProblem

    operation: Operation = "pointwise" if link.window is None else "depthwise"
    problem = Problem(operation, g, torch.float32, "cpu", size[0], strides, result)
    momentum = None if link.running is None else link.momentum
    norm = NormProblem(pixels, out[1], link.eps, link.activation, residual=adds, momentum=momentum)
    return Planned(problem, norm, link.bias is not None)


def _planned_gate(size: tuple[int, ...], link: SqueezeExcite) -> Planned | None:
    """A squeeze-excite of images of more than a pixel, which is its own mean."""
    channels, squeezed = size[1], len(link.reduce[0])
    wanted = (squeezed, channels, 1, 1), (squeezed,), (channels, squeezed, 1, 1), (channels,)
    is_image = len(size) == 4 and prod(size[2:]) > 1
    if not is_image or tuple(tuple(tensor.shape) for tensor in (*link.reduce, *link.expand)) != wanted:
        return None
    if not _are_trained(link.parameters, (squeezed, 0, channels)):
        return None
    from .backends.cpu.lower.excites import SqueezeExcite as Planned

    return Planned(size, squeezed, link.activations)


def _geometry(size: tuple[int, ...], link: ConvNorm) -> Geometry | None:
    """That of a convolution; None where torch has words for what does not fit, or padding exceeds the window."""
    filters, in_group, *kernel = link.weight.shape
    if len(kernel) != len(size) - 2:
        return None
    try:
        if link.window is None:
            g = geometry(size[1:], 1, out_channels=filters, groups=link.groups)
            return g if (in_group * link.groups, max(kernel)) == (size[1], 1) else None
        if (link.groups, in_group) != (size[1], 1) or filters % size[1] or not is_plain_window(link.window):
            return None
        g = geometry(size[1:], tuple(kernel), *link.window, depth_multiplier=filters // size[1])
    except DepthwiseError:
        return None
    reaches = [d * (k - 1) for k, d in zip(g.kernel_size, g.dilation, strict=True)]
    return g if all(max(pair) <= reach for pair, reach in zip(g.padding, reaches, strict=True)) else None


def _are_trained(parameters: Sequence[Tensor | None], channels: tuple[int, int, int]) -> bool:
    """Whether all are plain memory as generated code reads it, and a gradient of each is wanted.

    channels: of the parameters behind the first, where they are one number for each
    """
    for place, tensor in enumerate(parameters):
        if tensor is None:
            continue
        if foreign(tensor) is not None or not tensor.requires_grad or not tensor.is_contiguous():
            return False
        if place and channels[place - 1] and not_by_channel(tensor, channels[place - 1]) is not None:
            return False
    return True


def _are_statistics(running: tuple[Tensor, Tensor] | None, channels: int) -> bool:
    return all(foreign(each) is None and not_by_channel(each, channels) is None for each in running or ())


def _lies_so(tensor: Tensor, size: tuple[int, ...], strides: Strides) -> bool:
    return tensor.shape == size and same_strides(size, tensor.stride(), strides)
