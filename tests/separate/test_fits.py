"""The fits on moments: exact where they can be, never worse than the SVD, and what brute force finds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from depthwise.separate import depthwise_first, pointwise_first, sample
from depthwise.separate.moments import Moments
from depthwise.separate.quadratic import Quadratic, quadratic_
from depthwise.separate.sample import Sample

GROUPS, CHANNELS, OUTPUTS, AREA, ROWS = 2, 3, 4, 3, 400


def rows(seed: int = 0, mean: float = 0.5) -> tuple[Tensor, Tensor]:
    """Correlated patches and a kernel."""
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(GROUPS, CHANNELS * AREA, CHANNELS * AREA, generator=draw, dtype=torch.float64)
    u = torch.randn(GROUPS, ROWS, CHANNELS * AREA, generator=draw, dtype=torch.float64) @ mixed + mean
    return u, torch.randn(GROUPS, OUTPUTS, CHANNELS * AREA, generator=draw, dtype=torch.float64)


def evidence(u: Tensor, t: Tensor, *, free_mean: bool = False, weights: Tensor | None = None) -> Quadratic:
    moments = Moments.zeros(GROUPS, CHANNELS * AREA, OUTPUTS)
    for few, wanted in zip(u.split(150, 1), t.split(150, 1), strict=True):
        moments.add(few, wanted)
    if weights is None:
        weights = torch.ones(GROUPS, OUTPUTS, dtype=torch.float64)
    return quadratic_(moments, AREA, weights, free_mean=free_mean)


@pytest.mark.parametrize("free_mean", [False, True])
def test_the_quadratic_is_the_error(free_mean: bool) -> None:
    u, kernel = rows()
    t = u @ kernel.mT + 3
    other = kernel + torch.randn_like(kernel)
    weights = torch.rand(GROUPS, OUTPUTS, dtype=torch.float64)
    missed = t - u @ other.mT
    wanted = t
    if free_mean:
        missed, wanted = missed - missed.mean(1, keepdim=True), t - t.mean(1, keepdim=True)
    expected = (weights * missed.square().mean(1)).sum() / (weights * wanted.square().mean(1)).sum()
    q = evidence(u, t, free_mean=free_mean, weights=weights)
    assert q.error(other) == pytest.approx(float(expected), rel=1e-9)
    if free_mean:
        assert q.error(kernel) < 1e-12
        spread = (u @ other.mT).var(1, correction=0)
        torch.testing.assert_close(q.variance(other), spread)


@pytest.mark.parametrize("multiplier", [1, 2, 3])
def test_the_svd_is_the_least_frobenius_error_that_brute_force_finds(multiplier: int) -> None:
    kernel = rows()[1]
    start = depthwise_first.start(kernel, multiplier, AREA)
    least = float((start.kernel - kernel).norm())
    parts = [torch.randn(part.shape, dtype=part.dtype).requires_grad_() for part in (start.filters, start.mixing)]
    search = torch.optim.LBFGS(parts, max_iter=400, line_search_fn="strong_wolfe")

    def distance() -> float:
        search.zero_grad()
        loss = (depthwise_first.DepthwiseFirst(*parts).kernel - kernel).square().sum()
        loss.backward()
        return float(loss.detach())

    search.step(distance)
    with torch.no_grad():
        found = float((depthwise_first.DepthwiseFirst(*parts).kernel - kernel).norm())
    assert found >= least - 1e-6
    assert found == pytest.approx(least, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("free_mean", [False, True])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_each_refit_lowers_the_error(multiplier: int, free_mean: bool) -> None:
    u, kernel = rows()
    q = evidence(u, u @ kernel.mT, free_mean=free_mean)
    start = depthwise_first.start(kernel, multiplier, AREA)
    mixed = depthwise_first.refit_mixing(q, start)
    best = depthwise_first.refit(q, start, 60)
    assert q.error(best.kernel) < q.error(mixed.kernel) < q.error(start.kernel)


def test_the_mixing_is_what_least_squares_gives() -> None:
    u, kernel = rows()
    t = u @ kernel.mT + torch.randn(GROUPS, ROWS, OUTPUTS, dtype=torch.float64)
    start = depthwise_first.start(kernel, 1, AREA)
    found = depthwise_first.refit_mixing(evidence(u, t), start)
    filtered = torch.einsum("gnck,gcmk->gncm", u.unflatten(2, (CHANNELS, AREA)), start.filters)
    expected = torch.linalg.lstsq(filtered.flatten(2), t).solution.mT
    torch.testing.assert_close(found.mixing.flatten(2), expected, rtol=1e-4, atol=1e-4)


def test_the_refit_finds_as_little_as_many_random_starts() -> None:
    u, kernel = rows(3)
    q = evidence(u, u @ kernel.mT)
    found = q.error(depthwise_first.refit(q, depthwise_first.start(kernel, 1, AREA), 200).kernel)
    tries = []
    for seed in range(8):
        torch.manual_seed(seed)
        start = depthwise_first.start(torch.randn_like(kernel), 1, AREA)
        tries.append(q.error(depthwise_first.refit(q, start, 200).kernel))
    assert found <= 1.1 * min(tries)


def test_the_mirror() -> None:
    u, kernel = rows()
    q = evidence(u, u @ kernel.mT)
    start = pointwise_first.start(kernel, AREA)
    mixed, best = pointwise_first.refit_mixing(q, start), pointwise_first.refit(q, start, 30)
    assert q.error(best.kernel) < q.error(mixed.kernel) < q.error(start.kernel)
    # A kernel that is one is found exactly, from the weights and from the data.
    exact = pointwise_first.start(start.kernel, AREA)
    torch.testing.assert_close(exact.kernel, start.kernel)
    target = evidence(u, u @ start.kernel.mT)
    assert target.error(pointwise_first.refit(target, start, 30).kernel) < 1e-9
    torch.testing.assert_close(pointwise_first.refit(target, exact, 5).kernel, start.kernel)
    # Outputs do not depend on how many are solved for together.
    whole, pointwise_first.CHUNK_BYTES = pointwise_first.CHUNK_BYTES, 1
    try:
        torch.testing.assert_close(pointwise_first.refit(q, start, 30).kernel, best.kernel)
    finally:
        pointwise_first.CHUNK_BYTES = whole


def test_full_rank_stays_exact() -> None:
    u, kernel = rows()
    q = evidence(u, u @ kernel.mT)
    for multiplier in (AREA, min(AREA, OUTPUTS)):
        found = depthwise_first.refit(q, depthwise_first.start(kernel, multiplier, AREA), 20)
        torch.testing.assert_close(found.kernel, kernel, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("dead", [1, CHANNELS])
def test_what_the_data_do_not_show_keeps_the_weights(dead: int) -> None:
    u, kernel = rows()
    u = u.unflatten(2, (CHANNELS, AREA)).clone()
    u[:, :, :dead] = 0
    q = evidence(u.flatten(2), u.flatten(2) @ kernel.mT)
    start = depthwise_first.start(kernel, 1, AREA)
    found = depthwise_first.refit(q, start, 20)
    assert found.kernel.isfinite().all()
    torch.testing.assert_close(found.mixing[:, :, :dead], start.mixing[:, :, :dead])
    assert q.error(found.kernel) <= q.error(start.kernel)
    assert depthwise_first.unseen(q, found.filters) == GROUPS * dead
    mirror = pointwise_first.refit(q, pointwise_first.start(kernel, AREA), 3)
    assert mirror.kernel.isfinite().all()


def test_fewer_rows_than_unknowns_is_told() -> None:
    u, kernel = rows()
    q = evidence(u[:, :2], u[:, :2] @ kernel.mT)
    start = depthwise_first.start(kernel, 2, AREA)
    assert depthwise_first.unseen(q, start.filters) == GROUPS * (2 * CHANNELS - 2)
    assert q.error(depthwise_first.refit(q, start, 10).kernel) <= q.error(start.kernel)


def test_nan_is_never_the_least_error() -> None:
    u, kernel = rows()
    few = Sample(GROUPS, CHANNELS * AREA, OUTPUTS, ROWS, AREA, torch.device("cpu"))
    few.add(u, u @ kernel.mT)
    few.settle_(torch.ones(GROUPS, OUTPUTS, dtype=torch.float64), free_mean=False)
    for each in (evidence(u, u @ kernel.mT), few):
        assert each.error(kernel * float("nan")) == float("inf")


def test_a_search_that_overflows_ends_in_the_best_that_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    u, kernel = rows()
    q = evidence(u, u @ kernel.mT)
    start = depthwise_first.start(kernel, 1, AREA)

    def far(search: torch.optim.LBFGS, left: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            search.param_groups[0]["params"][0].fill_(float("nan"))
        left()

    monkeypatch.setattr(torch.optim.LBFGS, "step", far)
    found = depthwise_first.refit(q, start, 60)
    torch.testing.assert_close(found.kernel, depthwise_first.refit_mixing(q, start).kernel)


def test_an_output_of_more_weight_is_fitted_better() -> None:
    u, kernel = rows()
    weights = torch.ones(GROUPS, OUTPUTS, dtype=torch.float64)
    start = depthwise_first.start(kernel, 1, AREA)
    plain = evidence(u, u @ kernel.mT, weights=weights)
    heavy = evidence(u, u @ kernel.mT, weights=weights * torch.tensor([100.0, 1.0, 1.0, 1.0]))
    before = plain.of_outputs(depthwise_first.refit(plain, start, 60).kernel)
    after = plain.of_outputs(depthwise_first.refit(heavy, start, 60).kernel)
    assert (after[:, 0] < before[:, 0]).all()


@pytest.mark.parametrize("free_mean", [False, True])
def test_a_sample_says_what_moments_say_and_is_bounded(free_mean: bool) -> None:
    u, kernel = rows()
    t = u @ kernel.mT + 1
    weights = torch.rand(GROUPS, OUTPUTS, dtype=torch.float64) + 0.5
    q = evidence(u, t, free_mean=free_mean, weights=weights)
    few = Sample(GROUPS, CHANNELS * AREA, OUTPUTS, ROWS, AREA, torch.device("cpu"))
    few.add(u[:, :300], t[:, :300])
    few.add(u[:, 300:], t[:, 300:])
    few.add(u, t)
    assert few.count == ROWS
    few.settle_(weights, free_mean=free_mean)
    start = depthwise_first.start(kernel, 1, AREA)
    assert few.error(start.kernel) == pytest.approx(q.error(start.kernel), rel=1e-4)
    torch.testing.assert_close(few.variance(start.kernel), q.variance(start.kernel), rtol=1e-4, atol=1e-4)
    for own, others in zip(few.normal_equations(start.filters), q.normal_equations(start.filters), strict=True):
        torch.testing.assert_close(own, others, rtol=1e-4, atol=1e-3)
    mixed = depthwise_first.refit_mixing(few, start)
    assert few.error(sample.refit(few, start).kernel) < few.error(mixed.kernel)
