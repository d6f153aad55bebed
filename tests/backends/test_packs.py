"""Weights that packs hold: away when nobody needs them, there to the bit when somebody does."""

from __future__ import annotations

import threading

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
