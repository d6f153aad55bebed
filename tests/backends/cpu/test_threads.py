"""Teams of PyTorch's own OpenMP runtime: its number of threads, the GIL, forks, and how it goes where there is none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from depthwise import functional
from depthwise.backends.cpu import machine
from depthwise.backends.cpu.emit.ir import Block, Int
from depthwise.backends.cpu.emit.kernel import Kernel
from depthwise.backends.cpu.plan.cut import Cut
from depthwise.backends.cpu.plan.view import View
from depthwise.backends.cpu.run import threads
from depthwise.backends.cpu.run.driver import HEADER, RUNTIME_FUNCTIONS
from depthwise.backends.cpu.run.program import Program, Stage, Table
from depthwise.backends.weights import NO_PRINTS

MOST = 16
ROOT = Path(__file__).parents[3]

linux = pytest.mark.skipif(sys.platform != "linux", reason="the runtime is looked for under Linux only")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@dataclass(frozen=True)
class Presence(Kernel):
    """Count this thread and note its team's size; then sum numbers for as long as `count` says."""

    pointers = ("members", "teams", "numbers")
    numbers = ("count",)
    writes = pointers
    label = "presence"
    plans = ()

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        one, member = e.constant(1.0, 1), e.pointer("members") + thread
        member.store(member.load(1) + one)
        # Not counted: two threads that add to one number at once may count as one.
        (e.pointer("teams") + threads).store(one)
        total = e.constant(0.0, 1)
        with e.loop(0, e.number("count"), carried=[total]) as index:
            index.values = [index.values[0].fma(one, one)]
        (e.pointer("numbers") + thread).store(index.values[0])


