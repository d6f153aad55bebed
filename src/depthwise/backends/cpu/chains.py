"""Layers one after another as one node of what autograd records: see lower/chains.py for which.

Alone each of them is a node or more and up to three programs, and what lies between two programs is Python, which the
images of a training step have driven out of the caches by then: 0.1 ms and more for a node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from .. import calls
from ..base import DepthwiseTensors, PointwiseTensors
from ..eager import activate, convolved
from ..formats import LAST, same_strides
from ..tensors import are_plain
from ..weights import gradients_asked
from .launch import compiles, machine, most_seconds
from .lower.chains import backward_program, forward_program, numbered
from .lower.excites import GatedConvNorm, SqueezeExcite, joined
from .lower.links import ConvNorm, Link, Made, buffer_of
from .machine import FLOAT_BYTES
from .norms import filled
from .run import leases, threads
from .run.bound import Bound
from .run.program import Program

Parameters = Sequence[Tensor | None]


class Chain:
    """Layers of channels-last images, one after another: their programs, and what these read.

    No numbers of a call are in it.
    """

    def __init__(self, links: tuple[Link, ...], program: Program) -> None:
        self._links = links
        self._seconds = sum(map(_most_seconds, links))
        self._title = f"depthwise: {', '.join(link.label for link in links)}, with batch norms"
        self._forward = Bound(program, self._seconds, trains=True, title=self._title)
        *kept, self._result = (made for number, link in numbered(links) for made in link.made(number))
        # In one tensor: each that autograd keeps costs time of its own.
        self._kept, self._kept_size = _side_by_side(kept)
        named = [(n, name) for n, link in numbered(links) for name in link.parameters]
        self._names = [buffer_of(n, name) for n, name in named]
        self._gradients = [buffer_of(n, f"{name}_gradient") for n, name in named]
        self._defaults = dict(_defaults(links))
        # What computed gradients of tensors that lay alike.
        self._seen: calls.Seen[Bound] = calls.Seen()

    def run(self, x: Tensor, parameters: Parameters, residual: Tensor | None, moved: Mapping[str, Tensor]) -> Tensor:
        """The result, all tensors dense float32 and laid out as the links say.

        parameters: of each link, in its order
        residual:   is added to the last norm's result, which has no activation
        moved:      running statistics by the names of their buffers, which move to the batch's
        """
        # All that is packed: what has a default belongs to a norm.
        gradients_asked(
            [each for each, name in zip(parameters, self._names, strict=True) if name not in self._defaults]
        )
        out: Tensor = _Chain.apply(self, moved, x, residual, *parameters)  # type: ignore[no-untyped-call]
        return out

    def forward(
        self, x: Tensor, parameters: Parameters, residual: Tensor | None, moved: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The result, and what gradients are made of."""
        kept, out = (
            leases.new_image((self._kept_size,), (1,)),
            leases.new_image(self._result.size, self._result.strides),
        )
        addresses = self._addresses(x, parameters, kept)
        addresses[self._result.buffer] = out.data_ptr()
        if residual is not None:
            addresses["residual"] = residual.data_ptr()
        # As torch moves them, their versions stay: backward through an earlier evaluation is no error.
        for name, tensor in moved.items():
            addresses[name] = tensor.data_ptr()
        self._forward.run(addresses)
        return out, kept

    def _addresses(self, x: Tensor, parameters: Parameters, kept: Tensor) -> dict[str, int]:
        addresses = {"x": x.data_ptr()}
        for name, tensor in zip(self._names, parameters, strict=True):
            tensor = self._defaults.get(name) if tensor is None else tensor  # noqa: PLW2901
            if tensor is not None:
                addresses[name] = tensor.data_ptr()
        start = kept.data_ptr()
        for buffer, place in self._kept.items():
            addresses[buffer] = start + place
        return addresses

    def backward(
        self, x: Tensor, parameters: Parameters, kept: Tensor, dy: Tensor, wanted: Sequence[bool]
    ) -> list[Tensor | None]:
        """The gradients of x and the parameters.

        wanted: which of them are
        """
        read = [dy, x, kept, *(tensor for tensor in parameters if tensor is not None)]
        key = wanted[0], any(wanted[1:])
        bound = self._known_to_read(key, read)
        if bound is None:
            dy = read[0] = self._laid_out(dy)
            bound = self._known_to_read(key, read) or self._looked_at(key, read, parameters)
        if bound is None:
            return self._by_torch(x, parameters, dy, wanted)
        addresses = self._addresses(x, parameters, kept)
        addresses["dy"] = dy.data_ptr()
        dx = leases.new_image(tuple(x.shape), x.stride()) if wanted[0] else None
        if dx is not None:
            addresses["dx"] = dx.data_ptr()
        found: list[Tensor | None] = []
        for name, goes, tensor in zip(self._names, self._gradients, parameters, strict=True):
            # The sums of a norm go somewhere, whoever asks for them.
            like = self._defaults.get(name) if tensor is None else tensor
            gradient = None if like is None else leases.new_image(tuple(like.shape), like.stride())
            if gradient is not None:
                addresses[goes] = gradient.data_ptr()
            found.append(gradient)
        bound.run(addresses)
        return [each if needed else None for each, needed in zip((dx, *found), wanted, strict=True)]

    def _known_to_read(self, key: tuple[bool, bool], read: Sequence[Tensor]) -> Bound | None:
        """The program that read tensors like these, where nobody records or rewrites what is done."""
        return None if is_compiling() or torch.is_grad_enabled() else self._seen.found(key, read)

    def _looked_at(self, key: tuple[bool, bool], read: Sequence[Tensor], parameters: Parameters) -> Bound | None:
        """The program for these; None where torch's operators are to compute the gradients."""
        if not self._are_as_planned(read, parameters):
            return None
        input_gradient, weights = key

        def bind() -> Bound | None:
            on = machine(), threads.team_size()
            program = backward_program(self._links, *on, input_gradient=input_gradient, weights=weights)
            if not compiles(program):
                return None
            return Bound(program, 3 * self._seconds, trains=True, title=f"{self._title}, backward")

        bound = calls.bound(("chain backward", self._links, threads.team_size(), key), bind)
        if bound is not None:
            self._seen.keep(key, read, bound)
        return bound

    def _are_as_planned(self, read: Sequence[Tensor], parameters: Parameters) -> bool:
        """Whether all that a backward program reads is plain memory, and lies as the program reads it.

        Hooks on what autograd saves may give back other tensors than they were given.
        """
        if not are_plain(*read) or any(tensor.is_neg() for tensor in read):
            return False
        images = self._result, Made("x", *self._links[0].reads), Made("kept", (self._kept_size,), (1,))
        sizes = [each for link in self._links for each in link.sizes]
        return all(
            tensor.shape == made.size and same_strides(made.size, tensor.stride(), made.strides)
            for tensor, made in zip(read[: len(images)], images, strict=True)
        ) and all(
            tensor is None or (tensor.shape == size and tensor.is_contiguous())
            for tensor, size in zip(parameters, sizes, strict=True)
        )

    def _laid_out(self, dy: Tensor) -> Tensor:
        """The same as the result lies, where it may be copied: the gradient of a mean is one number, expanded."""
        form = LAST.get(dy.dim() - 2)
        return dy.contiguous(memory_format=form) if form is not None and are_plain(dy) else dy

    def _by_torch(self, x: Tensor, parameters: Parameters, dy: Tensor, wanted: Sequence[bool]) -> list[Tensor | None]:
        """The same gradients by torch's operators, which have derivatives of their own."""
        further = torch.is_grad_enabled()
        # What was computed in float32 is so again, also where only the backward pass is in autocast.
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            # Views: one input may lead to another, and that way is autograd's own.
            given: Any = [None if each is None else each.view_as(each) for each in (x, *parameters)]
            out, rest = given[0], iter(given[1:])
            for link in self._links:
                out = _computed(link, out, *islice(rest, len(link.parameters)))
            asked = [each for each, needed in zip(given, wanted, strict=True) if needed]
            found = iter(torch.autograd.grad(out, asked, dy, create_graph=further))
        return [next(found) if needed else None for needed in wanted]


