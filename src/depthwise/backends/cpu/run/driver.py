"""The driver of a program: its stages one by one, or in a team of OpenMP threads with a barrier between them.

    serial(slots):    for stage in stages: stage(slots, 0, 1)
    parallel(slots):  in a team of threads: for stage in stages: stage(slots, thread, threads); barrier

The runtime's functions come in slots, so that a module names no symbol outside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..emit.ir import Block, Int, Module

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
    return str(module)


def _write_serial(module: Module, stages: int, slots: Sequence[str]) -> None:
    block = Block(module, "serial", ("ptr %slots",), slots)
    for stage in range(stages):
        block.write(f"call void @stage{stage}(ptr %slots, i64 0, i64 1)")
    block.close()


def _write_parallel(module: Module, stages: int, slots: Sequence[str]) -> None:
    block = Block(module, "member", ("ptr %slots",), slots)
    number, team = (block.value(f"call i32 {block.runtime(name)}()") for name in RUNTIME_FUNCTIONS[:2])
    thread, threads = (block.value(f"sext i32 {value} to i64") for value in (number, team))
    for stage in range(stages):
        if stage:
            block.write(f"call void {block.runtime('GOMP_barrier')}()")
        block.write(f"call void @stage{stage}(ptr %slots, i64 {thread}, i64 {threads})")
    block.close("internal ")
    block = Block(module, "parallel", ("ptr %slots",), slots)
    asked = block.value(f"trunc i64 {block.number('threads').value} to i32")
    block.write(f"call void {block.runtime('GOMP_parallel')}(ptr @member, ptr %slots, i32 {asked}, i32 0)")
    block.close()
