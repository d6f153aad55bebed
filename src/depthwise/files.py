"""Files that a command writes: tried before the work, written after it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DepthwiseError, said


def check_writable(path: Path) -> None:
    """Raise where a file could not be written, before the work whose result goes there; nothing is changed.

    >>> check_writable(Path("no/such/folder/page.html"))
    Traceback (most recent call last):
    depthwise.errors.DepthwiseError: cannot write no/such/folder/page.html: the folder no/such/folder does not exist
    """
    try:
        if path.is_dir():
            raise DepthwiseError(f"cannot write {path}: it is a folder")
        if not path.parent.is_dir():
            raise DepthwiseError(f"cannot write {path}: the folder {path.parent} does not exist")
        is_new = not os.path.lexists(path)
        # Pipes and devices say nothing before they are written to.
        if not is_new and path.exists() and not path.is_file():
            return
        path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise _unwritten(path, error) from error


def write_text(path: Path, content: str) -> None:
    """Write a file in UTF-8; half a character, as in names that are no text, is written escaped."""
    with writing(path):
        path.write_text(content, encoding="utf-8", errors="backslashreplace")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell in our words what fails while a file is written, by whatever writer."""
    try:
        yield
    except OSError as error:
        raise _unwritten(path, error) from error
    # torch and safetensors have errors of their own for a full disk.
    except Exception as error:
        raise DepthwiseError(f"cannot write {path}: {said(error)}") from error


def _unwritten(path: Path, error: OSError) -> DepthwiseError:
    return DepthwiseError(f"cannot write {path}: {error.strerror or said(error)}")
