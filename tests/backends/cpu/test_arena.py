"""Arenas: no two buffers in one place at one time, none of it wasted; and who waits for whom."""

from __future__ import annotations

from itertools import combinations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from depthwise.backends.cpu.run import arena
from depthwise.backends.cpu.run.arena import Access, Life, Region, lives, places, waits

LIVES = st.lists(
    st.tuples(st.integers(1, 100), st.integers(0, 8), st.integers(0, 4)).map(lambda t: Life(t[0], t[1], t[1] + t[2])),
    max_size=12,
)


def clash(buffers: dict[str, Life]) -> bool:
    """Whether two buffers lie over each other at one time."""
    found, used = places(buffers)
    ends = {name: found[name] + buffers[name].elements for name in buffers}
    assert all(found[name] >= 0 and ends[name] <= used for name in buffers)
    return any(
        buffers[a].meets(buffers[b]) and found[a] < ends[b] and found[b] < ends[a] for a, b in combinations(buffers, 2)
    )


@given(LIVES)
def test_what_lives_at_one_time_lies_apart(drawn: list[Life]) -> None:
    buffers = {str(number): life for number, life in enumerate(drawn)}
    found, used = places(buffers)
    assert not clash(buffers)
    assert all(begin % arena.LINE_ELEMENTS == 0 for begin in found.values())
    assert used <= sum(-(-life.elements // 16) * 16 for life in drawn)


def test_a_chain_needs_two_buffers() -> None:
    buffers = {str(n): Life(160, n, n + 1) for n in range(9)}
    assert places(buffers)[1] == 320


def test_a_place_that_is_large_enough_is_taken_again() -> None:
    buffers = {"large": Life(320, 0, 1), "small": Life(32, 2, 3), "other": Life(64, 2, 3), "long": Life(16, 0, 3)}
    assert places(buffers) == ({"large": 0, "other": 0, "small": 64, "long": 320}, 336)


def test_lives_go_from_the_first_use_to_the_last() -> None:
    assert lives([["a"], ["a", "b", "x"], ["b"], ["a"]], {"a": 3, "b": 4, "c": 5}) == {
        "a": Life(3, 0, 3),
        "b": Life(4, 1, 2),
    }


def test_the_check_of_clashes_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Life, "meets", lambda *_: False)
    one, other = Life(16, 0, 1), Life(16, 1, 2)
    assert places({"a": one, "b": other})[0] == {"a": 0, "b": 0}
    monkeypatch.undo()
    assert not clash({"a": one, "b": other})


REGIONS = st.one_of(
    st.sampled_from("xyz").map(Region),
    st.tuples(st.integers(0, 9), st.integers(1, 5)).map(lambda t: Region(None, t[0], t[0] + t[1])),
)
SETS = st.lists(REGIONS, max_size=3).map(tuple)
ACCESSES = st.lists(st.builds(Access, st.integers(1, 2), SETS, SETS), max_size=8)


@given(ACCESSES)
def test_whatever_another_thread_does_is_waited_for(accesses: list[Access]) -> None:
    found = waits(accesses)
    for first, later in combinations(range(len(accesses)), 2):
        one, other = accesses[first], accesses[later]
        meets = [
            *(a.meets(b) for a in one.writes for b in (*other.reads, *other.writes)),
            *(a.meets(b) for a in one.reads for b in other.writes),
        ]
        if any(meets) and not one.team == other.team == 1:
            assert any(found[first + 1 : later + 1])


def test_nobody_waits_in_vain() -> None:
    x, a, b, c = (Region(name) for name in "xabc")
    branches = (Access(2, (x,), (a,)), Access(2, (x,), (b,)), Access(2, (a, b), (c,)), Access(1, (c,), (x,)))
    assert waits(branches) == (False, False, True, True)
    alone = (Access(1, (x,), (a,)), Access(1, (a,), (b,)), Access(2, (b,), (c,)))
    assert waits(alone) == (False, False, True)


def test_memory_used_again_is_waited_for() -> None:
    x, slot = Region("x"), Region(None, 0, 16)
    assert waits((Access(2, (x,), (slot,)), Access(2, (slot,), (Region("y"),)), Access(2, (x,), (slot,)))) == (
        False,
        True,
        True,
    )


def test_pieces_of_one_buffer_are_written_side_by_side() -> None:
    whole = Region(None, 0, 40)
    left, right, over = (Region(None, 0, 40, piece) for piece in ((10, 0, 4), (10, 4, 10), (10, 3, 5)))
    assert not left.meets(right)
    assert left.meets(over)
    assert left.meets(whole)
    assert whole.meets(left)
    assert left.meets(Region(None, 0, 40, (8, 4, 8)))
    assert left.meets(Region(None, 8, 48, (10, 4, 10)))
    x = Region("x")
    copies = (Access(2, (x,), (left,)), Access(2, (x,), (right,)), Access(2, (whole,), (x,)))
    assert waits(copies) == (False, False, True)
