"""Machine code in memory, however it came there."""

from __future__ import annotations

from abc import ABC, abstractmethod


class CompilationError(RuntimeError):
    """LLVM refused what an emitter wrote, or made of it what must not be loaded: our fault, not the caller's."""


class Code(ABC):
    """Machine code of one module, in memory as long as this object."""

    def address(self, symbol: str) -> int:
        """Of a function; raises CompilationError where there is none of that name."""
        found = self.find(symbol)
        if not found:
            raise CompilationError(f"the module has no function {symbol!r}")
        return found

    @abstractmethod
    def find(self, symbol: str) -> int:
        """The address of a function, 0 where there is none of that name."""
