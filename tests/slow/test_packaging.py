"""What a user gets: the wheel in a bare environment, and both commands from a fresh clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import depthwise

pytestmark = [pytest.mark.slow, pytest.mark.alone]
ROOT = Path(__file__).parents[2]
# Nothing of the environment that runs the tests: a bare shell with pip's settings. Python compiles what is imported: of
# this option pip takes a "no" for a yes.
BARE = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("VIRTUAL_ENV", "PYTHON", "MAKE", "MFLAGS"))
} | {"PIP_NO_COMPILE": "0"}


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=cwd, env=BARE | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    constraints = str(ROOT / "constraints.txt")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT, cwd=folder, PIP_CONSTRAINT=constraints)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "depthwise/py.typed" in names
    assert {"depthwise/explain/web/page.js", "depthwise/explain/web/page.css", "depthwise/page/report.css"} <= set(
        names
    )
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names} == {"depthwise", f"depthwise-{depthwise.__version__}.dist-info"}


def test_the_long_description_needs_no_repository(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("dist-info/METADATA"))
    text = archive.read(name).decode()
    assert f"Version: {depthwise.__version__}\n" in text
    assert "the CPU backend (`docs/cpu.md` in the source)" in text
    assert not re.findall(r"\]\((?!https?:)", text)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("a clone needs git and a repository, and this is neither")
    folder = tmp_path_factory.mktemp("clone")
    run("git", "clone", "-q", str(ROOT), "depthwise", cwd=folder)
    return folder / "depthwise"


@pytest.fixture(scope="module")
def bare(clone: Path, wheel: Path) -> Path:
    """An environment with the wheel and what it needs alone: the clone's, to which the commands below add."""
    run("make", ".venv/bin/python", cwd=clone)
    python = clone / ".venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", wheel, cwd=clone, PIP_CONSTRAINT=str(ROOT / "constraints.txt"))
    return clone / ".venv"


def test_the_wheel_in_a_bare_environment(bare: Path, tmp_path: Path) -> None:
    python = bare / "bin" / "python"
    program = "import torch, depthwise; print(depthwise.SeparableConv2d(3, 8, 3)(torch.ones(1, 3, 7, 7)).shape)"
    assert run(python, "-W", "error", "-c", program, cwd=tmp_path).stdout == "torch.Size([1, 8, 5, 5])\n"
    command = python.parent / "depthwise"
    assert "10,275" in run(command, "explain", "3x7x7", "--filters", "128", "--kernel", "3", cwd=tmp_path).stdout
    run(command, "explain", "--html", "page.html", cwd=tmp_path)
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == (ROOT / "docs" / "explain.html").read_text(
        encoding="utf-8"
    )
    assert "eager" in run(command, "doctor", cwd=tmp_path).stdout
    assert "MACs" in run(command, "count", "torch.nn:Identity", "--input", "3x7x7", cwd=tmp_path).stdout
    demo = subprocess.run([command, "demo"], cwd=tmp_path, env=BARE, capture_output=True, text=True, check=False)
    assert demo.returncode == 1
    assert "pip install 'depthwise[demo]'" in " ".join(demo.stderr.split())


def test_make_demo_from_a_fresh_clone(clone: Path) -> None:
    run("make", ".venv/.demo", cwd=clone)
    started = time.monotonic()
    out = run("make", "demo", cwd=clone).stdout
    assert time.monotonic() - started < 180
    assert "promise kept" in out
    assert (clone / "report.html").stat().st_size > 10_000


def test_make_test_from_a_fresh_clone(clone: Path) -> None:
    """That it installs what every test imports; CI runs the whole of it from a clone of its own."""
    out = run("make", "test", cwd=clone, PYTEST_ADDOPTS="-k test_reference").stdout
    assert re.search(r"\d+ passed", out)
    assert " failed" not in out
