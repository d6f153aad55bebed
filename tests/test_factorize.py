"""The factors: exact at full rank, least error below it, beside a brute-force search."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from depthwise import DepthwiseError
from depthwise.factorize import compose, factorize


@pytest.mark.parametrize("kernel_size", [(3,), (3, 3), (2, 3, 2)])
@pytest.mark.parametrize("groups", [1, 2])
def test_composing_inverts_factorizing(kernel_size: tuple[int, ...], groups: int) -> None:
    weight = torch.randn(8, 3, *kernel_size, dtype=torch.float64)
    area = int(torch.tensor(kernel_size).prod())
    factors = factorize(weight, min(8 // groups, area), groups)
    torch.testing.assert_close(compose(factors.depthwise, factors.pointwise, 3 * groups, groups), weight)
    assert factors.relative_error < 1e-12


def test_a_kernel_of_low_rank_needs_no_more() -> None:
    made = compose(torch.randn(8, 1, 3, 3), torch.randn(6, 8, 1, 1), in_channels=4)
    assert factorize(made, 2).relative_error < 1e-6
    assert factorize(made, 1).relative_error > 0.1


@pytest.mark.parametrize("multiplier", [1, 2])
def test_no_other_factors_do_better(multiplier: int) -> None:
    weight = torch.randn(4, 2, 3, dtype=torch.float64)
    factors = factorize(weight, multiplier)
    best = compose(factors.depthwise, factors.pointwise, 2)
    least = float((best - weight).norm() / weight.norm())
    assert factors.relative_error == pytest.approx(least)

    depthwise = torch.randn_like(factors.depthwise).requires_grad_()
    pointwise = torch.randn_like(factors.pointwise).requires_grad_()
    search = torch.optim.LBFGS([depthwise, pointwise], max_iter=500, line_search_fn="strong_wolfe")

    def distance() -> float:
        search.zero_grad()
        loss = (compose(depthwise, pointwise, 2) - weight).square().sum()
        loss.backward()
        return float(loss.detach())

    search.step(distance)
    with torch.no_grad():
        found = float((compose(depthwise, pointwise, 2) - weight).norm() / weight.norm())
    assert found >= least - 1e-9
    assert found == pytest.approx(least, rel=1e-3)


def test_both_factors_have_the_same_scale() -> None:
    factors = factorize(torch.randn(16, 4, 3, 3, dtype=torch.float64))
    pointwise_norms = factors.pointwise.flatten(1).norm(dim=0)
    torch.testing.assert_close(factors.depthwise.flatten(1).norm(dim=1), pointwise_norms)


def test_a_kernel_of_zeros() -> None:
    assert factorize(torch.zeros(4, 2, 3)).relative_error == 0


def test_the_dtype_is_kept() -> None:
    factors = factorize(torch.randn(4, 2, 3, 3).bfloat16())
    assert factors.depthwise.dtype == factors.pointwise.dtype == torch.bfloat16


def test_errors() -> None:
    with pytest.raises(
        DepthwiseError, match=r"depth_multiplier=5 is more than a 4 x 9 slice of the kernel has rank: 4"
    ):
        factorize(torch.zeros(4, 2, 3, 3), 5)
    with pytest.raises(DepthwiseError, match="depth_multiplier must be at least 1; got 0"):
        factorize(torch.zeros(4, 2, 3, 3), 0)
    with pytest.raises(DepthwiseError, match="out_channels=6 is not divisible by groups=4"):
        factorize(torch.zeros(6, 4, 3, 3), 1, groups=4)
    wrong: Any
    for wrong in (torch.full((4, 2, 3), float("nan")), torch.zeros(4, 2, 3, dtype=torch.complex64)):
        with pytest.raises(DepthwiseError, match="must be made of finite floating-point numbers"):
            factorize(wrong)
    for wrong, shown in ((3, "3"), (torch.zeros(4, 2), r"\(4, 2\)"), (torch.zeros(4, 0, 3), r"\(4, 0, 3\)")):
        with pytest.raises(
            DepthwiseError, match=rf"must be a tensor \(out_channels, in_channels / groups.*got {shown}"
        ):
            factorize(wrong)
