"""Work on a thread of its own: interrupts, handlers, forks and lost threads leave nobody without an answer."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable

import pytest

from depthwise.backends.cpu import apart as module
from depthwise.backends.cpu.apart import AbandonedError, Task, apart

posix = pytest.mark.skipif(os.name != "posix", reason="signals that interrupt a wait, and forks")


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.001)


def outcome(work: Callable[[], object]) -> object:
    """What `work` returns or raises."""
    try:
        return work()
    except (AbandonedError, ValueError) as error:
        return error


def in_threads(count: int, work: Callable[[], object]) -> list[object]:
    """What `work` returned or raised in each of `count` threads."""
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(outcome(work))) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_it_runs_on_another_thread_and_gives_its_result() -> None:
    assert apart(threading.get_ident) != threading.get_ident()
    assert apart(lambda: None) is None


def test_it_is_done_once_for_all_that_wait() -> None:
    done: list[int] = []

    def work() -> int:
        time.sleep(0.05)
        done.append(1)
        return len(done)

    task = Task(work)
    assert in_threads(8, task.result) == [1] * 8
    assert task.result() == 1
    assert not module._begun


def test_an_error_reaches_all_that_wait() -> None:
    def work() -> int:
        time.sleep(0.05)
        raise ValueError("no such tile")

    assert [str(error) for error in in_threads(4, Task(work).result)] == ["no such tile"] * 4


class NoTileError(ValueError):
    """Of which, unlike of ValueError, there are weak references."""


def test_an_error_is_not_held_by_what_it_holds() -> None:
    def work() -> int:
        raise NoTileError

    errors = []
    gc.collect()
    gc.disable()
    try:
        try:
            apart(work)
        except NoTileError as error:
            errors.append(weakref.ref(error))
        assert errors[0]() is None
    finally:
        gc.enable()


@posix
def test_who_is_interrupted_leaves_the_work_going_on() -> None:
    go = threading.Event()

    def work() -> int:
        go.wait(60)
        return 7

    task = Task(work)
    # A shell may have it ignored, in what runs in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.1, signal.pthread_kill, (threading.get_ident(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            task.result()
    finally:
        signal.signal(signal.SIGINT, before)
    threading.Timer(0.1, go.set).start()
    assert in_threads(3, task.result) == [7] * 3


def test_work_whose_thread_is_lost_is_done_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    workers: list[int] = []

    def work() -> int:
        workers.append(threading.get_ident())
        if len(workers) == 1:
            until(lambda: False)
        return len(workers)

    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    def kill() -> None:
        until(lambda: bool(workers))
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(workers[0]), ctypes.py_object(SystemExit))

    killer = threading.Thread(target=kill)
    killer.start()
    assert apart(work) == 2
    killer.join()


def no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


def test_without_threads_it_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "start_new_thread", no_thread)
    assert apart(threading.get_ident) == threading.get_ident()


@posix
def test_without_threads_a_handler_that_asks_for_what_it_interrupted_does_not_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def work() -> int:
        if not asked:
            asked.append(1)
            signal.raise_signal(signal.SIGUSR1)
        return 7

    task = Task(work)
    monkeypatch.setattr(module, "start_new_thread", no_thread)
    before = signal.signal(signal.SIGUSR1, lambda *_: asked.append(task.result()))
    try:
        assert task.result() == 7
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert asked == [1, 7]


def test_without_threads_an_interrupt_is_the_callers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    started, go = threading.Event(), threading.Event()
    calls: list[int] = []
    others: list[object] = []

    def work() -> int:
        calls.append(1)
        if len(calls) == 1:
            started.set()
            go.wait(60)
            raise KeyboardInterrupt
        return 7

    task = Task(work)
    other = threading.Thread(target=lambda: others.append(outcome(task.result)))

    def wait_too() -> None:
        started.wait(60)
        other.start()
        until(lambda: len(task._waiting) == 2)
        go.set()

    helper = threading.Thread(target=wait_too)
    helper.start()
    monkeypatch.setattr(module, "start_new_thread", no_thread)
    with pytest.raises(KeyboardInterrupt):
        task.result()
    helper.join()
    other.join()
    assert [type(found) for found in others] == [AbandonedError]


def run(program: str) -> None:
    """A process that must end well, without a cache of kernels."""
    environment = os.environ | {"DEPTHWISE_CACHE_DIR": "off"}
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=environment, timeout=120, check=True)


# Kernels that differ, each compiled once.
LAYERS = """
    import gc, os, signal, sys, threading, time
    import torch
    from depthwise import functional

    x = torch.ones(1, 16, 12, 12).contiguous(memory_format=torch.channels_last)

    def call(kernel):
        weight = torch.ones(16, 1, kernel, kernel)
        y = functional.depthwise_conv2d(x, weight)
        assert y.shape[-1] == 13 - kernel and (y == kernel * kernel).all(), kernel
        return True

    def later(seconds):
        signal.setitimer(signal.ITIMER_REAL, seconds)

    # What PyTorch imports at a first call must not be interrupted.
    call(12)
