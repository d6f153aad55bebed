"""Weights as the kernels walk them, and how batch norms and biases become part of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

import torch
from torch import Tensor

from ...folding import scale_and_shift_of
from ..base import DepthwiseTensors, Norm, PointwiseTensors, SeparableTensors, Weights
from .machine import FLOAT_BYTES
from .plan.dense import DensePlan
from .plan.filters import tap_stride
from .plan.planar import PlanarPlan
from .plan.pointwise import PointwisePlan
from .plan.product import Product
from .plan.sizes import LINE_ELEMENTS
from .run import memory

NAMES = ("depthwise_weight", "depthwise_bias", "pointwise_weight", "pointwise_bias")

_numbers = count(1)

# Of float32: 2^-126 less the least of them.
LARGEST_DENORMAL = 2.0**-126 - 2.0**-149


@dataclass(frozen=True)
class Pack:
    """Weights and biases in the order of the kernels: contiguous float32, copies of what they were made from.

    Denormal numbers are zeros in it: many CPUs multiply these a hundred times more slowly.

    number: no other pack has it
    """

    depthwise_weight: Tensor | None = None
    depthwise_bias: Tensor | None = None
    pointwise_weight: Tensor | None = None
    pointwise_bias: Tensor | None = None
    number: int = field(default_factory=_numbers.__next__)

    @property
    def addresses(self) -> dict[str, int]:
        """Of those there are, by the kernels' names of pointers to them."""
        tensors = {name: getattr(self, name) for name in NAMES}
        return {name: tensor.data_ptr() for name, tensor in tensors.items() if tensor is not None}


