"""Threads: the OpenMP runtime that PyTorch itself loaded, never a second one.

Generated code runs in a team of that runtime, so that `torch.set_num_threads` holds and no two pools share the cores.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Event
from time import perf_counter

import torch
from torch.autograd import profiler
from torch.profiler import record_function

from .driver import RUNTIME_FUNCTIONS

# Of the driver: of the addresses of a table and of the prints of its weights; not 0 where these are not there.
ENTRY = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)

_NAME = re.compile(r"lib(gomp|iomp5|omp)\b.*\.so")
_forked = Event()
# So many times as long as a region took that waited, programs run on one thread: at first, and at most, twice as many
# each time that the cores are found busy again within the longest.
LEAST_REST, MOST_REST = 4, 50
# A region that took so many times as long as another one, and so much longer, waited.
_SLOWEST, _LATE_SECONDS = 4, 0.001
_rest, _alone_until = LEAST_REST, 0.0


@dataclass(frozen=True, slots=True)
class Runtime:
    """The functions of an OpenMP library that generated code needs.

    library:   the library's path
    addresses: of driver.RUNTIME_FUNCTIONS, in that order
    """

    library: str
    addresses: tuple[int, ...]


def runtime() -> Runtime | None:
    """The OpenMP runtime of this process's PyTorch, or None where none was found."""
    found = _find()
    return None if isinstance(found, str) else found


def reason() -> str | None:
    """Why kernels run on one thread whatever PyTorch's number of threads is, or None."""
    if _forked.is_set():
        return "this process was forked, and OpenMP's threads stayed behind"
    found = _find()
    return found if isinstance(found, str) else None


def team_size() -> int:
    """How many threads to ask for: PyTorch's number of threads, as the calling thread sees it."""
    return 1 if _forked.is_set() or isinstance(_find(), str) else torch.get_num_threads()


def launch(
    serial: Callable[[int, int], int],
    parallel: Callable[[int, int], int],
    table: int,
    prints: int,
    threads: int,
    pace: Pace | None = None,
    title: str = "",
) -> int:
    """Run a program on at most `threads` threads, those that its table names; the GIL is free meanwhile.

    A thread of the team that is not running, since others use its core, makes all wait: 4 to 16 ms under Linux. After a
    region that took longer than it can have worked, programs run on one thread for a while, the longer the oftener it
    happens: so little time is lost where a core is always busy, and little of a team's gain where one is now and then.

    serial, parallel: the driver's entries, as ctypes functions
    table, prints:    addresses
    pace:             of the program; None: it always gets its team
    title:            what torch's profiler calls it, where one records
    """
    if profiler._is_profiler_enabled and title:
        with record_function(title):
            return launch(serial, parallel, table, prints, threads, pace)
    if threads == 1 or not _has_team():
        return serial(table, prints)
    start = perf_counter()
    if pace is not None and start < _alone_until:
        return serial(table, prints)
    changed = parallel(table, prints)
    end = perf_counter()
    if pace is not None and pace.is_late(end - start):
        _rest_for(end - start, end)
    return changed


def _rest_for(seconds: float, now: float) -> None:
    """From now on, after a region that took so long."""
    global _rest, _alone_until  # noqa: PLW0603
    # What another thread began before a rest was held up by the same.
    if now >= _alone_until:
        is_soon = now - _alone_until < MOST_REST * seconds
        _rest = min(2 * _rest, MOST_REST) if is_soon else LEAST_REST
    _alone_until = max(_alone_until, now + _rest * seconds)


class Pace:
    """How long a program takes where all of its team runs: an upper bound, which falls with what it took."""

    __slots__ = ("_most_seconds",)

    def __init__(self, most_seconds: float) -> None:
        self._most_seconds = most_seconds

    def is_late(self, seconds: float) -> bool:
        if seconds > self._most_seconds:
            return True
        self._most_seconds = min(self._most_seconds, _SLOWEST * seconds + _LATE_SECONDS)
        return False


@cache
def _has_team() -> bool:
    return reason() is None


@cache
def _find() -> Runtime | str:
    """The runtime, or why there is none."""
    if sys.platform != "linux":
        return f"PyTorch's OpenMP runtime is not looked for under {sys.platform}"
    paths = _mapped_libraries(Path("/proc/self/maps"))
    for path in paths:
        library = _opened(path)
        if library is not None and _is_torchs(library):
            return _runtime(path, library)
    seen = ", ".join(paths) if paths else "none is loaded"
    return f"no OpenMP runtime that follows PyTorch's number of threads was found ({seen})"


def _mapped_libraries(maps: Path) -> list[str]:
    """The OpenMP libraries that this process has loaded; those of PyTorch's own folder first."""
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return []
    paths = dict.fromkeys(line.split(maxsplit=5)[5] for line in lines if "/" in line)
    home = str(Path(torch.__file__).parent)
    return sorted((path for path in paths if _NAME.match(Path(path).name)), key=lambda path: not path.startswith(home))


def _opened(path: str) -> ctypes.CDLL | None:
    """The library already loaded from this path, where it has all that is needed."""
    try:
        library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        for name in ("omp_set_num_threads", *RUNTIME_FUNCTIONS):
            getattr(library, name)
    except (OSError, AttributeError):
        return None
    return library


def _is_torchs(library: ctypes.CDLL) -> bool:
    """Whether PyTorch sees what is set here. The number belongs to the calling thread, so no other one notices."""
    threads = torch.get_num_threads()
    library.omp_set_num_threads(threads + 1)
    try:
        return torch.get_num_threads() == threads + 1
    finally:
        library.omp_set_num_threads(threads)


def _runtime(path: str, library: ctypes.CDLL) -> Runtime:
    addresses = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in RUNTIME_FUNCTIONS]
    return Runtime(path, tuple(addresses))


def _after_fork_in_child() -> None:
    _forked.set()
    _has_team.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
