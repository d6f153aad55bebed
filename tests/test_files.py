"""Files are tried before the work, and written whatever is in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from depthwise import DepthwiseError
from depthwise.files import check_writable, write_text, writing


def test_nothing_is_left_and_nothing_is_changed(tmp_path: Path) -> None:
    check_writable(tmp_path / "new.html")
    assert not list(tmp_path.iterdir())
    (tmp_path / "old.html").write_text("what was there")
    check_writable(tmp_path / "old.html")
    assert (tmp_path / "old.html").read_text() == "what was there"


def test_what_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DepthwiseError, match=r"cannot write .*none.page\.html: the folder .*none does not exist"):
        check_writable(tmp_path / "none" / "page.html")
    with pytest.raises(DepthwiseError, match=r"cannot write .*: it is a folder"):
        check_writable(tmp_path)
    with pytest.raises(DepthwiseError, match=r"cannot write .*: File name too long"):
        check_writable(tmp_path / ("x" * 300))
    (tmp_path / "file").write_text("")
    with pytest.raises(DepthwiseError, match=r"cannot write .*: the folder .*file does not exist"):
        check_writable(tmp_path / "file" / "page.html")

    def fail(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(DepthwiseError, match=r"cannot write .*page\.html: Read-only file system"):
        check_writable(tmp_path / "page.html")
    with pytest.raises(DepthwiseError, match=r"cannot write .*page\.html: Read-only file system"):
        write_text(tmp_path / "page.html", "text")


def test_what_any_writer_says_is_told(tmp_path: Path) -> None:
    out = tmp_path / "net.pt"
    with pytest.raises(DepthwiseError, match=r"cannot write .*net\.pt: RuntimeError: iostream error$"), writing(out):
        raise RuntimeError("iostream\nerror")
    with pytest.raises(DepthwiseError, match=r"cannot write .*net\.pt: OSError: odd$"), writing(out):
        raise OSError("odd")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and devices")
def test_pipes_and_devices_are_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    check_writable(tmp_path / "pipe")
    check_writable(Path(os.devnull))


def test_half_a_character_is_written_escaped(tmp_path: Path) -> None:
    write_text(tmp_path / "page.html", "layer \udcff, 3×3")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "layer \\udcff, 3×3"
