"""The functional forms against the definition: bits on integers, a bound on random data, gradients, error texts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor

from depthwise import DepthwiseError, functional, reference
from depthwise.activations import ACTIVATIONS
from depthwise.functional import ActivationName, activation_of
from tests.support.cases import (
    Case,
    assert_bit_equal,
    assert_within_bound,
    cases,
    normals,
    separable_reference,
    small_integers,
)

DEPTHWISE = {1: functional.depthwise_conv1d, 2: functional.depthwise_conv2d, 3: functional.depthwise_conv3d}
SEPARABLE = {1: functional.separable_conv1d, 2: functional.separable_conv2d, 3: functional.separable_conv3d}


def separable(case: Case, x: Tensor, depthwise: Tensor, pointwise: Tensor, bias: Tensor | None) -> Tensor:
    window = case.window
    return SEPARABLE[case.rank](x, depthwise, pointwise, pointwise_bias=bias, groups=case.groups, **window)


@given(case=cases())
def test_integers_are_bit_equal(case: Case) -> None:
    x, depthwise, pointwise, bias = case.tensors(small_integers(1))
    filters_bias = depthwise.sum((1, *range(2, depthwise.dim())))
    assert_bit_equal(
        DEPTHWISE[case.rank](x, depthwise, filters_bias, **case.window),
        reference.depthwise_conv(x, depthwise, filters_bias, **case.window),
    )
    assert_bit_equal(
        separable(case, x, depthwise, pointwise, bias), separable_reference(case, x, depthwise, pointwise, bias)
    )


@given(case=cases())
def test_random_data_stays_within_the_bound(case: Case) -> None:
    x, depthwise, pointwise, bias = case.tensors(normals(2))
    assert_within_bound(separable(case, x, depthwise, pointwise, bias), case, x, depthwise, pointwise, bias)


@given(case=cases(max_size=7))
def test_gradients_are_the_references(case: Case) -> None:
    tensors = [t.requires_grad_() for t in case.tensors(normals(3, torch.float64)) if t is not None]
    x, depthwise, pointwise, *rest = tensors
    bias = rest[0] if rest else None
    ours = separable(case, x, depthwise, pointwise, bias)
    theirs = separable_reference(case, x, depthwise, pointwise, bias)
    upstream = torch.randn_like(ours)
    for ours_grad, theirs_grad in zip(
        torch.autograd.grad(ours, tensors, upstream), torch.autograd.grad(theirs, tensors, upstream), strict=True
    ):
        torch.testing.assert_close(ours_grad, theirs_grad, rtol=1e-10, atol=1e-10)


def test_second_derivatives() -> None:
    shapes = [(1, 2, 5), (4, 1, 3), (3, 4, 1)]
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def strided(x: Tensor, depthwise: Tensor, pointwise: Tensor) -> Tensor:
        return functional.separable_conv1d(x, depthwise, pointwise, stride=2, padding="same")

    assert torch.autograd.gradgradcheck(strided, tensors)


CASE = Case(1, 2, 2, 3, 1, (6, 5), (3, 3), (1, 1), 1, (1, 1), "contiguous", bias=True)


@pytest.mark.parametrize("corrupt", ["tap", "shift", "tail"])
def test_the_checkers_can_fail(corrupt: str) -> None:
    x, depthwise, pointwise, bias = CASE.tensors(normals(4))
    right = separable(CASE, x, depthwise, pointwise, bias)
    if corrupt == "tap":
        dropped = depthwise.clone()
        dropped[..., 2, 2] = 0
        wrong = separable(CASE, x, dropped, pointwise, bias)
    elif corrupt == "shift":
        wrong = right.roll(1, dims=-1)
    else:
        wrong = right.clone()
        wrong[..., -1] = float("nan")
    assert_within_bound(right, CASE, x, depthwise, pointwise, bias)
    with pytest.raises(AssertionError):
        assert_within_bound(wrong, CASE, x, depthwise, pointwise, bias)
    with pytest.raises(AssertionError):
        assert_bit_equal(wrong, right)


# ---- activations and residual

MODULES: dict[str, torch.nn.Module] = {
    "relu": torch.nn.ReLU(),
    "relu6": torch.nn.ReLU6(),
    "silu": torch.nn.SiLU(),
    "hardswish": torch.nn.Hardswish(),
    "hardsigmoid": torch.nn.Hardsigmoid(),
    "sigmoid": torch.nn.Sigmoid(),
    "gelu": torch.nn.GELU(),
    "leaky_relu": torch.nn.LeakyReLU(),
    "elu": torch.nn.ELU(),
}


def test_every_activation_is_tested() -> None:
    assert set(MODULES) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", MODULES)
def test_activations_stand_where_they_say(name: str) -> None:
    x, depthwise, pointwise, bias = CASE.tensors(normals(5))
    residual = torch.randn(1, 3, 6, 5)
    arguments: dict[str, Any] = {"pointwise_bias": bias, "padding": 1}
    ours = functional.separable_conv2d(
        x, depthwise, pointwise, depthwise_activation=name, pointwise_activation=name, residual=residual, **arguments
    )
    middle = MODULES[name](reference.depthwise_conv(x, depthwise, padding=1))
    expected = MODULES[name](reference.pointwise_conv(middle, pointwise, bias) + residual)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("name", ["leaky_relu", "elu"])
def test_slopes(name: str) -> None:
    x, weight, one = torch.tensor([[[-2.0, 3.0]]]), torch.ones(1, 1, 1), torch.ones(1, 1, 1)
    module = {"leaky_relu": torch.nn.LeakyReLU, "elu": torch.nn.ELU}[name](0.3)
    assert torch.equal(functional.separable_conv1d(x, weight, one, pointwise_activation=(name, 0.3)), module(x))


def test_nan_goes_through_relu() -> None:
    x = torch.tensor([[[float("nan"), -1.0]]])
    out = functional.separable_conv1d(x, torch.ones(1, 1, 1), torch.ones(1, 1, 1), pointwise_activation="relu")
    assert out.isnan().tolist() == [[[True, False]]]


# ---- shapes, dtypes, layouts


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_unbatched_and_empty_batches(rank: int) -> None:
    spatial = (6,) * rank
    weight, pointwise = torch.randn(4, 1, *(3,) * rank), torch.randn(5, 4, *(1,) * rank)
    x = torch.randn(2, *spatial)
    whole = SEPARABLE[rank](x.unsqueeze(0), weight, pointwise)
    assert torch.equal(SEPARABLE[rank](x, weight, pointwise), whole.squeeze(0))
    residual = torch.randn_like(whole)
    added = SEPARABLE[rank](x, weight, pointwise, residual=residual.squeeze(0))
    assert torch.equal(added, (whole + residual).squeeze(0))
    assert SEPARABLE[rank](x.expand(0, *x.shape), weight, pointwise).shape == (0, *whole.shape[1:])
    assert DEPTHWISE[rank](x, weight).shape == (4, *(4,) * rank)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    x, depthwise, pointwise, bias = CASE.tensors(normals(6, dtype))
    ours = separable(CASE, x, depthwise, pointwise, bias)
    assert ours.dtype == dtype
    assert_within_bound(ours, CASE, x, depthwise, pointwise, bias)


def test_the_memory_format_is_torchs() -> None:
    x = torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last)
    out = functional.separable_conv2d(x, torch.randn(8, 1, 3, 3), torch.randn(16, 8, 1, 1), padding="same")
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_lists_are_as_good_as_tuples() -> None:
    x, weight = torch.randn(1, 2, 8, 8), torch.randn(2, 1, 3, 3)
    listed = functional.depthwise_conv2d(x, weight, stride=[2, 1], padding=[1, 0], dilation=[1, 2])
    assert torch.equal(listed, functional.depthwise_conv2d(x, weight, stride=(2, 1), padding=(1, 0), dilation=(1, 2)))


# ---- errors

X, D, P = torch.zeros(1, 16, 9, 9), torch.zeros(16, 1, 3, 3), torch.zeros(8, 16, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"weight": torch.zeros(24, 1, 3, 3)},
            r"weight has 24 filters for in_channels=16; the number of filters must be a multiple of in_channels \(16,",
        ),
        ({"weight": torch.zeros(16, 2, 3, 3)}, r"weight must be \(in_channels \* depth_multiplier, 1, kernel_height"),
        ({"weight": torch.zeros(16, 1, 3)}, r"got the shape \(16, 1, 3\)"),
        ({"weight": torch.zeros(0, 1, 3, 3)}, "weight has 0 filters"),
        ({"weight": D.double()}, "weight has dtype torch.float64 and x torch.float32; convert one"),
        ({"x": X.to("meta"), "weight": D.to("meta").half()}, "weight has dtype torch.float16 and x torch.float32"),
        ({"weight": D.to("meta")}, "weight is on meta and x on cpu; move one"),
        ({"weight": None}, "weight must be a torch.Tensor; got NoneType"),
        ({"weight": [1.0]}, "weight must be a torch.Tensor; got list"),
        ({"x": torch.zeros(9, 9)}, r"x must be \(batch, channels, height, width\) or .*; got the shape \(9, 9\)"),
        ({"x": X.to(torch.complex64)}, "x must have a floating-point dtype; got torch.complex64"),
        ({"x": X.int()}, r"floating-point dtype; got torch.int32; convert it with x.float\(\)"),
        ({"x": None}, "x must be a torch.Tensor; got NoneType"),
        ({"x": torch.zeros(1, 0, 9, 9)}, "weight has 16 filters for in_channels=0"),
        ({"bias": torch.zeros(8)}, r"bias must have the shape \(16,\); got \(8,\)"),
        ({"padding": "full"}, "padding is an int"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"dilation": 8}, "more than the padded input's 9"),
    ],
)
def test_depthwise_errors(arguments: dict[str, Any], message: str) -> None:
    valid: dict[str, Any] = {"x": X, "weight": D}
    with pytest.raises(DepthwiseError, match=message):
        functional.depthwise_conv2d(**(valid | arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"pointwise_weight": torch.zeros(8, 8, 1, 1)},
            r"pointwise_weight must be \(out_channels, 16, 1, 1\) for in_channels=16, depth_multiplier=1, groups=1",
        ),
        ({"pointwise_weight": torch.zeros(8, 16, 3, 3)}, r"got \(8, 16, 3, 3\)"),
        (
            {"pointwise_weight": torch.zeros(())},
            r"pointwise_weight must be \(out_channels, in_channels \* depth_multiplier / groups, 1, 1\); got the shape",
        ),
        ({"x": X[0], "residual": torch.zeros(8, 9, 9)}, r"have the output's shape \(8, 7, 7\); got \(8, 9, 9\)"),
        ({"x": X[0], "residual": torch.zeros(1, 8, 7, 7)}, r"shape \(8, 7, 7\); got \(1, 8, 7, 7\)"),
        ({"pointwise_activation": ("elu", 10**400)}, "the slope of 'elu' must be a finite number; got "),
        ({"pointwise_activation": ("elu", float("nan"))}, "the slope of 'elu' must be a finite number; got nan"),
        ({"pointwise_activation": ("elu", True)}, "the slope of 'elu' must be a finite number; got True"),
        ({"pointwise_weight": P.half()}, "pointwise_weight has dtype torch.float16"),
        ({"depthwise_weight": torch.zeros(8, 1, 3, 3)}, "depthwise_weight has 8 filters for in_channels=16"),
        ({"depthwise_bias": torch.zeros(3)}, r"depthwise_bias must have the shape \(16,\); got \(3,\)"),
        ({"pointwise_bias": torch.zeros(3)}, r"pointwise_bias must have the shape \(8,\); got \(3,\)"),
        ({"residual": torch.zeros(1, 8, 9, 9)}, r"residual must have the output's shape \(1, 8, 7, 7\); got \(1, 8, 9"),
        ({"residual": 3}, "residual must be a torch.Tensor; got int"),
        ({"x": X[0], "residual": 3}, "residual must be a torch.Tensor; got int"),
        (
            {"depthwise_activation": ("leaky_relu", "big")},
            "the slope of 'leaky_relu' must be a finite number; got 'big'",
        ),
        ({"groups": 3}, "in_channels=16 is not divisible by groups=3"),
        ({"pointwise_activation": "swish"}, "unknown activation 'swish'; known: None, relu, relu6, silu"),
        ({"depthwise_activation": ("relu", 0.1)}, "the activation 'relu' has no slope"),
        ({"depthwise_activation": torch.nn.ReLU()}, r"unknown activation ReLU\(\)"),
    ],
)
def test_separable_errors(arguments: dict[str, Any], message: str) -> None:
    valid: dict[str, Any] = {"x": X, "depthwise_weight": D, "pointwise_weight": P}
    with pytest.raises(DepthwiseError, match=message):
        functional.separable_conv2d(**(valid | arguments))


@pytest.mark.parametrize(
    ("given_name", "settled"),
    [(None, None), ("elu", ("elu", 1.0)), (("elu", 2), ("elu", 2.0)), ("leaky_relu", ("leaky_relu", 0.01))],
)
def test_activation_of(given_name: ActivationName, settled: object) -> None:
    assert activation_of(given_name) == settled


def test_what_was_accepted_once_is_still_checked() -> None:
    functional.depthwise_conv2d(X, D, stride=1)
    functional.depthwise_conv2d(X, D, stride=(1, 1), padding=((1, 1), (1, 1)))
    with pytest.raises(DepthwiseError, match="padding must be an integer; got True"):
        functional.depthwise_conv2d(X, D, stride=(1, 1), padding=((1, True), (1, 1)))
    for wrong in (1.0, True, (1.0, 1.0)):
        with pytest.raises(DepthwiseError, match="stride must be an integer"):
            functional.depthwise_conv2d(X, D, stride=wrong)  # type: ignore[arg-type]


def test_shapes_are_checked_once() -> None:
    x, weight = torch.zeros(1, 3, 11, 13, dtype=torch.float64), torch.zeros(3, 1, 3, 3, dtype=torch.float64)
    functional.depthwise_conv2d(x, weight)
    before = functional._remembered_geometry.cache_info()
    functional.depthwise_conv2d(x, weight)
    after = functional._remembered_geometry.cache_info()
    assert (after.hits - before.hits, after.misses) == (1, before.misses)
