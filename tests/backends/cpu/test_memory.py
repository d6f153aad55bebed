"""Buffers that are kept: how many bytes, and for how long."""

from __future__ import annotations

import sys
import threading
import weakref

import pytest
import torch

from depthwise.backends.cpu.plan.filters import MOST_ZEROS
from depthwise.backends.cpu.run import memory


def test_zeros_are_kept_once_for_each_power_of_two() -> None:
    kept = {memory.zeros(count).data_ptr(): memory.zeros(count).numel() for count in range(0, MOST_ZEROS, 997)}
    assert len(kept) <= MOST_ZEROS.bit_length() + 1
    assert 4 * sum(kept.values()) <= 16 * memory.MIB
    for count in (0, 1, 2, 3, 1000, MOST_ZEROS):
        assert memory.zeros(count).numel() >= count
        assert not memory.zeros(count).any()


def test_scratch_grows_and_is_kept_by_its_thread() -> None:
    def work() -> None:
        small, large = memory.scratch(100), memory.scratch(5000)
        assert (small.size, large.size) == (100, 5000)
        assert memory.scratch(100) is large
        assert large.tensor is not None
        seen.append(weakref.ref(large.tensor))

    seen: list[weakref.ref[torch.Tensor]] = []
    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(seen) == 2
    assert [tensor() for tensor in seen] == [None, None]


@pytest.mark.parametrize(("more", "kept"), [(0, True), (1, False)])
def test_large_scratch_is_not_kept(monkeypatch: pytest.MonkeyPatch, more: int, kept: bool) -> None:
    monkeypatch.setattr(memory, "MOST_KEPT_BYTES", 10_000)
    monkeypatch.setattr(memory, "_buffers", threading.local())
    buffer = memory.scratch(10_000 + more)
    assert (memory.scratch(10) is buffer) is kept


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked for huge pages")
def test_lasting_memory_begins_with_a_huge_page() -> None:
    for elements in (1, 1 << 19, (1 << 19) + 1):
        found = memory.lasting(elements)
        assert found is not None
        assert (found.numel(), found.data_ptr() % memory.HUGE_PAGE_BYTES) == (elements, 0)
        found.fill_(1.0)
        assert found.sum() == elements


def test_lasting_memory_is_not_asked_of_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAPS", False)
    assert memory.lasting(1) is None