@dataclass(frozen=True)
class Neighbour(Kernel):
    """Copy what the next thread stored in the stage before."""

    pointers = ("numbers", "neighbours")
    numbers = ()
    writes = ("neighbours",)
    label = "neighbour"
    plans = ()

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        value = (e.pointer("numbers") + (thread + 1) % threads).load(1)
        (e.pointer("neighbours") + thread).store(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Count(Cut):
    count: int = 1


class Team:
    """Two stages with a barrier between them, and what they stored."""

    def __init__(self, count: int = 1) -> None:
        host = machine.host()
        if host is None:
            pytest.skip("no generator serves this machine")
        self.count = count
        stages = (
            Stage(Presence(host), View(), Count(threads=MOST, count=count)),
            Stage(Neighbour(host), View(), Count(threads=MOST)),
        )
        self.table = Table(Program(stages))
        self.stored = {name: np.zeros(MOST + 1, np.float32) for name in ("members", "teams", "numbers", "neighbours")}
        for name, array in self.stored.items():
            self.table.fill(name, array.ctypes.data)
        self.cells, self.address = self.table.copy()

    def run(self, team: int) -> None:
        for array in self.stored.values():
            array[:] = 0
        self.cells[HEADER.index("threads")] = team
        threads.launch(self.table.serial, self.table.parallel, self.address, NO_PRINTS.address, team)

    def ran_as_a_team_of(self) -> int:
        """The number of threads that ran, once every one of them is accounted for."""
        (size,) = np.flatnonzero(self.stored["teams"])
        members = self.stored["members"]
        assert members.tolist() == [1.0] * size + [0.0] * (MOST + 1 - size)
        assert np.all(self.stored["neighbours"][:size] == self.count)
        return int(size)


@linux
def test_the_runtime_is_the_one_that_pytorch_loaded() -> None:
    found = threads.runtime()
    assert found is not None
    assert threads.reason() is None
    assert len(found.addresses) == len(RUNTIME_FUNCTIONS)
    assert all(found.addresses)
    before = Path("/proc/self/maps").read_text().count("gomp")
    threads._find.__wrapped__()
    assert Path("/proc/self/maps").read_text().count("gomp") == before


@linux
def test_the_team_is_as_large_as_pytorch_says() -> None:
    program = Team()
    for size in (1, 2, 3, 5, 2):
        torch.set_num_threads(size)
        assert threads.team_size() == size
        program.run(threads.team_size())
        assert program.ran_as_a_team_of() == size


@linux
def test_finding_the_runtime_leaves_pytorchs_number_alone() -> None:
    for size in (1, 3):
        torch.set_num_threads(size)
        threads._find.__wrapped__()
        assert torch.get_num_threads() == size


@linux
@pytest.mark.parametrize("teams", list(product((1, 2, 3), repeat=3)))
def test_each_stage_has_a_team_of_its_own_size(teams: tuple[int, ...]) -> None:
    host = machine.host()
    if host is None:
        pytest.skip("no generator serves this machine")
    torch.set_num_threads(3)
    stages = [
        Stage(Presence(host), View(), Count(threads=size), tuple((name, f"{name}{i}") for name in Presence.pointers))
        for i, size in enumerate(teams)
    ]
    table, stored = Table(Program(tuple(stages))), {}
    for buffer in table.places:
        stored[buffer] = np.zeros(MOST + 1, np.float32)
        table.fill(buffer, stored[buffer].ctypes.data)
    _cells, address = table.copy()
    threads.launch(table.serial, table.parallel, address, NO_PRINTS.address, max(teams))
    for i, size in enumerate(teams):
        assert np.flatnonzero(stored[f"teams{i}"]).tolist() == [size]
        assert stored[f"members{i}"].sum() == size


@linux
@pytest.mark.parametrize("teams", [(1, 3, 1, 3), (3, 1, 1, 3), (2, 3, 2, 3)])
def test_stages_of_other_teams_wait_for_each_other(teams: tuple[int, ...]) -> None:
    """Each stage reads what the last thread of the one before wrote last."""
    host = machine.host()
    if host is None:
        pytest.skip("no generator serves this machine")
    torch.set_num_threads(3)
    stages = []
    for i, size in enumerate(teams):
        stages.append(Stage(Presence(host), View(), Count(threads=size, count=1000 + i)))
        stages.append(Stage(Neighbour(host), View(), Count(threads=size), (("neighbours", f"neighbours{i}"),)))
    table = Table(Program(tuple(stages)))
    stored = {buffer: np.zeros(MOST + 1, np.float32) for buffer in table.places}
    for buffer, array in stored.items():
        table.fill(buffer, array.ctypes.data)
    _cells, address = table.copy()
    for _ in range(100):
        threads.launch(table.serial, table.parallel, address, NO_PRINTS.address, max(teams))
        for i, size in enumerate(teams):
            assert stored[f"neighbours{i}"][:size].tolist() == [1000 + i] * size


@linux
def test_stages_wait_for_each_other() -> None:
    program = Team(count=1000)
    for _ in range(200):
        program.run(3)
        assert program.ran_as_a_team_of() == 3


def test_python_threads_run_their_own_teams() -> None:
    errors = []

    def run() -> None:
        program = Team()
        try:
            for _ in range(100):
                program.run(2)
                assert program.ran_as_a_team_of() in (1, 2)
        except AssertionError as error:
            errors.append(error)

    runners = [threading.Thread(target=run) for _ in range(4)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    assert not errors


@pytest.mark.parametrize("team", [1, 2])
def test_the_gil_is_free_while_a_program_runs(team: int) -> None:
    program, seen = Team(count=200_000_000), []

    def run() -> None:
        seen.append(time.perf_counter())
        program.run(team)
        seen.append(time.perf_counter())

    runner = threading.Thread(target=run)
    runner.start()
    ticks = []
    while runner.is_alive():
        ticks.append(time.perf_counter())
        time.sleep(0.001)
    start, stop = seen
    middle = [tick for tick in ticks if 0.25 < (tick - start) / (stop - start) < 0.75]
    assert len(middle) > 1


@pytest.mark.parametrize(
    ("why", "platform", "maps"),
    [
        ("not looked for under darwin", "darwin", []),
        ("not looked for under win32", "win32", []),
        (r"was found \(none is loaded\)", "linux", []),
        (r"was found \(/nowhere/libgomp\.so\.1\)", "linux", ["/nowhere/libgomp.so.1"]),
    ],
)
def test_without_a_runtime_there_is_one_thread_and_a_reason(
    monkeypatch: pytest.MonkeyPatch, why: str, platform: str, maps: list[str]
) -> None:
    program = Team()
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(threads, "_mapped_libraries", lambda path: maps)
    reason = threads._find.__wrapped__()
    monkeypatch.setattr(threads, "_find", lambda: reason)
    monkeypatch.setattr(threads, "_has_team", threads._has_team.__wrapped__)
    assert threads.runtime() is None
    assert threads.team_size() == 1
    assert re.search(why, threads.reason() or "")
    program.run(4)
    assert program.ran_as_a_team_of() == 1


@linux
def test_a_library_that_is_not_pytorchs_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    number = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: number)
    assert "no OpenMP runtime that follows" in str(threads._find.__wrapped__())
    libc = next(line.split()[5] for line in Path("/proc/self/maps").read_text().splitlines() if "/libc.so" in line)
    assert threads._opened(libc) is None


def test_libraries_are_found_by_name_and_pytorchs_come_first(tmp_path: Path) -> None:
    home = Path(torch.__file__).parent
    names = [
        *("/usr/lib/libgomp.so.1", "/a b/libiomp5.so", "/x/libomp-12.so.5", "/x/libcompass.so", "/x/libompstub.so"),
        *(f"{home}/lib/libgomp-a34b3233.so.1.0.0", f"{home}/lib/libtorch_cpu.so"),
    ]
    maps = tmp_path / "maps"
    rows = [f"7f00-7f01 r-xp 00000000 fe:00 53  {name}" for name in names for _ in range(2)]
    maps.write_text("\n".join([*rows, "7f02-7f03 rw-p 00000000 00:00 0 ", "7f04-7f05 rw-p 00000000 00:00 0 [heap]"]))
    assert threads._mapped_libraries(maps) == [names[5], *names[:3]]
    assert threads._mapped_libraries(tmp_path / "none") == []


def run_python(program: str, **environment: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(program)]
    subprocess.run(command, cwd=ROOT, env=os.environ | environment, timeout=120, check=True)


@linux
def test_fewer_threads_granted_than_asked() -> None:
    run_python(
        """
        import torch
        from tests.backends.cpu.test_threads import Team, threads
        torch.set_num_threads(4)
        program = Team()
        assert threads.team_size() == 4
        program.run(4)
        assert program.ran_as_a_team_of() == 2, program.stored
        """,
        OMP_THREAD_LIMIT="2",
    )


@forks
def test_children_run_alone_and_the_parent_goes_on() -> None:
    run_python(
        """
        import os, torch
        from tests.backends.cpu.test_threads import Team, threads
        torch.set_num_threads(2)
        program = Team()
        program.run(2)
        team = program.ran_as_a_team_of()
        child = os.fork()
        if child == 0:
            program.run(2)
            alone = program.ran_as_a_team_of() == threads.team_size() == 1
            os._exit(0 if alone and "forked" in threads.reason() else 1)
        assert os.waitpid(child, 0)[1] == 0
        program.run(2)
        assert program.ran_as_a_team_of() == team
        assert team == 1 or threads.reason() is None
        """
    )


class TestLateTeams:
    """After a region that waited for a thread that was not running, programs run on one thread for a while."""

    @pytest.fixture(autouse=True)
    def _clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.ran: list[str] = []
        self.takes = 0.0001
        monkeypatch.setattr(threads, "perf_counter", lambda: self.now)
        monkeypatch.setattr(threads, "_alone_until", 0.0)
        monkeypatch.setattr(threads, "_rest", threads.LEAST_REST)
        monkeypatch.setattr(threads, "_has_team", lambda: True)

    def call(self, pace: threads.Pace | None) -> str:
        def serial(table: int, prints: int) -> int:
            self.ran.append("serial")
            return 0

        def parallel(table: int, prints: int) -> int:
            self.ran.append("parallel")
            self.now += self.takes
            return 0

        threads.launch(serial, parallel, 0, 0, 2, pace)
        return self.ran[-1]

    def test_one_that_waits_is_not_asked_for_a_while(self) -> None:
        pace = threads.Pace(0.003)
        assert self.call(pace) == "parallel"
        self.takes = 0.008
        assert self.call(pace) == "parallel"
        self.takes = 0.0001
        assert self.call(pace) == "serial"
        self.now += threads.LEAST_REST * 0.008 - 0.001
        assert self.call(pace) == "serial"
        self.now += 0.002
        assert self.call(pace) == "parallel"

    def rest_after_a_wait(self, pace: threads.Pace) -> float:
        """For how long programs run on one thread, in seconds that a region took that waited."""
        self.takes = 0.008
        assert self.call(pace) == "parallel"
        self.takes, waited = 0.0001, self.now
        while self.call(pace) == "serial":
            self.now += 0.004
        return (self.now - waited) / 0.008

    def test_who_is_late_again_and_again_rests_longer_and_longer(self) -> None:
        pace = threads.Pace(0.003)
        rests = [self.rest_after_a_wait(pace) for _ in range(6)]
        assert rests == pytest.approx([4, 8, 16, 32, 50, 50], abs=1)
        self.now += threads.MOST_REST * 0.008
        assert self.rest_after_a_wait(pace) == pytest.approx(threads.LEAST_REST, abs=1)

    def test_a_rest_is_neither_cut_short_nor_doubled_by_what_began_before_it(self) -> None:
        threads._rest_for(1.0, 100.0)
        threads._rest_for(0.005, 100.001)
        assert (threads._alone_until, threads._rest) == (100.0 + threads.LEAST_REST, threads.LEAST_REST)

    def test_a_bound_falls_with_what_was_seen(self) -> None:
        pace = threads.Pace(1.0)
        assert not pace.is_late(0.5)
        assert not pace.is_late(0.0002)
        assert pace.is_late(0.5)
        assert not pace.is_late(0.0015)

    def test_what_has_no_pace_is_never_late(self) -> None:
        self.takes = 5.0
        assert [self.call(None), self.call(None)] == ["parallel", "parallel"]

    def test_results_are_the_same_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.set_num_threads(2)
        x, weight, pointwise = torch.randn(2, 64, 28, 28), torch.randn(64, 1, 3, 3), torch.randn(64, 64, 1, 1)
        together = functional.separable_conv2d(x, weight, pointwise)
        monkeypatch.setattr(threads, "_alone_until", float("inf"))
        assert torch.equal(functional.separable_conv2d(x, weight, pointwise), together)
