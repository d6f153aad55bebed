"""A problem and a machine become plans: frozen, pure numbers, printable; no LLVM and no tensor."""
