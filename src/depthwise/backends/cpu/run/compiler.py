"""Verified IR to machine code, by LLVM: to an object file, to assembly, and an object file to addresses."""

from __future__ import annotations

import os
import struct
from collections import deque
from contextlib import ExitStack
from functools import cache

import llvmlite.binding as llvm

from ..apart import apart
from ..library import LOCK
from ..machine import Machine
from .code import Code, CompilationError

# Engines of code that is gone. A finaliser comes at any time, in any thread: it leaves them to the next that links.
_retired: deque[llvm.ExecutionEngine] = deque()


class Linked(Code):
    """Machine code that LLVM placed, there as long as this object."""

    def __init__(self, engine: llvm.ExecutionEngine) -> None:
        self._engine = engine

    def __del__(self, retired: deque[llvm.ExecutionEngine] = _retired) -> None:
        retired.append(self._engine)

    def find(self, symbol: str) -> int:
        return apart(lambda: self._find(symbol))

    def _find(self, symbol: str) -> int:
        with LOCK:
            return int(self._engine.get_function_address(symbol))


def compile_object(text: str, machine: Machine) -> bytes:
    """The object file of an IR module, verified first; it needs no symbol from outside."""
    with LOCK, ExitStack() as owned:
        target = owned.enter_context(_target_machine(machine))
        object_code = bytes(target.emit_object(_optimised(text, target, owned)))
        missing = _undefined_symbols(object_code)
    if missing:
        # An intrinsic for which the target has no instruction, or a loop that LLVM took for one of C's functions.
        raise CompilationError(f"the generated code calls {', '.join(missing)}, which no module may")
    return object_code


def assembly(text: str, machine: Machine) -> str:
    """What the module is in the machine's own words."""
    with LOCK, ExitStack() as owned:
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


def link(object_code: bytes, machine: Machine) -> Linked:
    """Load an object file of this machine's into the process."""
    with LOCK:
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
        return Linked(engine)


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
