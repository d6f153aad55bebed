"""What a CPU is to the generator: vectors, registers, caches, and what LLVM calls it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .apart import apart
from .disk import store
from .library import llvm

KIB = 1024
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Machine:
    """One instruction set at its width, with the caches of one core.

    vector_lanes: float32 numbers in a vector; vector_registers: how many the code may name
    triple, cpu, features: LLVM's names of the target
    in_halves: vectors of 512 bits are multiplied in two halves
    """

    isa: str
    vector_lanes: int
    vector_registers: int
    triple: str
    cpu: str
    features: str
    l1_bytes: int = 32 * KIB
    l2_bytes: int = 512 * KIB
    in_halves: bool = False

    @property
    def kind(self) -> str:
        """What plans are tuned for: tuning.py has a row for each."""
        return "avx512 in halves" if self.isa == "avx512" and self.in_halves else self.isa

    @property
    def narrow_lanes(self) -> int:
        """Lanes of the narrowest vectors that multiply as many numbers in a given time as the widest."""
        return self.vector_lanes // 2 if self.in_halves else self.vector_lanes


@cache
def host() -> Machine | None:
    """The machine this process runs on; None where no generator serves it."""
    return apart(_host)


def _host() -> Machine | None:
    return machine_of(*_target())


def _target() -> tuple[str, str, dict[str, bool]]:
    """What LLVM calls this machine, its CPU and that one's features: kept for CPUs of which Linux says the same."""
    called = _called()
    kept = store.read("target", called) if called else None
    if kept is not None:
        triple, cpu, flags = json.loads(kept)
        return triple, cpu, flags
    found = _asked()
    if called:
        store.write("target", called, json.dumps(found).encode())
    return found


def _asked() -> tuple[str, str, dict[str, bool]]:
    binding = llvm()
    return binding.get_process_triple(), binding.get_host_cpu_name(), dict(binding.get_host_cpu_features())


def _called() -> str:
    """All that this system says of its first CPU and that stays; empty where it says nothing."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    except OSError:
        return ""
    changing = ("cpu MHz", "bogomips", "BogoMIPS")
    lines = [line for line in first.splitlines() if not line.startswith(changing)]
    system = os.uname()
    return "\n".join([system.sysname, system.release, system.machine, *lines]) if lines else ""


def machine_of(triple: str, cpu: str, flags: Mapping[str, bool]) -> Machine | None:
    """The machine that LLVM calls so; None where no generator serves it."""
    listed = ",".join(f"{'+' if has else '-'}{name}" for name, has in sorted(flags.items()))
    l1_bytes, l2_bytes = _cache_bytes(1, 32 * KIB), _cache_bytes(2, 512 * KIB)
    if triple.startswith("x86_64"):
        # Without it LLVM prefers vectors of 256 bits on some CPUs.
        features = ",".join([listed, "-prefer-256-bit"])
        if all(flags.get(name) for name in ("avx512f", "avx512dq", "avx512bw", "avx512vl")):
            return Machine("avx512", 16, 32, triple, cpu, features, l1_bytes, l2_bytes, _multiplies_in_halves(flags))
        if flags.get("avx2") and flags.get("fma"):
            return Machine("avx2", 8, 16, triple, cpu, features, l1_bytes, l2_bytes)
    if triple.startswith(("aarch64", "arm64")):
        return Machine("neon", 4, 32, triple, cpu, listed, l1_bytes, l2_bytes)
    return None


def _multiplies_in_halves(flags: Mapping[str, bool]) -> bool:
    """Whether this is the first of AMD's cores with AVX-512: SSE4a is AMD's alone, the next ones have VP2INTERSECT."""
    return bool(flags.get("sse4a")) and not flags.get("avx512vp2intersect")


def avx2() -> Machine:
    """The least x86 machine that the generator serves, whatever this one is."""
    return Machine("avx2", 8, 16, apart(lambda: llvm().get_process_triple()), "x86-64-v3", "")


def neon() -> Machine:
    """Any 64-bit Arm under Linux."""
    return Machine("neon", 4, 32, "aarch64-unknown-linux-gnu", "generic", "+neon")


def _cache_bytes(level: int, default: int) -> int:
    """Size of this core's data cache, where Linux says it."""
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            kind, size = (index / "type").read_text().strip(), (index / "size").read_text().strip()
            if int((index / "level").read_text()) == level and kind in ("Data", "Unified") and size.endswith("K"):
                return int(size[:-1]) * KIB
        except OSError:
            continue
    names = {1: "SC_LEVEL1_DCACHE_SIZE", 2: "SC_LEVEL2_CACHE_SIZE"}
    return max(0, os.sysconf(names[level])) or default if names[level] in os.sysconf_names else default
