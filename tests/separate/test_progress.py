"""Bars are for a terminal: nowhere else is anything written."""

from __future__ import annotations

import pytest

from depthwise import separate_
from depthwise.separate.progress import shown_count, shown_steps
from tests.support.dense import convolutional, images


@pytest.fixture
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    # rich's own switch.
    monkeypatch.setenv("FORCE_COLOR", "1")


@pytest.mark.usefixtures("_terminal")
@pytest.mark.parametrize("shown", [True, False])
def test_bars_on_a_terminal_where_they_are_wanted(shown: bool, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[str, int, int]] = []
    with shown_steps(lambda *step: seen.append(step), shown=shown) as step:
        step("weigh", 1, 2)
    with shown_count("epoch", 3, shown=shown) as advance:
        advance(2)
    assert seen == [("weigh", 1, 2)]
    out, err = capsys.readouterr()
    assert not out
    assert ("weigh layers" in err, "epoch" in err) == (shown, shown)


def test_nothing_is_written_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []
    separate_(convolutional(), images(32), budget=0.5, on_step=lambda what, *_: seen.append(what))
    assert {"weigh", "separate"} <= {*seen}
    assert capsys.readouterr() == ("", "")
