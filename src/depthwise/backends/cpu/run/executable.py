"""Whether this system lets a process run machine code that it wrote itself."""

from __future__ import annotations

import ctypes
import mmap
import os
from functools import cache


@cache
def refusal() -> str | None:
    """Why no generated code can run in this process, or None; found out with a page that nothing jumps into.

    A loader that is refused this ends in a crash. SELinux refuses it (execmem), systemd (MemoryDenyWriteExecute) and
    Linux itself (PR_SET_MDWE).
    """
    # Other systems have other calls for it, and refuse nothing that Python's own ctypes does without.
    if os.name != "posix":
        return None
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        return f"no memory for code: {error.strerror}"
    page[0] = 0
    error_number = protect(page)
    if not error_number:
        return None
    return (
        f"this system forbids to run code that a process wrote (mprotect: {os.strerror(error_number)}), as SELinux and "
        f"systemd's MemoryDenyWriteExecute do; PyTorch's oneDNN, which needs it too, is switched off "
        f"(torch.backends.mkldnn.enabled)"
    )


def protect(page: mmap.mmap) -> int:
    """Make pages executable and no longer writable; the number of the error, or 0."""
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    first = ctypes.c_char.from_buffer(page)
    failed = protect(ctypes.addressof(first), len(page), mmap.PROT_READ | mmap.PROT_EXEC)
    return ctypes.get_errno() if failed else 0
