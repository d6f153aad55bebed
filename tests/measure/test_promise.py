"""The promise kept."""

from depthwise.measure.promise import promise_kept


def test_a_promise_kept_wholly_is_1() -> None:
    assert promise_kept(8.0, 1.0, 800, 100) == 1
