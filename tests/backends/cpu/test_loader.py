"""Object files placed without LLVM: constants, calls and addresses are right; what is not known is left to LLVM."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from depthwise.backends.cpu import machine
from depthwise.backends.cpu.disk import store
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.run import executable, jit, loader

TEXT = """
    @table = private constant [4 x i64] [i64 10, i64 11, i64 12, i64 13], align 64
    @names = private constant [5 x i8] c"abcde"
    define internal i64 @cell(i64 %n) noinline {
      %cell = getelementptr i64, ptr @table, i64 %n
      %number = load i64, ptr %cell
      ret i64 %number
    }
    define i64 @answer(i64 %n) {
      %one = call i64 @cell(i64 %n)
      %two = call i64 @cell(i64 3)
      %sum = add i64 %one, %two
      ret i64 %sum
    }
    define ptr @where() { ret ptr @table }
    define i64 @letter() {
      %cell = getelementptr i8, ptr @names, i64 3
      %letter = load i8, ptr %cell
      %wide = zext i8 %letter to i64
      ret i64 %wide
    }
    define double @third() { ret double 0x3FD5555555555555 }
"""

here = pytest.mark.skipif(
    sys.platform != "linux" or not machine.avx2().triple.startswith("x86_64"), reason="elsewhere LLVM places all code"
)


@pytest.fixture(scope="module")
def file() -> bytes:
    return jit.compile_object(TEXT, machine.avx2())


def whole_number(code: jit.Code, symbol: str, *arguments: int) -> int:
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, *(ctypes.c_int64 for _ in arguments))
    return int(kind(code.address(symbol))(*arguments))


@here
@pytest.mark.parametrize("load", [loader.loaded, lambda file: jit.link(file, machine.avx2())], ids=["ours", "LLVM"])
def test_code_finds_its_constants_and_functions(file: bytes, load: object) -> None:
    code = load(file)  # type: ignore[operator]
    assert [whole_number(code, "answer", n) for n in range(4)] == [23, 24, 25, 26]
    assert whole_number(code, "letter") == ord("d")
    assert whole_number(code, "where") % 64 == 0
    assert ctypes.CFUNCTYPE(ctypes.c_double)(code.address("third"))() == 1 / 3
    with pytest.raises(jit.CompilationError, match="no function 'question'"):
        code.address("question")


@here
def test_pages_are_executable_and_not_writable_and_go_with_the_code(file: bytes) -> None:
    code = loader.loaded(file)
    assert code is not None
    start = code.address("answer") // 4096 * 4096

    def lines() -> list[str]:
        found = Path("/proc/self/maps").read_text(encoding="ascii").splitlines()
        ranges = [(int(one, 16), line) for line in found for one in [line.partition("-")[0]]]
        ends = [int(line.partition("-")[2].partition(" ")[0], 16) for line in found]
        return [line for (begin, line), end in zip(ranges, ends, strict=True) if begin <= start < end]

    (line,) = lines()
    assert line.split()[1] == "r-xp"
    del code
    assert not any(" r-xp " in line and line.split()[-1] == "0" for line in lines())


def bytes_left(file: bytes, held: list[object] | None) -> float:
    """How many bytes each loading more leaves in memory."""

    def load_some() -> int:
        for _ in range(500):
            code = loader.loaded(file)
            if held is not None:
                held.append(code)
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")

    taken = [load_some() for _ in range(3)]
    return (taken[-1] - taken[0]) / 1000


@here
def test_loading_leaves_nothing_behind(file: bytes) -> None:
    assert bytes_left(file, held=None) < 1024
    # It would show.
    assert bytes_left(file, held=[]) > 2048


def changed(file: bytes, at: int, kind: str, number: int) -> bytes:
    data = bytearray(file)
    struct.pack_into(kind, data, at, number)
    return bytes(data)


def first_relocation(file: bytes) -> int:
    sections = loader._sections(file)
    placed = {number for number, section in enumerate(sections) if section.is_placed}
    return next(s.offset for s in sections if s.kind == 4 and s.info in placed)


@here
def test_what_is_not_known_is_left_to_llvm(file: bytes) -> None:
    at = first_relocation(file)
    (information,) = struct.unpack_from("<Q", file, at + 8)
    assert loader.loaded(changed(file, at + 8, "<Q", information)) is not None
    # An absolute address (R_X86_64_64), and a symbol from elsewhere, which is the first of all.
    assert loader.loaded(changed(file, at + 8, "<Q", information >> 32 << 32 | 1)) is None
    assert loader.loaded(changed(file, at + 8, "<Q", 2)) is None
    # Another processor, a shared library, another format.
    assert loader.loaded(changed(file, 18, "<H", 183)) is None
    assert loader.loaded(changed(file, 16, "<H", 3)) is None
    assert loader.loaded(b"MZ" + file[2:]) is None
    assert loader.loaded(jit.compile_object(TEXT, machine.neon())) is None
    # Memory that the file has nothing for: a variable.
    assert loader.loaded(jit.compile_object("@x = global i64 0 define ptr @f() { ret ptr @x }", machine.avx2())) is None


@here
def test_a_file_that_was_cut_short_is_damaged(file: bytes) -> None:
    ends = [*range(len(loader._HEADER), 64), *range(64, len(file), 37), len(file) - 1]
    for end in ends:
        with pytest.raises(loader.DamagedError, match="damaged"):
            loader.loaded(file[:end])
    at = first_relocation(file)
    for place, number in ((at + 8, 1 << 40 | 2), (at, 1 << 40)):
        with pytest.raises(loader.DamagedError, match="damaged"):
            loader.loaded(changed(file, place, "<Q", number))


@here
def test_code_on_disk_that_is_damaged_is_compiled_anew(file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(store, "read", lambda *_: file[: len(file) // 2])
    monkeypatch.setattr(store, "write", lambda *entry: written.append(entry[-1]))
    code = jit.load("a damaged entry", machine.avx2(), lambda: TEXT)
    assert whole_number(code, "answer", 1) == 24
    assert written == [file]


@here
def test_what_is_written_to_is_left_to_llvm() -> None:
    text = """
        @count = internal global i64 5
        define i64 @next() {
          %old = load i64, ptr @count
          %new = add i64 %old, 1
          store i64 %new, ptr @count
          ret i64 %new
        }
    """
    file = jit.compile_object(text, machine.avx2())
    assert loader.loaded(file) is None
    assert [whole_number(jit.link(file, machine.avx2()), "next") for _ in range(2)] == [6, 6]


@here
def test_a_system_that_refuses(file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "protect", lambda _: 13)
    assert loader.loaded(file) is None
    assert executable.refusal() is None


def test_llvm_links_what_the_loader_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = machine.host()
    if found is None:
        pytest.skip("no generator serves this machine")
    monkeypatch.setenv("DEPTHWISE_CACHE_DIR", str(tmp_path / "kernels"))
    monkeypatch.setattr(loader, "loaded", lambda _: None)
    assert whole_number(jit.load("left to LLVM", found, lambda: TEXT), "answer", 1) == 24


PROGRAM = """
    import sys, torch
    from depthwise import functional
    from depthwise.backends.cpu import machine

    y = functional.depthwise_conv2d(torch.ones(1, 8, 5, 5), torch.ones(8, 1, 3, 3), padding=1)
    print(machine.host() == machine.machine_of(*machine._asked()), "llvmlite.binding" in loaded)
