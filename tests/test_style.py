"""What STYLE asks of files and functions, measured: lengths, and imports that go round in no circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.test_floors import FILES, SOURCE, imported, imports

# Rarely more; each that has more is named, and no longer than the second number.
MOST_LINES, MOST_LINES_EVER = 400, 500
LONG_FILES = {"backends/cpu/emit/ir.py", "blocks.py", "cli.py", "explain/scenes.py", "functional.py", "tracing.py"}
# Of a function's body, its docstring left out: a screen.
MOST_FUNCTION_LINES = 60

# The rooms of the CPU backend, lowest first: an import goes to a lower one, or stays in its room.
ROOMS = [
    "apart",
    "library",
    "disk",
    "machine",
    "plan",
    "emit",
    "run",
    "lower",
    "pack",
    "launch",
    "norms",
    "gates",
    "activations",
    "chains",
    "gradients",
    "parts",
    "sums",
    "series",
    "inspection",
    "peak",
    "autograd",
    "plain",
    "operators",
    "__init__",
]
CPU = SOURCE / "backends" / "cpu"


def named(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def function_lines(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The name of each function, and the lines from its first statement to its last."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            yield node.name, (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def modules() -> dict[str, Path]:
    """Every file by the name it is imported by."""
    found = {}
    for path in FILES:
        parts = ["depthwise", *path.relative_to(SOURCE).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def graph() -> dict[str, set[str]]:
    """For every file those that it imports, inside functions too; what is only for type checkers is left out."""
    known = modules()
    found = {}
    for path in known.values():
        # A name may be a module, or something in one.
        names = imported(path) - imported_for_types(path)
        places = {known.get(f"{module}.{name}") or known.get(module) for module, name in names}
        found[named(path)] = {named(place) for place in places if place is not None and place != path}
    return found


def imported_for_types(path: Path) -> set[tuple[str, str | None]]:
    """What a file imports under `if TYPE_CHECKING` and nowhere else."""
    tree = ast.parse(path.read_text())
    guarded = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    spans = [(node.lineno, node.end_lineno or node.lineno) for node in guarded]
    return imported(path, spans)


def circle(edges: Mapping[str, set[str]]) -> list[str] | None:
    """Nodes each of which leads to the next, the last to the first; None where there are no such."""
    done: set[str] = set()

    def visit(node: str, way: list[str]) -> list[str] | None:
        if node in way:
            return way[way.index(node) :]
        if node in done:
            return None
        for following in sorted(edges.get(node, ())):
            found = visit(following, [*way, node])
            if found is not None:
                return found
        done.add(node)
        return None

    return next((found for node in sorted(edges) if (found := visit(node, [])) is not None), None)


def room(path: Path) -> str:
    return path.relative_to(CPU).parts[0].removesuffix(".py")


def test_files_are_short() -> None:
    long = {named(path): lines(path) for path in FILES if lines(path) > MOST_LINES}
    assert set(long) <= LONG_FILES, long
    assert max(long.values()) <= MOST_LINES_EVER


@pytest.mark.parametrize("path", FILES, ids=named)
def test_functions_fit_a_screen(path: Path) -> None:
    long = {name: count for name, count in function_lines(ast.parse(path.read_text())) if count > MOST_FUNCTION_LINES}
    assert not long


def test_imports_go_round_in_no_circle() -> None:
    assert circle(graph()) is None


@pytest.mark.parametrize("path", sorted(CPU.rglob("*.py")), ids=named)
def test_rooms_of_the_cpu_backend_import_lower_ones(path: Path) -> None:
    for name in imports(path):
        parts = name.split(".")
        if parts[:3] == ["depthwise", "backends", "cpu"] and len(parts) > 3 and parts[3] in ROOMS:
            assert ROOMS.index(parts[3]) <= ROOMS.index(room(path)), f"{named(path)} imports {name}"


def test_the_checks_can_fail() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
    long = "def f():\n    '''Doc.'''\n" + "    x = 1\n" * 61
    assert dict(function_lines(ast.parse(long))) == {"f": 61}
    edges = graph()
    assert "geometry.py" in edges["functional.py"]
    assert "backends/cpu/emit/ir.py" in edges["backends/cpu/emit/tile.py"]
    assert {room(path) for path in CPU.rglob("*.py")} <= set(ROOMS)
