"""Locks: held twice by one thread, free in a child."""

import os
import threading

import pytest

from depthwise.backends.forks import Lock

fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


def test_the_thread_that_holds_it_gets_it_again() -> None:
    lock = Lock()
    with lock.mine:
        assert lock.mine.acquire(timeout=5)
        lock.mine.release()


def test_other_threads_wait() -> None:
    lock, found = Lock(), []
    with lock.mine:
        other = threading.Thread(target=lambda: found.append(lock.mine.acquire(timeout=0.05)))
        other.start()
        other.join()
    assert found == [False]


@fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_does_not_wait_for_threads_that_stayed_behind() -> None:
    lock, held, go = Lock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock.mine:
            held.set()
            go.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(60)
    child = os.fork()
    if child == 0:
        os._exit(0 if lock.mine.acquire(timeout=5) else 1)
    go.set()
    other.join()
    assert os.waitpid(child, 0)[1] == 0


@fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_who_holds_it_while_its_handler_forks_lets_go_of_it_in_both() -> None:
    lock = Lock()
    with lock.mine:
        child = os.fork()
    if child == 0:
        os._exit(0 if lock.mine.acquire(timeout=5) else 1)
    assert os.waitpid(child, 0)[1] == 0
