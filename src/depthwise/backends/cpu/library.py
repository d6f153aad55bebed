"""LLVM's library: loaded when a kernel is first compiled, for a process whose kernels are all on disk needs none of it.

It is 40 MiB of memory, and takes longer to load than a kernel that was kept.
"""

from __future__ import annotations

import os
from threading import RLock
from typing import Any

# Held while LLVM is loaded or works, and across a fork: no child is born with LLVM's locks, or an import's, held by a
# thread that it does not have. llvmlite runs one call at a time anyway; emitters run outside.
LOCK = RLock()


def llvm() -> Any:
    """The binding of the library, loaded now if it was not before."""
    with LOCK:
        import llvmlite.binding as found

    return found


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)
