"""Work on a thread of its own, which no signal's handler interrupts: Python runs these on the main thread alone.

Whoever waits for it may be interrupted; the work goes on, and the others that wait get what it gave.
"""

from __future__ import annotations

import atexit
import os
import sys
from _thread import start_new_thread
from collections.abc import Callable
from threading import Lock, get_ident
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class AbandonedError(Exception):
    """The thread that was at it is gone: it stayed behind in a fork, or was killed. Whoever waited may begin anew."""


class Task(Generic[T]):
    """One piece of work, done once however many threads wait for it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._claim = Lock()
        self._worker: int | None = None
        self._is_over = False
        self._results: list[T] = []
        self._error: Exception | None = None
        # One for each call that waits, so that none holds what another one needs, whenever it is interrupted.
        self._waiting: list[Lock] = []

    def result(self) -> T:
        """What the work gives, or its error."""
        if self._worker == get_ident() and not self._is_over:
            # Asked for by a handler that interrupted the work, where that had to be done on this thread.
            return self._work()
        mine = self._waiter()
        if not self._claim.locked():
            # Those that come at the same time start a thread each; one of them finds the work to do.
            self._start()
        self._wait(mine)
        try:
            if self._error is not None:
                raise self._error
            if not self._results:
                raise AbandonedError
            return self._results[0]
        finally:
            # An error holds this frame, and must not be held by it.
            del self

    def wait(self) -> None:
        """Until it is over."""
        self._wait(self._waiter())

    def _waiter(self) -> Any:
        mine = Lock()
        mine.acquire()
        self._waiting.append(mine)
        return mine

    def _wait(self, mine: Any) -> None:
        if not self._is_over:
            mine.acquire()

    def _start(self) -> None:
        if sys.is_finalizing():
            # A new thread would wait for ever.
            self._run()
            return
        _begun.add(self)
        try:
            # threading.Thread would wait until it runs: for ever in a child that a handler forks meanwhile.
            start_new_thread(self._run, ())
        except RuntimeError:
            # Where there are too many, or the interpreter ends, there is no new one.
            self._run()
        except BaseException:
            _begun.discard(self)
            raise
        if self._is_over:
            # Another one's thread was done with it before it was added here.
            _begun.discard(self)

    def _run(self) -> None:
        if not self._claim.acquire(blocking=False):
            return
        self._worker = get_ident()
        try:
            self._results.append(self._work())
        except Exception as error:  # noqa: BLE001  it is raised where the result is asked for
            self._error = error
        finally:
            self.end()
            del self

    def end(self) -> None:
        """Wake all that wait."""
        self._is_over = True
        _begun.discard(self)
        for waiting in self._waiting:
            waiting.release()


_begun: set[Task[Any]] = set()


def apart(work: Callable[[], T]) -> T:
    """What `work` gives, from a thread of its own."""
    while True:
        try:
            return Task(work).result()
        except AbandonedError:
            continue


def _at_exit() -> None:
    # Native code must not go on while the process takes it down.
    for task in tuple(_begun):
        task.wait()


atexit.register(_at_exit)


def _after_fork_in_child() -> None:
    # Where a handler forked, what it interrupted goes on in the child, and may wait for a thread that the child lacks.
    for task in tuple(_begun):
        task.end()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
