"""Measured peaks: plausible beside what PyTorch's own matrix product reaches, and beside each other."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from depthwise.backends.cpu import machine, peak
from depthwise.backends.cpu.run import threads

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")

SECONDS = 0.03


def gemm_gflops(size: int = 768) -> float:
    """The best of some products on one thread."""
    torch.set_num_threads(1)
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best * 1e-9


def best(measure: Callable[[int, float], float], team: int = 1) -> float:
    return max(measure(team, SECONDS) for _ in range(3))


def test_no_product_is_faster_than_the_peak() -> None:
    # Clocks move on a shared machine: what is measured in turn may differ by some of it.
    for _ in range(5):
        product, fma = gemm_gflops(), best(peak.fma_gflops)
        if 0.3 * fma < product < 1.15 * fma:
            return
    raise AssertionError(f"a matrix product does {product:.0f} GFLOP/s, and the peak would be {fma:.0f}")


def test_loads_and_stores_are_in_proportion() -> None:
    found = machine.host()
    assert found is not None
    lanes = found.vector_lanes
    for _ in range(5):
        fma, load, store = best(peak.fma_gflops), best(peak.load_gbytes), best(peak.store_gbytes)
        # In vectors a nanosecond: at most four multiply-adds, loads or stores a cycle of at most 7 GHz.
        rates = fma / (2 * lanes), load / (4 * lanes), store / (4 * lanes)
        if all(0.1 < rate < 28 for rate in rates) and store <= 1.2 * load:
            return
    raise AssertionError(f"implausible: {fma:.0f} GFLOP/s, {load:.0f} GB/s loaded, {store:.0f} GB/s stored")


@pytest.mark.parametrize("measure", [peak.fma_gflops, peak.load_gbytes, peak.store_gbytes])
def test_two_threads_do_more_than_none(measure: Callable[[int, float], float]) -> None:
    if threads.reason() is None:
        assert measure(2, SECONDS) > 0
    assert measure(1, 0) > 0
