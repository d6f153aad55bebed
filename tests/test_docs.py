"""What the README and docs/ say is so; their examples run as doctests."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer.main

import depthwise
from depthwise import explain
from depthwise.activations import ACTIVATIONS
from depthwise.backends.cpu.emit import activations as emitted
from depthwise.backends.cpu.emit import derivatives
from depthwise.cli import app
from depthwise.cost import separable_cost
from depthwise.geometry import geometry

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_readmes_numbers() -> None:
    cost = separable_cost(geometry((3, 7, 7), 3, out_channels=128))
    dense, first, second = (c.multiplications for c in (cost.dense, cost.depthwise, cost.pointwise))
    sentence = f"costs {dense:,} multiplications; its separable form costs {first:,} + {second:,} = {first + second:,}"
    assert sentence in " ".join(README.split())
    assert f"that is {100 * cost.ratio:.1f} %" in README


def test_the_readmes_picture_is_what_explain_draws() -> None:
    drawn = explain((3, 7, 7), 128, 3).svg
    again = "depthwise explain 3x7x7 --filters 128 --kernel 3 --svg docs/example.svg"
    assert (ROOT / "docs" / "example.svg").read_text() == drawn, f"draw it again: {again}"


def test_the_long_description_needs_no_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    # The build has hatchling; who runs the tests may not.
    interface = SimpleNamespace(MetadataHookInterface=object)
    for name in ("hatchling", "hatchling.metadata", "hatchling.metadata.plugin"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    monkeypatch.setitem(sys.modules, "hatchling.metadata.plugin.interface", interface)
    standalone = runpy.run_path(str(ROOT / "hatch_build.py"))["standalone"]
    assert standalone("![A picture](docs/a.svg)\n\nsee [a page](docs/a.md)") == "see a page (`docs/a.md` in the source)"
    assert standalone("[it](https://a.b/c) ![p](https://a.b/d)") == "[it](https://a.b/c) ![p](https://a.b/d)"
    text = standalone(README)
    assert "](docs/" not in text
    assert "![" not in text
    assert "promise kept" in text


def test_the_version_is_said_once() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", depthwise.__version__)
    assert not re.search(r'^version = "', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)


def test_the_docs_page_is_what_explain_writes() -> None:
    again = "depthwise explain --html docs/explain.html"
    assert (ROOT / "docs" / "explain.html").read_text(encoding="utf-8") == explain((3, 7, 7), 128, 3).html, (
        f"write it again: {again}"
    )


def test_the_first_screen_has_the_layer_by_hand_and_in_one_line() -> None:
    first_screen = "\n".join(README.splitlines()[:22])
    assert "nn.Conv2d(3, 3, 3, groups=3, bias=False), nn.Conv2d(3, 128, 1, bias=False)" in first_screen
    assert "SeparableConv2d(3, 128, 3, bias=False)" in first_screen


def test_the_two_commands_stand_on_the_first_screen() -> None:
    first_screen = README.splitlines()[:12]
    for command in ("make demo", "make test"):
        assert any(line.strip().startswith(command) for line in first_screen)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_and_commands_exist(page: Path) -> None:
    text, makefile = page.read_text(), (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^ +|`)make ([a-z-]+)", text, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"{page.name} says make {target}"
    commands = typer.main.get_command(app)
    for line in re.findall(r"(?:\$ |`)depthwise ([a-z].*?)(?:`|$)", text, flags=re.MULTILINE):
        name, *arguments = shlex.split(line)
        assert name in commands.commands, f"{page.name} says depthwise {name}"  # type: ignore[attr-defined]
        if any(argument.startswith("--") for argument in arguments):
            known = {option for parameter in commands.commands[name].params for option in parameter.opts}  # type: ignore[attr-defined]
            assert {a for a in arguments if a.startswith("--")} <= known, line


def test_the_makefile_finds_every_test_that_runs_alone() -> None:
    (command,) = re.findall(r"pytest -q -m alone (.+)", (ROOT / "Makefile").read_text())
    places = [ROOT / place for place in command.split()]
    marked = [path for path in (ROOT / "tests").rglob("*.py") if "pytest.mark." + "alone" in path.read_text()]
    assert len(marked) > 1
    assert all(place.exists() for place in places)
    assert not [path for path in marked if not any(path.is_relative_to(place) for place in places)]


def test_the_places_that_contributing_lists_hold_every_activation() -> None:
    """Who follows the list has done all: no activation stands in a further table."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    tables: dict[str, Any] = {
        "EMITTERS": emitted.EMITTERS,
        "ERROR_BOUNDS": emitted.ERROR_BOUNDS,
        "GRADIENTS": derivatives.GRADIENTS,
    }
    for name, table in tables.items():
        assert f"`{name}`" in text
        assert table.keys() == ACTIVATIONS.keys()
    places = re.findall(r"`(\w+)`(?: and `(\w+)`)? (?:in|of)\s+\[[^\]]*\]\(([\w/.]+\.py)\)", text)
    assert len(places) >= 6
    for first, second, path in places:
        content = (ROOT / path).read_text()
        assert all(re.search(rf"^(def )?{name}\b", content, re.MULTILINE) for name in (first, second) if name), path


def test_the_public_face_is_short_and_complete() -> None:
    assert len(depthwise.__all__) <= 30
    assert all(hasattr(depthwise, name) for name in depthwise.__all__)


def test_every_public_name_is_documented() -> None:
    for name in depthwise.__all__:
        assert getattr(depthwise, name).__doc__, name
