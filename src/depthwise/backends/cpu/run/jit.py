"""Verified IR to machine code to addresses: from memory, from disk, or compiled.

LLVM works on threads of its own (apart.py): an interrupt in the midst of it would leave locks taken, and native objects
to the garbage collector, which knows nothing of the order in which they go.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from functools import partial
from weakref import WeakValueDictionary

from ..apart import AbandonedError, Task, apart
from ..disk import store
from ..library import LOCK
from ..machine import Machine
from . import loader
from .code import Code, CompilationError

# Of code that nobody holds any more.
KEPT_MODULES = 512

# Whatever a caller holds is found again; beside that, the modules loaded last stay.
_loaded: WeakValueDictionary[tuple[Machine, str], Code] = WeakValueDictionary()
_kept: deque[Code] = deque(maxlen=KEPT_MODULES)
# Looked up and added to in single steps, without a lock: a signal's handler may ask for what it interrupted.
_pending: dict[tuple[Machine, str], Task[Code]] = {}


def load(key: str, machine: Machine, emit: Callable[[], str]) -> Code:
    """The code of the module that `emit` writes, compiled once per key and machine however many threads ask.

    Where that fails, every thread that waits gets the error, and the next one to ask tries again.
    """
    entry = machine, key
    while True:
        code = _loaded.get(entry)
        if code is not None:
            return code
        try:
            return _pending.setdefault(entry, Task(partial(_load_once, entry, emit))).result()
        except AbandonedError:
            continue


def _load_once(entry: tuple[Machine, str], emit: Callable[[], str]) -> Code:
    machine, key = entry
    try:
        # Another may have been done with it since it was looked for.
        code = _loaded.get(entry)
        if code is None:
            code = _from_disk_or_compiled(key, machine, emit)
            _loaded[entry] = code
            _kept.append(code)
        return code
    finally:
        _pending.pop(entry, None)


def _from_disk_or_compiled(key: str, machine: Machine, emit: Callable[[], str]) -> Code:
    kept = store.read(key, machine)
    if kept is not None:
        try:
            return _placed(kept, machine)
        except loader.DamagedError:
            # Compiled and kept anew.
            pass
    object_code = compile_object(emit(), machine)
    store.write(key, machine, object_code)
    return _placed(object_code, machine)


def _placed(object_code: bytes, machine: Machine) -> Code:
    return loader.loaded(object_code) or link(object_code, machine)


def compile_object(text: str, machine: Machine) -> bytes:
    """The object file of an IR module, verified first; it needs no symbol from outside."""
    with LOCK:
        from . import compiler

        return compiler.compile_object(text, machine)


def link(object_code: bytes, machine: Machine) -> Code:
    """Load an object file of this machine's into the process, by LLVM."""
    with LOCK:
        from . import compiler

        return compiler.link(object_code, machine)


def assembly(text: str, machine: Machine) -> str:
    """What a module is in the machine's own words."""
    return apart(lambda: _assembly(text, machine))


def _assembly(text: str, machine: Machine) -> str:
    with LOCK:
        from . import compiler

        return compiler.assembly(text, machine)


def _after_fork_in_child() -> None:
    # The threads that were at it stayed behind.
    _pending.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

__all__ = ["Code", "CompilationError", "assembly", "compile_object", "link", "load"]
