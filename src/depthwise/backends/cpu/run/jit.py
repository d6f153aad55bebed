"""Verified IR to machine code to addresses: from memory, from disk, or compiled."""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from threading import Lock, RLock
from weakref import WeakValueDictionary

import llvmlite.binding as llvm

from ..machine import Machine
from . import store

KEPT_MODULES = 512


class CompilationError(RuntimeError):
    """LLVM refused what an emitter wrote, or made of it what must not be loaded: our fault, not the caller's."""


class Code:
    """Machine code of one module, in memory as long as this object."""

    def __init__(self, engine: llvm.ExecutionEngine) -> None:
        self._engine = engine

    def address(self, symbol: str) -> int:
        with _llvm:
            address = int(self._engine.get_function_address(symbol))
        if not address:
            raise CompilationError(f"the module has no function {symbol!r}")
        return address


# Whatever a caller holds is found again; beside that, the modules loaded last stay.
_loaded: WeakValueDictionary[tuple[Machine, str], Code] = WeakValueDictionary()
_kept: deque[Code] = deque(maxlen=KEPT_MODULES)
_pending: dict[tuple[Machine, str], Future[Code]] = {}
_lock = Lock()

# Held while LLVM works, and across a fork: no child is born with LLVM's locks held by a thread that it does not have.
# llvmlite runs one call at a time anyway; emitters run outside.
_llvm = RLock()


def load(key: str, machine: Machine, emit: Callable[[], str]) -> Code:
    """The code of the module that `emit` writes, compiled once per key and machine however many threads ask.

    Where that fails, every thread that waits gets the error, and the next one to ask tries again.
    """
    code = _loaded.get((machine, key))
    return _load_once(key, machine, emit) if code is None else code


def _load_once(key: str, machine: Machine, emit: Callable[[], str]) -> Code:
    entry = machine, key
    with _lock:
        code = _loaded.get(entry)
        if code is not None:
            return code
        asked = _pending.get(entry)
        mine: Future[Code] = Future()
        if asked is None:
            _pending[entry] = mine
    if asked is not None:
        return asked.result()
    try:
        code = _from_disk_or_compiled(key, machine, emit)
    except BaseException as error:
        with _lock:
            _pending.pop(entry, None)
        mine.set_exception(error)
        raise
    with _lock:
        _loaded[entry] = code
        _pending.pop(entry, None)
    _kept.append(code)
    mine.set_result(code)
    return code


def _from_disk_or_compiled(key: str, machine: Machine, emit: Callable[[], str]) -> Code:
    object_code = store.read(key, machine)
    if object_code is None:
        object_code = compile_object(emit(), machine)
        store.write(key, machine, object_code)
    return link(object_code, machine)


def compile_object(text: str, machine: Machine) -> bytes:
    """The object file of an IR module, verified first; it needs no symbol from outside."""
    with _llvm:
        object_code = bytes(_target_machine(machine).emit_object(optimised(text, machine)))
        missing = _undefined_symbols(object_code)
    if missing:
        # An intrinsic for which the target has no instruction, or a loop that LLVM took for one of C's functions.
        raise CompilationError(f"the generated code calls {', '.join(missing)}, which no module may")
    return object_code


def assembly(text: str, machine: Machine) -> str:
    with _llvm:
        return str(_target_machine(machine).emit_assembly(optimised(text, machine)))


def optimised(text: str, machine: Machine) -> llvm.ModuleRef:
    with _llvm:
        target = _target_machine(machine)
        # In a context of its own, so that its types and constants go when it does.
        try:
            module = llvm.parse_assembly(text, llvm.create_context())
            module.verify()
        except RuntimeError as error:
            raise CompilationError(f"LLVM refuses the generated IR: {error}") from error
        module.triple = target.triple
        module.data_layout = str(target.target_data)
        # The emitters decide what is unrolled, inlined and a vector; these two tidy up. LLVM's own pipeline (O3) takes
        # longer, for code that is no faster.
        passes = llvm.create_new_module_pass_manager()
        passes.add_simplify_cfg_pass()
        passes.add_instruction_combine_pass()
        passes.run(module, llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options()))
        # llvmlite 0.50 forgets to: its ModulePassManager inherits an empty _dispose before this one.
        llvm.newpassmanagers.NewPassManager._dispose(passes)
        passes.detach()
        return module


def link(object_code: bytes, machine: Machine) -> Code:
    """Load an object file of this machine's into the process."""
    with _llvm:
        # llvmlite's memory manager places all sections side by side, as the small code model needs them.
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine(machine), use_lmm=True)
        engine.add_object_file(llvm.ObjectFileRef.from_data(object_code))
        engine.finalize_object()
        return Code(engine)


def _target_machine(machine: Machine) -> llvm.TargetMachine:
    """A new one each time: an engine takes its own away."""
    initialise = _initialise_native if machine.triple == llvm.get_process_triple() else _initialise_all
    initialise()
    # MCJIT loads ELF only, under Windows too.
    triple = machine.triple + ("-elf" if os.name == "nt" else "")
    target = llvm.Target.from_triple(triple)
    # The small model reads constants relative to the program counter, without a register for their address.
    return target.create_target_machine(
        cpu=machine.cpu, features=machine.features, opt=3, reloc="pic", codemodel="small", jit=True
    )


@cache
def _initialise_native() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


@cache
def _initialise_all() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def _undefined_symbols(object_code: bytes) -> list[str]:
    """What an object file needs from elsewhere. Only 64-bit little-endian ELF is looked into."""
    if not object_code.startswith(b"\x7fELF\x02\x01"):
        return []
    tables = {s.name(): s.data() for s in llvm.ObjectFileRef.from_data(object_code).sections() if s.name() in _TABLES}
    symbols, names = (tables[name] for name in _TABLES)
    starts = (name for name, _, _, section, _, _ in struct.iter_unpack("<IBBHQQ", symbols) if name and section == 0)
    return sorted(names[start : names.index(b"\0", start)].decode() for start in starts)


_TABLES = (b".symtab", b".strtab")


def _before_fork() -> None:
    _llvm.acquire()
    _lock.acquire()


def _after_fork() -> None:
    _lock.release()
    _llvm.release()


def _after_fork_in_child() -> None:
    # The threads that were at it stayed behind.
    _pending.clear()
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
