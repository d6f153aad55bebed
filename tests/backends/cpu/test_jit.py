"""From IR to code: compiled once, kept in memory and on disk, given back, and nothing called from outside."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from weakref import WeakValueDictionary

import pytest

from depthwise.backends.cpu import machine
from depthwise.backends.cpu.disk import store
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.run import compiler, jit, loader

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """This machine, with a cache folder and a memory of its own."""
    found = machine.host()
    if found is None:
        pytest.skip("no generator serves this machine")
    monkeypatch.setenv("DEPTHWISE_CACHE_DIR", str(tmp_path / "kernels"))
    forget(monkeypatch)
    return found


def forget(monkeypatch: pytest.MonkeyPatch, kept: int = 512) -> None:
    """As in a new process, which has the disk alone."""
    monkeypatch.setattr(jit, "_loaded", WeakValueDictionary())
    monkeypatch.setattr(jit, "_kept", deque(maxlen=kept))


def answering(number: int) -> Callable[[], str]:
    return lambda: f"define i64 @answer() {{ ret i64 {number} }}"


def answer(code: jit.Code) -> int:
    return int(ctypes.CFUNCTYPE(ctypes.c_int64)(code.address("answer"))())


def never() -> str:
    raise AssertionError("asked to emit what was compiled before")


def in_threads(count: int, work: Callable[[], object]) -> list[object]:
    """What `work` returned or raised in each of `count` threads that started together."""
    start, results = threading.Barrier(count), []

    def run() -> None:
        start.wait()
        try:
            results.append(work())
        except RuntimeError as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_every_machine_and_key_has_its_own_code(host: Machine) -> None:
    assert answer(jit.load("one", host, answering(1))) == 1
    assert answer(jit.load("two", host, answering(2))) == 2
    assert answer(jit.load("one", host, never)) == 1
    if host.isa == "avx512":
        assert answer(jit.load("one", machine.avx2(), answering(3))) == 3


def test_constants_are_found_where_the_code_was_loaded(host: Machine) -> None:
    text = """
        @table = private constant [4 x i64] [i64 10, i64 11, i64 12, i64 13]
        define i64 @answer() {
          %cell = getelementptr i64, ptr @table, i64 2
          %number = load i64, ptr %cell
          ret i64 %number
        }
        define double @third() { ret double 0x3FD5555555555555 }
    """
    code = jit.load("constants", host, lambda: text)
    assert answer(code) == 12
    assert ctypes.CFUNCTYPE(ctypes.c_double)(code.address("third"))() == 1 / 3


def test_one_compilation_however_many_threads_ask(host: Machine) -> None:
    emitted = []

    def emit() -> str:
        emitted.append(threading.get_ident())
        threading.Event().wait(0.05)
        return answering(5)()

    codes = in_threads(8, lambda: jit.load("key", host, emit))
    assert len(emitted) == 1
    assert len(set(codes)) == 1


def test_no_key_waits_for_anothers_emitter(host: Machine) -> None:
    started, go = threading.Event(), threading.Event()

    def slow() -> str:
        started.set()
        go.wait(60)
        return answering(1)()

    thread = threading.Thread(target=jit.load, args=("slow", host, slow))
    thread.start()
    started.wait(60)
    assert answer(jit.load("quick", host, answering(2))) == 2
    assert not go.is_set()
    go.set()
    thread.join()
    assert answer(jit.load("slow", host, never)) == 1


def test_an_error_reaches_every_thread_and_the_next_one_tries_again(host: Machine) -> None:
    def fail() -> str:
        threading.Event().wait(0.2)
        raise RuntimeError("no such tile")

    errors = in_threads(4, lambda: jit.load("key", host, fail))
    assert [str(error) for error in errors] == ["no such tile"] * 4
    assert len(set(map(id, errors))) == 1
    assert answer(jit.load("key", host, answering(3))) == 3


def test_a_new_process_reads_the_disk(host: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    jit.load("key", host, answering(7))
    assert store.usage().entries == 1
    forget(monkeypatch)
    assert answer(jit.load("key", host, never)) == 7


def test_a_damaged_entry_is_compiled_anew(host: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jit.load("key", host, answering(7))
    (entry,) = (tmp_path / "kernels").iterdir()
    entry.write_bytes(entry.read_bytes()[:-1])
    forget(monkeypatch)
    assert answer(jit.load("key", host, answering(7))) == 7
    forget(monkeypatch)
    assert answer(jit.load("key", host, never)) == 7


def test_modules_stay_while_held_or_recent(host: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch, kept=2)
    held = jit.load("held", host, answering(0))
    let_go = weakref.ref(jit.load("let go", host, answering(1)))
    for number in (2, 3):
        jit.load(f"recent {number}", host, answering(number))
    gc.collect()
    assert let_go() is None
    assert jit.load("held", host, never) is held
    assert sorted(key for _, key in jit._loaded) == ["held", "recent 2", "recent 3"]


# What a compilation may leave behind: LLVM itself leaves 2 to 3 KiB, a module that stays takes about 50.
LEFT_BYTES = 6 * 1024


def bytes_left(host: Machine, count: int, held: list[jit.Code] | None) -> float:
    """How many bytes one compilation more leaves in memory: the least of three times, as the heap grows in steps."""

    def compile_some(start: int, stop: int) -> int:
        for number in range(start, stop):
            code = jit.load(f"key {number}", host, answering(number))
            if held is not None:
                held.append(code)
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    taken = [compile_some(start, start + count) for start in range(0, 4 * count, count)]
    return min(after - before for before, after in pairwise(taken)) / count


def linked_by_llvm(file: bytes) -> None:
    """In the place of our own loader, of which test_loader.py has as much."""


# Of four times so many: 200, and 600.
@linux
@pytest.mark.parametrize("count", [50, pytest.param(150, marks=pytest.mark.slow)])
def test_compilations_leave_nothing_behind(host: Machine, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    forget(monkeypatch, kept=4)
    monkeypatch.setattr(loader, "loaded", linked_by_llvm)
    assert bytes_left(host, count, held=None) < LEFT_BYTES
    assert len(jit._pending) == 0


@linux
def test_that_test_can_fail(host: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "loaded", linked_by_llvm)
    assert bytes_left(host, 50, held=[]) > LEFT_BYTES


def test_a_function_that_is_not_there(host: Machine) -> None:
    with pytest.raises(jit.CompilationError, match="no function 'question'"):
        jit.load("key", host, answering(1)).address("question")


CALLS = {
    "sinf": "declare float @sinf(float) define float @f(float %x) { %y = call float @sinf(float %x) ret float %y }",
    "expf": """
        declare <4 x float> @llvm.exp.v4f32(<4 x float>)
        define <4 x float> @f(<4 x float> %x) {
          %y = call <4 x float> @llvm.exp.v4f32(<4 x float> %x)
          ret <4 x float> %y
        }
    """,
    "memcpy": """
        declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
        define void @f(ptr %to, ptr %from, i64 %n) {
          call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 %n, i1 false)
          ret void
        }
    """,
}


@pytest.mark.parametrize("target", [machine.avx2(), machine.neon()], ids=["avx2", "neon"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_out_of_the_module_is_refused(target: Machine, name: str) -> None:
    with pytest.raises(jit.CompilationError, match=f"the generated code calls {name}, which no module may"):
        jit.compile_object(CALLS[name], target)


def test_a_fused_multiply_add_is_an_instruction_where_there_is_one() -> None:
    text = """
        declare <4 x float> @llvm.fma.v4f32(<4 x float>, <4 x float>, <4 x float>)
        define <4 x float> @f(<4 x float> %x) {
          %y = call <4 x float> @llvm.fma.v4f32(<4 x float> %x, <4 x float> %x, <4 x float> %x)
          ret <4 x float> %y
        }
    """
    assert "vfmadd" in jit.assembly(text, machine.avx2())
    assert "fmla" in jit.assembly(text, machine.neon())
    jit.compile_object(text, machine.neon())
    jit.compile_object(text, machine.avx2())
    older = Machine("sse", 4, 16, machine.avx2().triple, "x86-64", "")
    with pytest.raises(jit.CompilationError, match="calls fmaf"):
        jit.compile_object(text, older)


@pytest.mark.parametrize("text", ["define i64 @answer() { ret i32 1 }", "no IR at all"])
def test_ir_that_llvm_refuses(host: Machine, text: str) -> None:
    with pytest.raises(jit.CompilationError, match="LLVM refuses the generated IR"):
        jit.load("key", host, lambda: text)


def test_ir_that_parses_and_means_nothing(host: Machine) -> None:
    text = "define i64 @answer() { a: br label %c b: %x = add i64 1, 1 br label %c c: ret i64 %x }"
    with pytest.raises(jit.CompilationError, match="LLVM refuses the generated IR"):
        jit.compile_object(text, host)


def test_other_targets_are_assembled() -> None:
    code = jit.compile_object(answering(1)(), machine.neon())
    assert (code[:4], int.from_bytes(code[18:20], "little")) == (b"\x7fELF", 183)
    assert "mov\tw0, #1" in jit.assembly(answering(1)(), machine.neon())


def test_only_elf_is_searched_for_calls() -> None:
    assert compiler._undefined_symbols(b"MZ and what Windows has") == []


@forks
def test_children_of_a_process_that_compiles_in_another_thread(tmp_path: Path) -> None:
    program = """
        import os, threading
        from depthwise.backends.cpu import machine
        from depthwise.backends.cpu.run import jit

        host, stop, waiting, go = machine.host(), threading.Event(), threading.Event(), threading.Event()
        text = "define i64 @answer() { ret i64 1 }"

        def emit_late():
            waiting.set()
            go.wait()
            return text

        def compile_on():
            number = 0
            while not stop.is_set():
                jit.load(f"thread {number}", host, lambda: text)
                number += 1

        late = threading.Thread(target=jit.load, args=("late", host, emit_late))
        busy = threading.Thread(target=compile_on)
        late.start(), busy.start(), waiting.wait()
        for number in range(40):
            child = os.fork()
            if child == 0:
                jit.load(f"child {number}", host, lambda: text)
                jit.load("late", host, lambda: text)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        stop.set(), go.set(), late.join(), busy.join()
        jit.load("parent", host, lambda: text)
    """
    environment = os.environ | {"DEPTHWISE_CACHE_DIR": str(tmp_path / "kernels")}
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=environment, timeout=120, check=True)
