"""A system that forbids generated code is noticed before anything jumps into it."""

from __future__ import annotations

import errno
import mmap
import subprocess
import sys

import pytest

from depthwise.backends.cpu.run import executable

# Code that was written cannot be made executable in this process from here on: Linux 6.3, linux/prctl.h.
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
FORBID = f"""
import ctypes, torch
forbidden = ctypes.CDLL(None).prctl({PR_SET_MDWE}, {PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0) == 0
"""
PROGRAM = """
from depthwise import SeparableConv2d, backend, prepare
from depthwise.doctor import machine_report
layer, x = SeparableConv2d(4, 8, 3).eval(), torch.ones(1, 4, 9, 9)
with torch.no_grad():
    print(torch.equal(layer(x), layer.pointwise(layer.depthwise(x))))
    try:
        with backend("cpu"):
            layer(x)
    except ValueError as error:
        print(error)
layer.train()(x).sum().backward()
print(torch.nn.functional.conv2d(torch.ones(1, 32, 64, 64), torch.ones(64, 32, 3, 3)).shape)
print(machine_report())
"""


@pytest.fixture
def fresh() -> None:
    executable.refusal.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's own switch")
def test_a_process_that_may_not_run_what_it_wrote() -> None:
    probe = subprocess.run(
        [sys.executable, "-c", FORBID + "print(forbidden)"], capture_output=True, text=True, check=True
    )
    if probe.stdout != "True\n":
        pytest.skip("this kernel has no PR_SET_MDWE")
    done = subprocess.run([sys.executable, "-c", FORBID + PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    same, error, *report = done.stdout.splitlines()
    assert same == "True"
    assert "'cpu' was asked for and refuses: this system forbids to run code that a process wrote" in error
    assert report[0] == "torch.Size([1, 64, 62, 62])"
    assert any("cpu      refuses: this system forbids" in line for line in report)


@pytest.mark.usefixtures("fresh")
def test_here_it_may() -> None:
    assert executable.refusal() is None


@pytest.mark.usefixtures("fresh")
def test_what_the_system_says_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executable, "protect", lambda page: errno.EACCES)
    assert "mprotect: Permission denied" in (executable.refusal() or "")
    executable.refusal.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_no_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> mmap.mmap:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", fail)
    assert executable.refusal() == "no memory for code: Cannot allocate memory"
    executable.refusal.cache_clear()
