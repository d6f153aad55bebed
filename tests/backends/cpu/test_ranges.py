"""Free ranges of addresses: what is taken was free, and neighbours are one."""

from __future__ import annotations

from random import Random

import pytest

from depthwise.backends.cpu.run.ranges import Ranges


def test_the_smallest_that_is_large_enough_is_taken_from_its_start() -> None:
    free = Ranges()
    free.add(0, 100, 0)
    free.add(200, 260, 0)
    assert free.take(50) == 200
    assert free.take(11) == 0
    assert free.take(10) == 250
    assert (free.take(90), free.size) == (None, 89)


def test_of_one_size_the_latest_comes_first() -> None:
    free = Ranges()
    free.add(0, 8, -1)
    free.add(16, 24, -3)
    free.add(32, 40, -2)
    assert [each.start for each in free.by_age()] == [0, 32, 16]
    assert [free.take(8) for _ in range(3)] == [16, 32, 0]


def test_neighbours_become_one_as_late_as_the_latest_of_them() -> None:
    free = Ranges()
    free.add(0, 8, -1)
    free.add(16, 24, -3)
    free.add(8, 16, -2)
    (whole,) = free.by_age()
    assert (whole.start, whole.stop, whole.number, free.size) == (0, 24, -3, 24)
    free.take_out(whole, 8, 16)
    assert [(each.start, each.stop) for each in free.by_age()] == [(0, 8), (16, 24)]
    assert free.size == 16


@pytest.mark.parametrize("seed", range(4))
def test_any_turns_leave_what_a_map_of_bytes_says(seed: int) -> None:
    random, free = Random(seed), Ranges()
    held: list[tuple[int, int]] = []
    free.add(0, 256, 0)
    is_free = [True] * 256
    for turn in range(400):
        if held and random.random() < 0.5:
            start, stop = held.pop(random.randrange(len(held)))
            free.add(start, stop, -turn)
            is_free[start:stop] = [True] * (stop - start)
        else:
            size = random.randrange(1, 40)
            begins = free.take(size)
            if begins is not None:
                assert all(is_free[begins : begins + size])
                is_free[begins : begins + size] = [False] * size
                held.append((begins, begins + size))
        spelt = [False] * 256
        for each in free.by_age():
            assert not any(spelt[max(0, each.start - 1) : each.stop + 1])
            spelt[each.start : each.stop] = [True] * each.size
        assert spelt == is_free
        assert free.size == sum(is_free)
