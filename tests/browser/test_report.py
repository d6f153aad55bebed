"""The demo's report at any width, in both themes and on paper."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from depthwise.demo.report import document
from depthwise.page.document import document as page_around
from depthwise.page.table import framed, html_table
from tests.browser.conftest import AXE, Browser, faults, needed
from tests.support.results import made_up_result

PAGE = document(made_up_result())


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1440])
def test_nothing_is_scrolled_sideways(browser: Browser, width: int, dark: bool) -> None:
    browser.look(width, dark=dark)
    browser.open(PAGE)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == (
        "rgb(17, 24, 39)" if dark else "rgb(255, 255, 255)"
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(browser: Browser, dark: bool) -> None:
    needed(AXE.exists(), "needs axe-core: npm ci")
    browser.look(1440, dark=dark)
    browser.open(PAGE)
    browser.run(AXE.read_text(encoding="utf-8"))
    assert faults(browser) == []


def test_on_a_phone_each_cell_says_what_it_is(browser: Browser) -> None:
    browser.look(390)
    browser.open(PAGE)
    label = "return getComputedStyle(document.querySelector(arguments[0]), '::before').content"
    assert browser.run(label, ".folds tbody td") == '"dense"'
    assert browser.run(label, ".folds tr.verdict td:nth-child(3)") == '"budget 50%"'
    # A table without such names keeps its head.
    head = "return getComputedStyle(document.querySelector('.depthwise-separate thead')).display"
    assert browser.run(head) == "table-header-group"


def test_charts_are_readable_on_a_phone(browser: Browser) -> None:
    browser.look(390)
    browser.open(PAGE)
    heights = browser.run(
        "return [...document.querySelectorAll('.chart text')].map(text => text.getBoundingClientRect().height)"
    )
    assert min(heights) >= 10


def test_no_picture_is_cut_on_paper(browser: Browser, tmp_path: Path) -> None:
    needed(shutil.which("pdftotext"), "needs pdftotext: apt-get install poppler-utils")
    browser.open(marked(PAGE), scripts=False)
    browser.pdf(tmp_path / "page.pdf")
    done = subprocess.run(["pdftotext", "page.pdf", "-"], cwd=tmp_path, capture_output=True, text=True, check=True)
    pages = done.stdout.split("\f")
    for number in range(7):
        on = [index for index, page in enumerate(pages) if f"TOP{number}." in page]
        assert len(on) == 1
        assert on == [index for index, page in enumerate(pages) if f"END{number}." in page]


def test_no_page_is_blank_wherever_a_table_ends(browser: Browser, tmp_path: Path) -> None:
    needed(shutil.which("pdftotext"), "needs pdftotext: apt-get install poppler-utils")
    rows = [(str(number), "cpu " * 300) for number in range(8)]
    table = framed("depthwise-optimize", html_table(("layer", "runs on"), rows))
    for height in range(0, 120, 8):
        above = f'<div style="height: {height}px"></div>'
        browser.open(page_around("a report", above + table), scripts=False)
        browser.pdf(tmp_path / "page.pdf")
        done = subprocess.run(["pdftotext", "page.pdf", "-"], cwd=tmp_path, capture_output=True, text=True, check=True)
        *pages, rest = done.stdout.split("\f")
        assert not rest
        assert all("cpu" in page for page in pages), height


def marked(page: str) -> str:
    """The first and the last line of each picture, marked."""
    pieces = page.split("<svg ")
    for number, piece in enumerate(pieces[1:]):
        head, rest = piece.split(">", 1)
        height = head.split('viewBox="')[1].split('"')[0].split()[3]
        x = 20
        mark = f'<text x="{x}" y="6">TOP{number}.</text><text x="{x}" y="{height}">END{number}.</text>'
        pieces[number + 1] = f"{head}>{mark}{rest}"
    return "<svg ".join(pieces)
