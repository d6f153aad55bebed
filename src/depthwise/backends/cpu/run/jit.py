"""Verified IR to machine code to addresses: from memory, from disk, or compiled.

LLVM works on threads of its own (apart.py): an interrupt in the midst of it would leave locks taken, and native objects
to the garbage collector, which knows nothing of the order in which they go.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from threading import RLock
from weakref import WeakValueDictionary

import llvmlite.binding as llvm

from ..apart import AbandonedError, Task, apart
from ..machine import Machine
from . import store

# Of code that nobody holds any more.
KEPT_MODULES = 512


class CompilationError(RuntimeError):
    """LLVM refused what an emitter wrote, or made of it what must not be loaded: our fault, not the caller's."""


# Engines of code that is gone. A finaliser comes at any time, in any thread: it leaves them to the next that compiles.
_retired: deque[llvm.ExecutionEngine] = deque()


class Code:
    """Machine code of one module, in memory as long as this object."""

    def __init__(self, engine: llvm.ExecutionEngine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}

    def __del__(self, retired: deque[llvm.ExecutionEngine] = _retired) -> None:
        retired.append(self._engine)

    def address(self, symbol: str) -> int:
        if symbol not in self._addresses:
            self._addresses[symbol] = apart(lambda: _address(self._engine, symbol))
        return self._addresses[symbol]


def _address(engine: llvm.ExecutionEngine, symbol: str) -> int:
    with _llvm:
        address = int(engine.get_function_address(symbol))
    if not address:
        raise CompilationError(f"the module has no function {symbol!r}")
    return address


# Whatever a caller holds is found again; beside that, the modules loaded last stay.
_loaded: WeakValueDictionary[tuple[Machine, str], Code] = WeakValueDictionary()
_kept: deque[Code] = deque(maxlen=KEPT_MODULES)
# Looked up and added to in single steps, without a lock: a signal's handler may ask for what it interrupted.
_pending: dict[tuple[Machine, str], Task[Code]] = {}

# Held while LLVM works, and across a fork: no child is born with LLVM's locks held by a thread that it does not have.
# llvmlite runs one call at a time anyway; emitters run outside.
_llvm = RLock()


def load(key: str, machine: Machine, emit: Callable[[], str]) -> Code:
    """The code of the module that `emit` writes, compiled once per key and machine however many threads ask.

    Where that fails, every thread that waits gets the error, and the next one to ask tries again.
    """
    entry = machine, key
    while True:
        code = _loaded.get(entry)
        if code is not None:
            return code
        try:
            return _pending.setdefault(entry, Task(partial(_load_once, entry, emit))).result()
        except AbandonedError:
            continue


def _load_once(entry: tuple[Machine, str], emit: Callable[[], str]) -> Code:
    machine, key = entry
    try:
        # Another may have been done with it since it was looked for.
        code = _loaded.get(entry)
        if code is None:
            code = _from_disk_or_compiled(key, machine, emit)
            _loaded[entry] = code
            _kept.append(code)
        return code
    finally:
        _pending.pop(entry, None)


def _from_disk_or_compiled(key: str, machine: Machine, emit: Callable[[], str]) -> Code:
    object_code = store.read(key, machine)
    if object_code is None:
        object_code = compile_object(emit(), machine)
        store.write(key, machine, object_code)
    return link(object_code, machine)


def compile_object(text: str, machine: Machine) -> bytes:
    """The object file of an IR module, verified first; it needs no symbol from outside."""
    with _llvm, ExitStack() as owned:
        target = owned.enter_context(_target_machine(machine))
        object_code = bytes(target.emit_object(_optimised(text, target, owned)))
        missing = _undefined_symbols(object_code)
    if missing:
        # An intrinsic for which the target has no instruction, or a loop that LLVM took for one of C's functions.
        raise CompilationError(f"the generated code calls {', '.join(missing)}, which no module may")
    return object_code


def assembly(text: str, machine: Machine) -> str:
    return apart(lambda: _assembly(text, machine))


def _assembly(text: str, machine: Machine) -> str:
    with _llvm, ExitStack() as owned:
        target = owned.enter_context(_target_machine(machine))
        return str(target.emit_assembly(_optimised(text, target, owned)))


def _optimised(text: str, target: llvm.TargetMachine, owned: ExitStack) -> llvm.ModuleRef:
    """The module, there until `owned` is closed."""
    # In a context of its own, so that its types and constants go when it does.
    context = owned.enter_context(llvm.create_context())
    try:
        module = owned.enter_context(llvm.parse_assembly(text, context))
        module.verify()
    except RuntimeError as error:
        raise CompilationError(f"LLVM refuses the generated IR: {error}") from error
    module.triple = target.triple
    with target.target_data as data:
        module.data_layout = str(data)
    # The emitters decide what is unrolled, inlined and a vector; these two tidy up. LLVM's own pipeline (O3) takes
    # longer, for code that is no faster.
    passes = owned.enter_context(llvm.create_new_module_pass_manager())
    # llvmlite 0.50 forgets to: its ModulePassManager inherits an empty _dispose before this one.
    owned.callback(llvm.newpassmanagers.NewPassManager._dispose, passes)
    passes.add_simplify_cfg_pass()
    passes.add_instruction_combine_pass()
    options = owned.enter_context(llvm.create_pipeline_tuning_options())
    passes.run(module, owned.enter_context(llvm.create_pass_builder(target, options)))
    return module


def link(object_code: bytes, machine: Machine) -> Code:
    """Load an object file of this machine's into the process."""
    with _llvm:
        while _retired:
            _retired.popleft().close()
        with ExitStack() as owned:
            # An engine takes both away.
            target = owned.enter_context(_target_machine(machine))
            module = owned.enter_context(llvm.parse_assembly(""))
            # llvmlite's memory manager places all sections side by side, as the small code model needs them.
            engine = owned.enter_context(llvm.create_mcjit_compiler(module, target, use_lmm=True))
            with llvm.ObjectFileRef.from_data(object_code) as file:
                engine.add_object_file(file)
            engine.finalize_object()
            owned.pop_all()
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
    with llvm.ObjectFileRef.from_data(object_code) as file:
        tables = {s.name(): s.data() for s in file.sections() if s.name() in _TABLES}
    symbols, names = (tables[name] for name in _TABLES)
    starts = (name for name, _, _, section, _, _ in struct.iter_unpack("<IBBHQQ", symbols) if name and section == 0)
    return sorted(names[start : names.index(b"\0", start)].decode() for start in starts)


_TABLES = (b".symtab", b".strtab")


def _after_fork_in_child() -> None:
    # The threads that were at it stayed behind.
    _pending.clear()
    _llvm.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_llvm.acquire, after_in_parent=_llvm.release, after_in_child=_after_fork_in_child)
