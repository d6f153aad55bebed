"""The driver: runs any program, its stages one by one, or in a team of OpenMP threads with barriers between them.

    serial(table, prints):    if changed(prints): return 1
                              for stage in stages: stage.code(stage.frame, 0, 1)
    parallel(table, prints):  if changed(prints): return 1
                              in a team of threads:
                                  for stage in stages:
                                      barrier, where the stage waits
                                      if thread < stage.team:
                                          stage.code(stage.frame, thread, min(threads, stage.team))
    changed(prints):          whether one of the printed words is not what it was; see ../../weights.py

A table is an array of cells of 8 bytes: HEADER, a ROW for each stage, then the stages' frames. The runtime's functions
and the kernels come as addresses in it, so that the driver names no symbol outside and is compiled once.
"""

from __future__ import annotations

from ..emit.ir import Block, Int, least
from ..emit.module import Module
from ..machine import Machine
from . import jit

# threads: how many the team has, to be asked for; stages: how many rows follow
RUNTIME_FUNCTIONS = ("omp_get_thread_num", "omp_get_num_threads", "GOMP_barrier", "GOMP_parallel")
HEADER = (*RUNTIME_FUNCTIONS, "threads", "stages")
# code: address of the kernel; frame: cells from the table to its frame; team: of how many threads at most;
# waits: 1 where it begins when all stages before it have ended
ROW = ("code", "frame", "team", "waits")


def driver(machine: Machine) -> jit.Code:
    return jit.load("driver", machine, driver_ir)


def driver_ir() -> str:
    module = Module("driver")
    _write_serial(module)
    _write_parallel(module)
    module.functions += [_CHANGED, *(_ENTRY.format(name=name) for name in ("serial", "parallel"))]
    return str(module)


_CHANGED = """define internal i1 @changed(ptr %prints) {
entry:
  %count = load i64, ptr %prints
  br label %next
next:
  %index = phi i64 [ 0, %entry ], [ %after, %word ]
  %done = icmp eq i64 %index, %count
  br i1 %done, label %end, label %word
word:
  %pair = shl i64 %index, 1
  %cell = getelementptr i64, ptr %prints, i64 %pair
  %place = getelementptr i64, ptr %cell, i64 1
  %expected = getelementptr i64, ptr %cell, i64 2
  %address = load ptr, ptr %place
  %was = load i32, ptr %expected
  %is = load i32, ptr %address
  %after = add i64 %index, 1
  %same = icmp eq i32 %was, %is
  br i1 %same, label %next, label %end
end:
  %changed = phi i1 [ false, %next ], [ true, %word ]
  ret i1 %changed
}"""
_ENTRY = """define i64 @{name}(ptr %frame, ptr %prints) {{
  %changed = call i1 @changed(ptr %prints)
  br i1 %changed, label %end, label %run
run:
  call void @run_{name}(ptr %frame)
  br label %end
end:
  %result = zext i1 %changed to i64
  ret i64 %result
}}"""


def _write_serial(module: Module) -> None:
    e = Block(module, "run_serial", ("ptr %frame",), HEADER)
    with e.loop(0, e.number("stages")) as stage:
        _call(e, stage.index, e.whole(0), e.whole(1))
    e.close("internal ")


def _write_parallel(module: Module) -> None:
    e = Block(module, "member", ("ptr %frame",), HEADER)
    number, size = (e.value(f"call i32 {e.runtime(name)}()") for name in RUNTIME_FUNCTIONS[:2])
    thread, threads = (Int(e, e.value(f"sext i32 {value} to i64")) for value in (number, size))
    with e.loop(0, e.number("stages")) as stage:
        team = _cell(e, stage.index, "team")
        with e.when(_cell(e, stage.index, "waits") > 0):
            e.write(f"call void {e.runtime('GOMP_barrier')}()")
        with e.when(thread < team):
            _call(e, stage.index, thread, least(threads, team))
    e.close("internal ")
    e = Block(module, "run_parallel", ("ptr %frame",), HEADER)
    asked = e.value(f"trunc i64 {e.number('threads').value} to i32")
    e.write(f"call void {e.runtime('GOMP_parallel')}(ptr @member, ptr %frame, i32 {asked}, i32 0)")
    e.close("internal ")


def _call(e: Block, stage: Int, thread: Int, threads: Int) -> None:
    code = e.value(f"inttoptr i64 {_cell(e, stage, 'code').value} to ptr")
    frame = e.value(f"getelementptr i64, ptr %frame, i64 {_cell(e, stage, 'frame').value}")
    e.write(f"call void {code}(ptr {frame}, i64 {thread.value}, i64 {threads.value})")


def _cell(e: Block, stage: Int, name: str) -> Int:
    index = stage * len(ROW) + (len(HEADER) + ROW.index(name))
    address = e.value(f"getelementptr i64, ptr %frame, i64 {index.value}")
    return Int(e, e.value(f"load i64, ptr {address}"))