"""


@posix
def test_an_interrupted_compilation_leaves_nothing_to_the_collector() -> None:
    run(
        LAYERS
        + """
    def interrupt(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    for turn in range(24):
        channels = 32 + 16 * turn
        x = torch.ones(1, channels, 12, 12).contiguous(memory_format=torch.channels_last)
        try:
            later(0.0005 + 0.003 * turn)
            functional.depthwise_conv2d(x, torch.ones(channels, 1, 3, 3))
            later(0)
        except KeyboardInterrupt:
            interrupted += 1
        gc.collect()
    assert interrupted > 6, interrupted
    x = torch.ones(1, 16, 12, 12).contiguous(memory_format=torch.channels_last)
    assert call(2) and call(3)
    """
    )


@posix
def test_a_handler_that_calls_what_is_being_compiled() -> None:
    run(
        LAYERS
        + """
    kernel, calls = 1, 0

    def handler(*_):
        global calls
        calls += call(kernel)

    signal.signal(signal.SIGALRM, handler)
    for kernel in range(1, 7):
        later(0.002 * kernel)
        call(kernel)
        later(0)
    assert calls > 2, calls
    """
    )


@posix
def test_a_handler_that_forks_while_it_is_compiled() -> None:
    run(
        LAYERS
        + """
    kernel, forks = 1, 0

    def handler(*_):
        global forks
        child = os.fork()
        if child == 0:
            # What was interrupted goes on in the child too.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            os.environ["CHILD"] = "1"
            return
        forks += 1
        assert os.waitpid(child, 0)[1] == 0

    signal.signal(signal.SIGALRM, handler)
    for kernel in range(1, 7):
        later(0.002 * kernel)
        call(kernel)
        later(0)
        if "CHILD" in os.environ:
            os._exit(0)
    assert forks > 2, forks
    """
    )


@posix
def test_a_handler_that_forks_before_the_compiling_thread_runs() -> None:
    # On a busy machine it takes a while until a new thread does.
    run(
        """
    import _thread, os, signal, threading, time

    def slowly(start):
        def started(function, arguments):
            return start(lambda *given: (time.sleep(0.3), function(*given)), arguments)

        return started

    _thread.start_new_thread = slowly(_thread.start_new_thread)
    threading._start_new_thread = slowly(threading._start_new_thread)
    from depthwise.backends.cpu.apart import apart

    children = []

    def handler(*_):
        children.append(os.fork())

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    assert apart(lambda: 7) == 7
    if not all(children):
        os._exit(0)
    assert os.waitpid(children[0], 0)[1] == 0
    """
    )


@posix
@pytest.mark.parametrize("at_exit", [False, True], ids=["interrupted", "at exit"])
def test_a_process_that_ends_while_it_compiles(at_exit: bool) -> None:
    # An atexit handler runs when no thread can be started any more.
    end = "import atexit\n    atexit.register(lambda: call(3))" if at_exit else "os.kill(os.getpid(), signal.SIGALRM)"
    run(
        LAYERS
        + f"""
    def interrupt(*_):
        sys.exit(0)

    signal.signal(signal.SIGALRM, interrupt)
    {end if at_exit else "later(0.02)"}
    call(7)
    """
    )


def test_what_is_asked_for_when_the_interpreter_ends() -> None:
    program = """
        import os, sys
        from depthwise.backends.cpu.apart import apart

        class Late:
            def __init__(self):
                self.finds = apart, sys.is_finalizing, os.write

            def __del__(self):
                apart, is_finalizing, write = self.finds
                write(1, b"%d %d" % (is_finalizing(), apart(lambda: 7)))

        late = Late()
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    assert subprocess.run(command, timeout=60, check=True, capture_output=True).stdout == b"1 7"


@pytest.mark.parametrize("error", [MemoryError, RecursionError, OSError])
def test_every_error_is_an_answer(error: type[Exception]) -> None:
    def work() -> None:
        raise error

    with pytest.raises(error):
        apart(work)
