"""What a process holds in memory, and held at most."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path


def resident(name: str) -> int | None:
    """Bytes of this process in memory now, VmRSS, or at most, VmHWM; None where Linux does not tell."""
    _give_back()
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def forget_the_peak() -> None:
    """Let VmHWM begin anew, at what there is."""
    _give_back()
    # proc(5): 5 resets the peak.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _give_back() -> None:
    """Let nothing count that is free."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
