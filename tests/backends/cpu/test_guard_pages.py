"""No kernel touches a byte beside its buffers: in a process of its own, a fault is a failed test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from depthwise.backends.cpu.machine import Machine
from tests.support.kernels import HERE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mprotect, and what a fault does, as under Linux")
on_each_machine = pytest.mark.parametrize("target", HERE, ids=lambda target: target.isa)
some_machine = pytest.mark.skipif(not HERE, reason="no generator serves this machine")
ROOT = Path(__file__).parents[3]


def run_guarded(target: Machine, *what: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.support.guarded", target.isa, *what]
    return subprocess.run(command, cwd=ROOT, env=os.environ, timeout=1200, check=False, capture_output=True, text=True)


@on_each_machine
@pytest.mark.parametrize(
    "what",
    [
        ("tails", "network", "dense", "excited", "expanded", "fresh", "images", "norms", "gates"),
        pytest.param(("series", "all"), marks=pytest.mark.slow),
    ],
    ids=["some", "all"],
)
def test_the_tails_stay_inside_their_buffers(target: Machine, what: tuple[str, ...]) -> None:
    result = run_guarded(target, *what)
    assert (result.returncode, result.stderr) == (0, "")


@some_machine
def test_a_kernel_told_wrong_numbers_dies() -> None:
    result = run_guarded(HERE[-1], "planted")
    assert result.returncode == 0, result.stderr[-2000:]


@some_machine
@pytest.mark.parametrize("what", ["in_x", "dense told wrong"])
def test_a_fault_is_seen_here(what: str) -> None:
    result = run_guarded(HERE[0], what)
    assert result.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in result.stderr