class Shelf:
    """Memory that packs are moved to, one after another, in huge pages; where there is little to move they stay.

    elements: of all that are expected
    """

    def __init__(self, elements: int) -> None:
        is_worth_it = elements * FLOAT_BYTES >= memory.HUGE_PAGE_BYTES
        self._left = memory.lasting(elements) if is_worth_it else None

    def moved(self, pack: Pack) -> Pack:
        return replace(
            pack,
            depthwise_weight=self._moved(pack.depthwise_weight),
            depthwise_bias=self._moved(pack.depthwise_bias),
            pointwise_weight=self._moved(pack.pointwise_weight),
            pointwise_bias=self._moved(pack.pointwise_bias),
        )

    def _moved(self, tensor: Tensor | None) -> Tensor | None:
        left = self._left
        if tensor is None or left is None or left.numel() < tensor.numel():
            return tensor
        elements = -(-tensor.numel() // LINE_ELEMENTS) * LINE_ELEMENTS
        self._left = left[elements:]
        return left[: tensor.numel()].view(tensor.shape).copy_(tensor)


class Fresh:
    """Weights as they lie, for programs that pack them themselves; what a `Pack` says of its own."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        # Held here, as they may be copies.
        self._held = weight, bias = _as_it_lies(weight), None if bias is None else _as_it_lies(bias)
        self.addresses = {"weight": weight.data_ptr(), "bias": 0 if bias is None else bias.data_ptr()}
        self.number = next(_numbers)


def _as_it_lies(tensor: Tensor) -> Tensor:
    if tensor.is_contiguous() and not tensor.is_neg():
        return tensor
    return tensor.detach().contiguous().resolve_neg()


def pack_of(weights: Weights, pointwise: PointwisePlan | PlanarPlan | DensePlan | None) -> Pack:
    """Pack the weights of a call, its batch norms folded in."""
    with torch.no_grad():
        if isinstance(weights, DepthwiseTensors):
            return Pack(*pack_depthwise(weights.weight, weights.bias))
        if isinstance(weights, PointwiseTensors) and isinstance(pointwise, DensePlan):
            return Pack(None, None, *pack_dense(weights.weight, weights.bias, pointwise))
        if isinstance(weights, PointwiseTensors):
            packed, bias = _packed_pointwise(weights.weight, weights.bias, pointwise)
            return Pack(None, None, packed, bias)
        first = _folded(weights.depthwise_weight, weights.depthwise_bias, weights.depthwise_norm)
        last = _folded(weights.pointwise_weight, weights.pointwise_bias, weights.pointwise_norm)
        return Pack(*pack_depthwise(*first), *_packed_pointwise(*last, pointwise))


def _packed_pointwise(
    weight: Tensor, bias: Tensor | None, plan: PointwisePlan | PlanarPlan | DensePlan | None
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    if plan is None:
        return None, None
    return pack_rows(weight, bias) if isinstance(plan, PlanarPlan) else pack_pointwise(weight, bias, plan)


def _folded(weight: Tensor, bias: Tensor | None, norm: Norm | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the convolution that does what this one and the norm after it do."""
    if norm is None:
        return weight, bias
    scale, shift = scale_and_shift_of(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    scaled = weight.double() * scale.reshape(-1, *(1,) * (weight.dim() - 1))
    shifted = shift if bias is None else shift + bias.double() * scale
    return scaled.float(), shifted.float()


def pack_depthwise(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """(taps, tap_stride), rows that end in zeros, and (filters,) from torch's (filters, 1, *kernel)."""
    taps, filters = weight[0].numel(), weight.shape[0]
    packed = weight.new_zeros(taps, tap_stride(filters, taps))
    torch.hardshrink(weight.detach().flatten(1).t(), LARGEST_DENORMAL, out=packed[:, :filters])
    return packed, _bias(bias, weight)


def unpack_depthwise(packed: Tensor, filters: int, kernel_size: tuple[int, ...]) -> Tensor:
    """The weight that `pack_depthwise` was given."""
    weight: Tensor = packed[:, :filters].t().unflatten(1, kernel_size).unsqueeze(1)
    return weight.contiguous()


def pack_dense(weight: Tensor, bias: Tensor | None, k: DensePlan) -> tuple[Tensor, Tensor]:
    """The panels of every group as `pack_pointwise` has them, of the terms in the order in which they are summed.

    weight: (out_channels, group_inputs, *kernel)
    """
    taps = weight.detach().flatten(2)
    if k.planar:
        return pack_pointwise(taps, bias, k)
    slabs = [slab.transpose(1, 2).flatten(1) for slab in taps.split(k.slab, dim=1)]
    return pack_pointwise(torch.cat(slabs, dim=1), bias, k)


def pack_pointwise(weight: Tensor, bias: Tensor | None, k: Product) -> tuple[Tensor, Tensor]:
    """The panels of every group, full ones before the group's rest, and the bias of every vector.

    weight: (out_channels, terms, 1, ...)
    out:    (groups · group_vectors · lanes · terms,) and (groups · group_vectors, lanes)
    """
    rows, flat = weight.detach().flatten(1), _bias(bias, weight)
    if k.group_outputs % k.lanes:
        # The last vector of a group overlaps the one before it.
        columns = (k.group_outputs * torch.arange(k.groups, device="cpu")[:, None] + _columns(k).flatten()).flatten()
        rows, flat = rows[columns], flat[columns]
    # As a matrix, which torch transposes faster than in more axes.
    matrix = _copy(rows.t())
    torch.hardshrink(matrix, LARGEST_DENORMAL, out=matrix)
    grouped = matrix.unflatten(1, (k.groups, k.group_vectors * k.lanes))
    width = k.vectors * k.lanes
    panels = grouped[:, :, : k.full_panels * width].unflatten(2, (k.full_panels, width)).permute(1, 2, 0, 3).flatten(1)
    rest = grouped[:, :, k.full_panels * width :].transpose(0, 1).flatten(1)
    return torch.cat([panels, rest], dim=1).flatten() if k.rest_vectors else panels.flatten(), flat.view(-1, k.lanes)


def pack_rows(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """(out_channels, group_inputs), as torch has them, and (out_channels,)."""
    rows = _copy(weight.detach().flatten(1))
    return torch.hardshrink(rows, LARGEST_DENORMAL, out=rows), _bias(bias, weight)


def _bias(bias: Tensor | None, weight: Tensor) -> Tensor:
    if bias is None:
        return weight.new_zeros(weight.shape[0])
    return torch.hardshrink(bias.detach(), LARGEST_DENORMAL, out=weight.new_empty(weight.shape[0]))


def _copy(tensor: Tensor) -> Tensor:
    """A contiguous copy, never a view that negates."""
    return tensor.clone(memory_format=torch.contiguous_format).resolve_neg()


def unpack_pointwise(packed: Tensor, k: Product) -> Tensor:
    """The weight that `pack_pointwise` was given, as (out_channels, terms)."""
    full = k.full_panels * k.vectors
    rows = packed.unflatten(0, (k.groups, -1))
    panels, rest = rows.split([full * k.lanes * k.terms, k.rest_vectors * k.lanes * k.terms], dim=1)
    shape = (k.full_panels, k.terms, k.vectors, k.lanes)
    whole = panels.unflatten(1, shape).transpose(1, 2).flatten(2, 3)
    grouped = torch.cat([whole, rest.unflatten(1, (k.terms, k.rest_vectors, k.lanes))], dim=2)
    weight = packed.new_empty(k.groups, k.group_outputs, k.terms)
    weight[:, _columns(k).flatten()] = grouped.flatten(2).transpose(1, 2)
    return weight.flatten(0, 1)


def unpack_dense(packed: Tensor, k: DensePlan) -> Tensor:
    """The weight that `pack_dense` was given, as (out_channels, group_inputs, taps)."""
    terms = unpack_pointwise(packed, k)
    if k.planar:
        planes: Tensor = terms.unflatten(1, (k.group_inputs, k.taps))
        return planes
    slabs = terms.split(k.taps * k.slab, dim=1)
    return torch.cat([slab.unflatten(1, (k.taps, -1)).transpose(1, 2) for slab in slabs], dim=1)


def weights_in(
    pack: Pack, weights: Weights, pointwise: PointwisePlan | PlanarPlan | DensePlan | None
) -> list[tuple[Tensor, Callable[[], Tensor]]]:
    """The weights that a pack was made of, each with what makes it again, denormals aside."""
    found: list[tuple[Tensor, Callable[[], Tensor]]] = []
    if isinstance(weights, SeparableTensors) and weights.norms != (None, None):
        return found
    if pack.depthwise_weight is not None and not isinstance(weights, PointwiseTensors):
        filters = weights.weight if isinstance(weights, DepthwiseTensors) else weights.depthwise_weight
        shape = len(filters), tuple(filters.shape[2:])
        found.append((filters, partial(unpack_depthwise, pack.depthwise_weight, *shape)))
    if pack.pointwise_weight is not None and pointwise is not None and not isinstance(weights, DepthwiseTensors):
        matrix = weights.weight if isinstance(weights, PointwiseTensors) else weights.pointwise_weight
        found.append((matrix, partial(_matrix_in, pack.pointwise_weight, matrix.shape, pointwise)))
    return found


def _matrix_in(packed: Tensor, shape: torch.Size, plan: PointwisePlan | PlanarPlan | DensePlan) -> Tensor:
    if isinstance(plan, PlanarPlan):
        return packed.view(shape)
    made = unpack_dense(packed, plan) if isinstance(plan, DensePlan) else unpack_pointwise(packed, plan)
    return made.reshape(shape)


def _columns(k: Product) -> Tensor:
    """Output channels, within a group, of each lane of its vectors."""
    starts = [min(vector * k.lanes, k.group_outputs - k.lanes) for vector in range(k.group_vectors)]
    return torch.tensor(starts, device="cpu")[:, None] + torch.arange(k.lanes, device="cpu")