def chain_of(links: tuple[Link, ...]) -> Chain | None:
    """What runs these one after another; None where the code for it could not be made."""
    links = joined(links)

    def make() -> Chain | None:
        program = forward_program(links, machine(), threads.team_size())
        return Chain(links, program) if compiles(program) else None

    return calls.bound(("chain", links, threads.team_size()), make)


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        chain: Chain,
        moved: Mapping[str, Tensor],
        x: Tensor,
        residual: Tensor | None,
        *parameters: Tensor | None,
    ) -> Tensor:
        out, kept = chain.forward(x, parameters, residual, moved)
        ctx.save_for_backward(x, kept, *parameters)
        ctx.chain = chain
        ctx.set_materialize_grads(False)
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        _, _, of_x, of_residual, *of_parameters = ctx.needs_input_grad
        if dy is None:
            return (None,) * len(ctx.needs_input_grad)
        x, kept, *parameters = ctx.saved_tensors
        chain: Chain = ctx.chain
        dx, *found = chain.backward(x, parameters, kept, dy, (of_x, *of_parameters))
        return (None, None, dx, dy if of_residual else None, *found)


def _side_by_side(kept: Sequence[Made]) -> tuple[dict[str, int], int]:
    """Where each begins, in bytes, and the elements of all; as apart as they were in memory of their own."""
    places, end = dict[str, int](), 0
    for made in kept:
        places[made.buffer] = end
        end += -(-prod(made.size) * FLOAT_BYTES // leases.LINE_BYTES) * leases.LINE_BYTES + leases.APART_BYTES
    return places, end // FLOAT_BYTES


def _defaults(links: Sequence[Link]) -> Iterator[tuple[str, Tensor]]:
    """What stands for weights and biases of norms that there are none of, by the names of their buffers."""
    for number, link in numbered(links):
        if (last := _convolution(link)) is not None:
            channels = last.norm.channels
            yield buffer_of(number, "scale"), filled(channels, 1.0)
            yield buffer_of(number, "shift"), filled(channels, 0.0)


def _convolution(link: Link) -> ConvNorm | None:
    """The one with a norm that a link is, or ends with."""
    last = link.last if isinstance(link, GatedConvNorm) else link
    return last if isinstance(last, ConvNorm) else None


def _computed(link: Link, x: Tensor, *parameters: Any) -> Tensor:
    """What torch's operators make of `x`."""
    if isinstance(link, ConvNorm):
        weight, bias, scale, shift = parameters
        problem = link.convolution
        kind = PointwiseTensors if problem.operation == "pointwise" else DepthwiseTensors
        y = convolved(x, kind(weight, bias), problem.geometry)
        return activate(
            F.batch_norm(y, None, None, scale, shift, training=True, eps=link.norm.eps), link.norm.activation
        )
    if isinstance(link, SqueezeExcite):
        reduce, reduce_bias, expand, expand_bias = parameters
        first, last = link.activations
        hidden = activate(F.conv2d(x.mean((2, 3), keepdim=True), reduce, reduce_bias), first)
        return x * activate(F.conv2d(hidden, expand, expand_bias), last)
    if isinstance(link, GatedConvNorm):
        count = len(link.excite.parameters)
        return _computed(link.last, _computed(link.excite, x, *parameters[:count]), *parameters[count:])
    raise TypeError(f"torch's operators for a {type(link).__name__} are not known")


def _most_seconds(link: Link) -> float:
    made = sum(prod(each.size) for each in link.made(0))
    last = _convolution(link)
    seconds = most_seconds(last.convolution) if last is not None else 0.001
    return seconds + 0.001 + 8 * FLOAT_BYTES * made / 1e9
