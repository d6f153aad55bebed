"""Packed weights: their order, its inverse, and batch norms that became part of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from depthwise import reference
from depthwise.backends.base import DepthwiseTensors, Norm, SeparableTensors
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.pack import (
    Pack,
    Shelf,
    pack_dense,
    pack_depthwise,
    pack_of,
    pack_pointwise,
    pack_rows,
    unpack_dense,
    unpack_depthwise,
    unpack_pointwise,
)
from depthwise.backends.cpu.plan.dense import DensePlan
from depthwise.backends.cpu.plan.pointwise import PointwisePlan
from depthwise.backends.cpu.plan.product import Product
from depthwise.backends.cpu.plan.sizes import lanes_below
from depthwise.backends.cpu.run import memory
from depthwise.functional import pointwise_conv
from tests.support.cases import normals
from tests.support.fresh import SIZES, check_fresh
from tests.support.kernels import HERE, Memory


def kernel(inputs: int, outputs: int, groups: int, lanes: int, vectors: int) -> PointwisePlan:
    """Of `inputs` and `outputs` channels in each group."""
    lanes = lanes_below(outputs, lanes)
    return PointwisePlan(
        in_channels=groups * inputs,
        out_channels=groups * outputs,
        groups=groups,
        activation=None,
        residual=False,
        lanes=lanes,
        vectors=min(vectors, -(-outputs // lanes)),
        heights=(6, 5),
        pixels_first=False,
        fetched_lines=1,
        pixel_stride=groups * inputs,
    )


kernels = st.builds(
    kernel, st.integers(1, 9), st.integers(1, 70), st.integers(1, 4), st.sampled_from((4, 8, 16)), st.integers(1, 5)
)


@given(kernels)
def test_unpacking_gives_the_pointwise_weight_back(k: PointwisePlan) -> None:
    weight = torch.arange(1.0, 1 + k.out_channels * k.group_inputs).reshape(k.out_channels, k.group_inputs, 1, 1)
    packed, bias = pack_pointwise(weight, None, k)
    assert packed.is_contiguous()
    assert packed.numel() == k.groups * k.group_vectors * k.lanes * k.group_inputs
    assert torch.equal(unpack_pointwise(packed, k), weight.flatten(1))
    assert torch.equal(bias, torch.zeros(k.groups * k.group_vectors, k.lanes))


@given(kernels)
def test_panels_lie_as_the_kernel_walks_them(k: PointwisePlan) -> None:
    weight = torch.arange(1.0, 1 + k.out_channels * k.group_inputs).reshape(k.out_channels, k.group_inputs, 1)
    bias = torch.arange(1.0, 1 + k.out_channels)
    expected_weight, expected_bias = [], []
    for group in range(k.groups):
        vectors = [
            group * k.group_outputs + min(vector * k.lanes, k.group_outputs - k.lanes)
            for vector in range(k.group_vectors)
        ]
        for panel in range(0, k.group_vectors, k.vectors):
            for c in range(k.group_inputs):
                expected_weight += [weight[o : o + k.lanes, c, 0] for o in vectors[panel : panel + k.vectors]]
        expected_bias += [bias[o : o + k.lanes] for o in vectors]
    packed = pack_pointwise(weight, bias, k)
    assert torch.equal(packed[0], torch.cat(expected_weight))
    assert torch.equal(packed[1], torch.stack(expected_bias))
    assert packed[1].is_contiguous()


@given(kernels, st.sampled_from(((1, 1, 1), (1, 3, 2), (2, 1, 5))), st.integers(1, 9), st.booleans())
def test_unpacking_gives_the_dense_weight_back(
    k: PointwisePlan, kernel_size: tuple[int, int, int], slab: int, planar: bool
) -> None:
    own: dict[str, Any] = {field.name: getattr(k, field.name) for field in fields(Product)}
    slab = k.group_inputs if planar else min(slab, k.group_inputs)
    window: dict[str, Any] = {
        "rank": 3,
        "kernel": kernel_size,
        "stride": (1, 1, 1),
        "dilation": (1, 1, 1),
        "heights": (2, 1),
    }
    order: dict[str, Any] = {"by_rows": False, "pixels_first": False, "fetches": False, "pixel_stride": 1}
    dense = DensePlan(**own, **window, **order, slab=slab, planar=planar)
    weight = torch.arange(1.0, 1 + dense.out_channels * dense.terms).reshape(-1, k.group_inputs, *kernel_size)
    assert torch.equal(unpack_dense(pack_dense(weight, None, dense)[0], dense), weight.flatten(2))


def test_rows_lie_as_torch_has_them() -> None:
    weight = torch.arange(1.0, 13).reshape(3, 4).t()
    for given_weight in (weight[:, :, None], torch._neg_view(weight)[:, :, None]):  # type: ignore[attr-defined, unused-ignore]
        packed, bias = pack_rows(given_weight, None)
        assert packed.is_contiguous()
        assert not packed.is_neg()
        assert torch.equal(packed, given_weight[:, :, 0])
        assert torch.equal(bias, torch.zeros(4))


@pytest.mark.parametrize("kernel_size", [(1,), (5,), (3, 2), (1, 1), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("filters", [1, 6, 64])
def test_unpacking_gives_the_depthwise_weight_back(kernel_size: tuple[int, ...], filters: int) -> None:
    weight = normals(0)((filters, 1, *kernel_size))
    for given_weight in (weight, weight.flip(0), weight.transpose(0, -1).contiguous().transpose(0, -1)):
        packed, bias = pack_depthwise(given_weight, None)
        assert packed.is_contiguous()
        assert torch.equal(unpack_depthwise(packed, filters, kernel_size), given_weight)
        assert torch.equal(bias, torch.zeros(filters))
    for tap, place in enumerate(torch.cartesian_prod(*map(torch.arange, kernel_size)).reshape(-1, len(kernel_size))):
        packed, bias = pack_depthwise(weight, weight.flatten()[:filters])
        assert torch.equal(packed[tap, :filters], weight[(slice(None), 0, *place)])
        assert torch.equal(bias, weight.flatten()[:filters])


def norm_of(channels: int, draw: Callable[[tuple[int, ...]], Tensor], *, affine: bool) -> Norm:
    mean, weight, bias = (draw((channels,)) for _ in range(3))
    return Norm(mean, draw((channels,)).abs() + 0.1, weight if affine else None, bias if affine else None, 1e-3)


def normalised(x: Tensor, norm: Norm | None) -> Tensor:
    if norm is None:
        return x
    tensors = (None if tensor is None else tensor.double() for tensor in norm[:4])
    mean, var, weight, bias = tensors
    return torch.nn.functional.batch_norm(x, mean, var, weight, bias, eps=norm.eps)


def packed_result(x: Tensor, pack: Pack, k: PointwisePlan) -> Tensor:
    """What packed weights compute, in float64, nothing between the two convolutions."""
    assert pack.depthwise_weight is not None
    assert pack.depthwise_bias is not None
    assert pack.pointwise_weight is not None
    assert pack.pointwise_bias is not None
    depthwise = unpack_depthwise(pack.depthwise_weight, len(pack.depthwise_bias), (3, 3)).double()
    pointwise = unpack_pointwise(pack.pointwise_weight, k)[:, :, None, None].double()
    # A bias has the order of the weight for one input channel.
    flat = unpack_pointwise(pack.pointwise_bias.flatten(), replace(k, in_channels=k.groups, vectors=1)).flatten()
    return reference.separable_conv(
        x, depthwise, pointwise, pack.depthwise_bias.double(), flat.double(), padding=1, groups=k.groups
    )


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("norms", ["depthwise", "pointwise", "both", "none"])
def test_folded_norms_compute_what_torch_does(norms: str, biases: bool, affine: bool) -> None:
    draw, k = normals(1), kernel(3, 9, 2, 4, 2)
    bias: Any = (draw((6,)), draw((18,))) if biases else (None, None)
    tensors = SeparableTensors(
        draw((6, 1, 3, 3)),
        draw((18, 3, 1, 1)),
        depthwise_bias=bias[0],
        pointwise_bias=bias[1],
        depthwise_norm=norm_of(6, draw, affine=affine) if norms in ("depthwise", "both") else None,
        pointwise_norm=norm_of(18, draw, affine=affine) if norms in ("pointwise", "both") else None,
    )
    x = normals(2, torch.float64)((2, 6, 5, 4))
    wide = [None if b is None else b.double() for b in bias]
    y = reference.depthwise_conv(x, tensors.depthwise_weight.double(), wide[0], padding=1)
    y = normalised(y, tensors.depthwise_norm)
    y = reference.pointwise_conv(y, tensors.pointwise_weight.double(), wide[1], 2)
    y = normalised(y, tensors.pointwise_norm)
    pack = pack_of(tensors, k)
    assert all(part is not None and part.dtype == torch.float32 and part.is_contiguous() for part in parts_of(pack))
    # Each weight is rounded to float32 once.
    torch.testing.assert_close(packed_result(x, pack, k), y, rtol=1e-6, atol=1e-5)


LEAST_NORMAL = 2.0**-126
INF, NAN = math.inf, math.nan
NUMBERS = [LEAST_NORMAL - 2.0**-149, 1e-40, -1e-42, 2.0**-149, LEAST_NORMAL, -LEAST_NORMAL, 0.0, INF, -INF, NAN, 3.0]


def is_flushed(packed: Tensor, given: Tensor) -> bool:
    """Whether denormal numbers are zeros in `packed`, and all others are as given."""
    expected = torch.where(given.abs() < LEAST_NORMAL, 0.0, given)
    return bool(torch.equal(packed.nan_to_num(7.0), expected.nan_to_num(7.0)))


def test_denormal_numbers_become_zeros() -> None:
    k = kernel(3, 11, 1, 4, 2)
    depthwise, pointwise = torch.tensor(NUMBERS).repeat(3, 9).reshape(9, 33).t(), torch.tensor(NUMBERS).repeat(3)
    weights = depthwise.reshape(33, 1, 3, 3), pointwise.reshape(11, 3, 1, 1)
    biases = depthwise[:, 0], torch.tensor(NUMBERS)
    packed, bias = pack_depthwise(weights[0], biases[0])
    assert is_flushed(unpack_depthwise(packed, 33, (3, 3)), weights[0])
    assert is_flushed(bias, biases[0])
    assert not is_flushed(weights[0], weights[0])
    packed, bias = pack_pointwise(weights[1], biases[1], k)
    assert is_flushed(unpack_pointwise(packed, k), weights[1].flatten(1))
    assert is_flushed(bias.flatten()[:8], biases[1][:8])
    packed, bias = pack_rows(weights[1], biases[1])
    assert is_flushed(packed, weights[1].flatten(1))
    assert is_flushed(bias, biases[1])
    # The caller's own stay as they are.
    assert weights[0][1, 0, 0, 0] != 0
    assert biases[1][1] != 0


def test_what_norms_make_denormal_becomes_zeros() -> None:
    draw, k = normals(8), kernel(3, 9, 2, 4, 2)
    norms = [norm_of(n, draw, affine=True)._replace(weight=torch.full((n,), 1e-40), bias=None) for n in (6, 18)]
    tensors = SeparableTensors(
        draw((6, 1, 3, 3)), draw((18, 3, 1, 1)), depthwise_norm=norms[0], pointwise_norm=norms[1]
    )
    folded = pack_of(replace(tensors, depthwise_norm=None, pointwise_norm=None), k)
    assert all(part is None or part.count_nonzero() == 0 for part in parts_of(pack_of(tensors, k)))
    assert folded.pointwise_weight is not None
    assert folded.pointwise_weight.count_nonzero() > 0


def parts_of(pack: Pack) -> tuple[Tensor | None, ...]:
    return pack.depthwise_weight, pack.depthwise_bias, pack.pointwise_weight, pack.pointwise_bias


def test_a_norm_left_out_is_seen() -> None:
    draw, k = normals(3), kernel(3, 9, 2, 4, 2)
    tensors = SeparableTensors(draw((6, 1, 3, 3)), draw((18, 3, 1, 1)), depthwise_norm=norm_of(6, draw, affine=True))
    x = normals(4, torch.float64)((2, 6, 5, 4))
    with_norm, without = (packed_result(x, pack_of(t, k), k) for t in (tensors, replace(tensors, depthwise_norm=None)))
    assert not torch.allclose(with_norm, without, rtol=1e-6, atol=1e-5)


def test_a_depthwise_convolution_alone_has_two_parts() -> None:
    weight, bias = normals(5)((6, 1, 3, 3)), normals(6)((6,))
    pack = pack_of(DepthwiseTensors(weight, bias), None)
    assert pack.pointwise_weight is pack.pointwise_bias is None
    assert pack.depthwise_weight is not None
    assert pack.depthwise_bias is not None
    assert torch.equal(unpack_depthwise(pack.depthwise_weight, 6, (3, 3)), weight)
    assert torch.equal(pack.depthwise_bias, bias)


def test_packs_need_no_gradient() -> None:
    k = kernel(3, 9, 2, 4, 2)
    tensors = SeparableTensors(
        torch.randn(6, 1, 3, 3, requires_grad=True), torch.randn(18, 3, 1, 1, requires_grad=True)
    )
    assert not any(part is not None and part.requires_grad for part in parts_of(pack_of(tensors, k)))


@pytest.mark.parametrize("target", HERE, ids=lambda target: target.isa)
@pytest.mark.parametrize("turned", [False, True])
def test_generated_code_packs_pointwise_weights_likewise(turned: bool, target: Machine) -> None:
    for size in SIZES:
        for bias in (False, True):
            for threads in (1, 3):
                check_fresh(*size, target, Memory(), turned=turned, bias=bias, threads=threads)


@pytest.mark.skipif(not HERE, reason="no generator serves this machine")
def test_denormal_numbers_of_a_call_that_trains_become_zeros() -> None:
    x, weight = torch.ones(1, 8, 2, 2).contiguous(memory_format=torch.channels_last), torch.full((8, 8, 1, 1), 1e-39)
    out = pointwise_conv(2, x, weight.requires_grad_(), None)
    assert torch.equal(out, torch.zeros_like(out))


def test_packs_are_moved_side_by_side_as_long_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "HUGE_PAGE_BYTES", 64)
    monkeypatch.setattr(memory, "lasting", lambda elements: torch.full((elements,), torch.nan))
    packs = [Pack(pointwise_weight=torch.randn(3, size), pointwise_bias=torch.randn(size)) for size in (5, 7, 30)]
    shelf = Shelf(16 * 6)
    moved = [shelf.moved(pack) for pack in packs]
    weights = [pack.pointwise_weight for pack in moved]
    assert all(weight is not None for weight in weights)
    first, second, third = (weight.data_ptr() for weight in weights if weight is not None)
    # A weight and a bias take a line each, and of 21 numbers two; of 90 there is none left.
    assert second - first == 4 * 32
    assert third == packs[2].addresses["pointwise_weight"]
    for before, after in zip(packs, moved, strict=True):
        assert before.pointwise_weight is not None
        assert after.pointwise_weight is not None
        assert torch.equal(before.pointwise_weight, after.pointwise_weight)
        assert after.depthwise_weight is None


def test_few_weights_stay_where_they_are() -> None:
    pack = Pack(pointwise_weight=torch.randn(3, 5))
    assert Shelf(100).moved(pack).addresses == pack.addresses
