"""Locks that neither a signal's handler nor a forked child waits for in vain."""

from __future__ import annotations

import os
from threading import RLock
from typing import Any
from weakref import WeakSet


class Lock:
    """`with lock.mine:` holds it: a handler may hold it too while the thread that it interrupts does.

    A child of a fork has a lock of its own: another thread may have held the parent's, and stayed behind.
    """

    def __init__(self) -> None:
        self.mine: Any = RLock()
        _locks.add(self)


_locks: WeakSet[Lock] = WeakSet()


def _after_fork_in_child() -> None:
    for lock in tuple(_locks):
        # Whoever holds the old one, since its handler forked, lets go of that.
        lock.mine = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
