"""The machine's own peaks, measured: what every fraction is a fraction of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter

import torch

from ..errors import DepthwiseError
from .roofline import ITEM_BYTES, Peaks

# Larger than any cache here: 64 MiB of float32.
STREAM_ITEMS = 1 << 24


def measured_peaks(threads: int, seconds: float = 0.2) -> Peaks:
    """The peaks of `threads` threads; the arithmetic ones by generated kernels, None where none is generated here."""
    memory = _copied_gbytes(threads, STREAM_ITEMS)
    try:
        # Here, not above: importing depthwise must load no LLVM.
        from ..backends.cpu import machine, peak

        host = machine.host()
        fma = peak.fma_gflops(threads, seconds)
        loads, stores = peak.load_gbytes(threads), peak.store_gbytes(threads)
    except (ImportError, DepthwiseError) as error:
        return Peaks(threads, None, None, None, memory, 1, f"no kernel measures the peak here: {error}")
    peaks = Peaks(threads, fma, loads, stores, memory, 1 if host is None else host.narrow_lanes)
    if host is None:
        return peaks
    l2_bytes = threads * host.l2_bytes
    # Two tensors.
    beyond = _copied_gbytes(threads, 4 * l2_bytes // ITEM_BYTES // 2, rounds=20)
    return replace(peaks, l2_bytes=l2_bytes, beyond_gbytes=beyond)


def refreshed(peaks: Peaks, seconds: float = 0.03) -> Peaks:
    """The same with the FMA peak as it is now: clocks and neighbours change it."""
    if peaks.fma_gflops is None:
        return peaks
    from ..backends.cpu import peak

    return replace(peaks, fma_gflops=peak.fma_gflops(peaks.threads, seconds))


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let torch use this many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _copied_gbytes(threads: int, items: int, rounds: int = 5) -> float:
    source, target = torch.ones(items), torch.ones(items)
    times = []
    with torch_threads(threads):
        for _ in range(rounds):
            start = perf_counter()
            target.copy_(source)
            times.append(perf_counter() - start)
    return 2 * source.nbytes / min(times) / 1e9