"""


@here
def test_a_process_that_finds_its_kernels_on_disk_does_without_llvm(tmp_path: Path) -> None:
    program = PROGRAM.replace("    print", "    loaded = set(sys.modules)\n    print")
    environment = os.environ | {"DEPTHWISE_CACHE_DIR": str(tmp_path / "kernels"), "DEPTHWISE_BACKEND": "cpu"}
    said = [
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    # What LLVM was asked and what was kept are the same machine.
    assert said == ["True True\n", "True False\n"]


@pytest.mark.skipif(not machine._called(), reason="the system says nothing of its CPU")
def test_another_cpu_is_asked_about_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTHWISE_CACHE_DIR", str(tmp_path / "kernels"))
    here_is = machine._target()
    assert machine._target() == here_is
    assert store.usage().entries == 1
    monkeypatch.setattr(machine, "_called", lambda: "another CPU")
    monkeypatch.setattr(machine, "_asked", lambda: ("x86_64-unknown-linux-gnu", "another", {"avx2": True, "fma": True}))
    found = machine.machine_of(*machine._target())
    assert isinstance(found, Machine)
    assert (found.isa, found.cpu, found.features) == ("avx2", "another", "+avx2,+fma,-prefer-256-bit")
    assert store.usage().entries == 2
    monkeypatch.setattr(machine, "_asked", lambda: pytest.fail("asked again"))
    assert machine.machine_of(*machine._target()) == found
