"""An import goes only to a lower floor, and `import depthwise` stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "depthwise"

# Lowest first; within a floor the later may import the earlier. A folder stands for its files, which may import one
# another. docs/floors.md says what each is for.
FLOORS = [
    ["errors", "version", "geometry", "files"],
    ["cost", "activations", "reference", "factorize", "folding", "modules"],
    ["backends"],
    ["operators", "functional", "refusals", "norms", "chains", "gates", "elementwise"],
    ["layers"],
    ["blocks", "keras"],
    ["inputs", "tracing", "count", "preparing", "measure"],
    [
        "page",
        "explain",
        "accelerate",
        "doctor",
        "separate",
        "bench",
        "optimize",
        "demo",
        "loading",
        "separating",
        "optimizing",
    ],
    ["arguments", "cli", "__main__", "__init__"],
]
UNITS = [unit for floor in FLOORS for unit in floor]
WITHOUT_TORCH = {"errors", "version", "geometry", "files", "cost", "page", "explain"}


def unit(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path, within: Sequence[tuple[int, int]] = ((0, sys.maxsize),)) -> set[tuple[str, str | None]]:
    """(module, name in it) of all that a file imports within these lines, inside functions and TYPE_CHECKING too."""
    package = ["depthwise", *path.relative_to(SOURCE).parent.parts]
    found: set[tuple[str, str | None]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Import | ast.ImportFrom) or not any(a <= node.lineno <= b for a, b in within):
            continue
        if isinstance(node, ast.Import):
            found |= {(alias.name, None) for alias in node.names}
        else:
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {(module, alias.name) for alias in node.names}
    return found


def imports(path: Path) -> set[str]:
    """Absolute names of every module that a file imports."""
    return {f"{module}.{name}" if module == "depthwise" and name else module for module, name in imported(path)}


def forbidden(importer: str, imported: str) -> bool:
    return importer != imported and UNITS.index(imported) >= UNITS.index(importer)


FILES = sorted(SOURCE.rglob("*.py"))


def test_every_file_has_a_floor() -> None:
    assert {unit(path) for path in FILES} == set(UNITS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down(path: Path) -> None:
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "depthwise" and len(parts) > 1 and parts[1] in UNITS:
            assert not forbidden(unit(path), parts[1]), f"{path.name} imports {name}"
        if parts[0] == "torch":
            assert unit(path) not in WITHOUT_TORCH, f"{path.name} imports torch"


# Who may know LLVM: files that load it, compile, and name the version. IR is text, which ir.py writes.
LLVM = {"llvmlite": {"disk/store.py"}, "llvmlite.binding": {"library.py", "run/compiler.py"}}


def test_llvm_is_known_to_few() -> None:
    for path in FILES:
        for name in imports(path):
            if name.split(".")[0] == "llvmlite":
                assert path.relative_to(SOURCE / "backends" / "cpu").as_posix() in LLVM[name], f"{path} imports {name}"


def test_the_check_can_fail() -> None:
    assert forbidden("geometry", "cost")
    assert forbidden("functional", "layers")
    assert not forbidden("layers", "functional")
    assert "depthwise.functional" in imports(SOURCE / "layers" / "depthwise.py")
    assert "depthwise.geometry" in imports(SOURCE / "layers" / "depthwise.py")


def test_importing_the_package_is_light() -> None:
    heavy = {"llvmlite", "triton", "matplotlib", "mlxtend", "sklearn", "timm", "typer", "rich"}
    # Where triton is installed, torch's counter of FLOPs loads it.
    heavy |= {"torch.utils.flop_counter"}
    program = "import sys, torch; before = set(sys.modules); import depthwise; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "depthwise.layers" in loaded
    assert not loaded & heavy
