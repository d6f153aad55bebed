"""The driver of a program: its stages one by one, or in a team of OpenMP threads with a barrier between them.

    serial(slots, prints):    if changed(prints): return 1
                              for stage in stages: stage(slots, 0, 1)
    parallel(slots, prints):  if changed(prints): return 1
                              in a team of threads: for stage in stages: stage(slots, thread, threads); barrier
    changed(prints):          whether one of the printed words is not what it was; see ../weights.py

The runtime's functions come in slots, so that a module names no symbol outside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .ir import Block, Int, Module

# Those of the first slots; the number of threads to ask for comes after them.
RUNTIME_FUNCTIONS = ("omp_get_thread_num", "omp_get_num_threads", "GOMP_barrier", "GOMP_parallel")
RUNTIME_SLOTS = (*RUNTIME_FUNCTIONS, "threads")

Stage = Callable[[Block, Int, Int], None]


def write_module(name: str, slots: Sequence[str], stages: Sequence[Stage]) -> str:
    """IR of a program, whose every stage is `void stage(ptr slots, i64 thread, i64 threads)`."""
    module = Module(name)
    for index, emit in enumerate(stages):
        block = Block(module, f"stage{index}", ("ptr %slots", "i64 %thread", "i64 %threads"), slots)
        emit(block, block.argument("thread"), block.argument("threads"))
        block.close("internal ")
    _write_serial(module, len(stages), slots)
    _write_parallel(module, len(stages), slots)
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
_ENTRY = """define i64 @{name}(ptr %slots, ptr %prints) {{
  %changed = call i1 @changed(ptr %prints)
  br i1 %changed, label %end, label %run
run:
  call void @run_{name}(ptr %slots)
  br label %end
end:
  %result = zext i1 %changed to i64
  ret i64 %result
}}"""


def _write_serial(module: Module, stages: int, slots: Sequence[str]) -> None:
    block = Block(module, "run_serial", ("ptr %slots",), slots)
    for stage in range(stages):
        block.write(f"call void @stage{stage}(ptr %slots, i64 0, i64 1)")
    block.close("internal ")


def _write_parallel(module: Module, stages: int, slots: Sequence[str]) -> None:
    block = Block(module, "member", ("ptr %slots",), slots)
    number, team = (block.value(f"call i32 {block.runtime(name)}()") for name in RUNTIME_FUNCTIONS[:2])
    thread, threads = (block.value(f"sext i32 {value} to i64") for value in (number, team))
    for stage in range(stages):
        if stage:
            block.write(f"call void {block.runtime('GOMP_barrier')}()")
        block.write(f"call void @stage{stage}(ptr %slots, i64 {thread}, i64 {threads})")
    block.close("internal ")
    block = Block(module, "run_parallel", ("ptr %slots",), slots)
    asked = block.value(f"trunc i64 {block.number('threads').value} to i32")
    block.write(f"call void {block.runtime('GOMP_parallel')}(ptr @member, ptr %slots, i32 {asked}, i32 0)")
    block.close("internal ")
