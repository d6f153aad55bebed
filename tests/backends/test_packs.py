"""Weights that packs hold: away when nobody needs them, there to the bit when somebody does."""

from __future__ import annotations

import signal
import threading
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from depthwise.backends.packs import LEAST_BYTES, Packs

NUMBERS = LEAST_BYTES // 4


def is_away(weight: Tensor) -> bool:
    return not weight.numel()


def packed(weight: Tensor, held: Tensor | None = None, *, gives_up: bool = True) -> Packs:
    """Packs that hold a weight, or something else instead."""
    packs, copy = Packs(gives_up=gives_up), weight.clone() if held is None else held
    with packs.weights():
        packs.add("key", copy, [(weight, lambda: copy)])
    return packs


def test_a_weight_is_there_while_it_is_wanted() -> None:
    weight = torch.randn(NUMBERS, 2)
    expected = weight.clone()
    packs = packed(weight)
    assert is_away(weight)
    with pytest.raises(RuntimeError, match="size"):
        torch.ones(3, NUMBERS) @ weight
    for _ in range(2):
        with packs.weights():
            assert torch.equal(weight, expected)
            with packs.weights():
                assert torch.equal(weight, expected)
            assert not is_away(weight)
        assert is_away(weight)
    packs.stay()
    with packs.weights():
        pass
    assert torch.equal(weight, expected)


def test_a_weight_of_other_bits_stays() -> None:
    numbers = torch.randn(NUMBERS)
    for index, number in enumerate((0.0, 1e-40, torch.nan)):
        weight = numbers.clone()
        weight[index] = -number
        held = weight.clone()
        packed(weight, held)
        assert is_away(weight)
        other = held.clone()
        held[index] = 0.0 if number else -number + 0.0
        packed(other, held)
        assert not is_away(other)


def test_a_weight_that_others_read_stays() -> None:
    for weight, gives_up in ((torch.randn(NUMBERS), False), (torch.zeros(NUMBERS - 1), True)):
        packed(weight, gives_up=gives_up).stay()
        assert not is_away(weight)
    kept = torch.randn(NUMBERS)
    packs, copy = Packs(gives_up=True), kept.clone()
    with packs.weights():
        packs.add("key", copy, [(kept, lambda: copy)])
        packs.keep([kept])
    assert not is_away(kept)


def test_a_weight_comes_back_as_it_lay() -> None:
    weight = torch.randn(8, NUMBERS, 3, 3).contiguous(memory_format=torch.channels_last)
    expected, stride = weight.clone(), weight.stride()
    packs = packed(weight, expected.contiguous())
    assert is_away(weight)
    packs.stay()
    assert torch.equal(weight, expected)
    assert weight.stride() == stride


def test_a_weight_in_two_packs_and_one_that_was_packed_twice() -> None:
    weight = torch.randn(NUMBERS)
    expected, packs = weight.clone(), Packs(gives_up=True)
    first, second = weight.clone(), weight.clone()
    with packs.weights():
        assert packs.add("one", first, [(weight, lambda: first)]) is first
        assert packs.add("other", second, [(weight, lambda: second)]) is second
        assert packs.add("one", second, [(weight, lambda: second)]) is first
    assert packs.find("one") is first
    assert packs.find("none") is None
    assert is_away(weight)
    with packs.weights():
        assert torch.equal(weight, expected)


def test_many_threads_find_the_weights_there() -> None:
    weight = torch.randn(NUMBERS)
    expected = weight.clone()
    packs, wrong = packed(weight), []

    def look() -> None:
        for _ in range(100):
            with packs.weights():
                if not torch.equal(weight, expected):
                    wrong.append(1)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert is_away(weight)


def test_an_interrupted_caller_leaves_no_weight_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for weights is interrupted, and the thread that brings them goes on."""
    weights = [torch.randn(NUMBERS) for _ in range(4)]
    expected, packs = [weight.clone() for weight in weights], Packs(gives_up=True)
    held = [weight.clone() for weight in weights]
    entered, goes_on = threading.Event(), threading.Event()

    def numbers(index: int) -> Tensor:
        if threading.current_thread() is not threading.main_thread() and not goes_on.is_set():
            entered.set()
            goes_on.wait()
        return held[index]

    goes_on.set()
    with packs.weights():
        packs.add("key", held, [(w, partial(numbers, index)) for index, w in enumerate(weights)])
    goes_on.clear()

    def interrupted(work: Any) -> None:
        threading.Thread(target=work).start()
        if work == packs._restore:
            entered.wait()
            monkeypatch.undo()
            threading.Timer(0.05, goes_on.set).start()
            raise KeyboardInterrupt

    monkeypatch.setattr("depthwise.backends.packs.apart", interrupted)
    with pytest.raises(KeyboardInterrupt), packs.weights():
        pass
    assert all(map(is_away, weights))
    with packs.weights():
        assert all(map(torch.equal, weights, expected))


def test_default_dtype_and_device_do_no_harm() -> None:
    weight = torch.randn(NUMBERS)
    expected, packs = weight.clone(), packed(weight)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        with packs.weights():
            assert weight.dtype is torch.float32
            assert torch.equal(weight, expected)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


def test_a_handler_finds_the_weights_there_whatever_it_interrupts() -> None:
    weights = [torch.randn(NUMBERS) for _ in range(4)]
    expected, packs = [weight.clone() for weight in weights], Packs(gives_up=True)
    wrong: list[Tensor] = []
    with packs.weights():
        packs.add("key", None, [(w, held.clone) for w, held in zip(weights, expected, strict=True)])

    def look(*_: object) -> None:
        with packs.weights():
            wrong.extend(w for w, held in zip(weights, expected, strict=True) if not torch.equal(w, held))

    before = signal.signal(signal.SIGALRM, look)
    try:
        for turn in range(200):
            signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + turn % 50))
            for _ in range(4):
                look()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not wrong
    assert all(map(is_away, weights))
