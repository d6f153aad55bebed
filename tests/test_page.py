"""Parts of every report: the page around it, SVG, and charts that do not mislead."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from depthwise.page.chart import Bar, Dot, bars, dots
from depthwise.page.document import document, source
from depthwise.page.table import framed, html_table


def test_a_page_loads_nothing_and_escapes_its_title() -> None:
    page = document("a <b>", "<p>body</p>", css=".own {}", script="start();\n")
    assert page.startswith("<!DOCTYPE html>")
    assert "<title>a &lt;b&gt;</title>" in page
    assert page.index(".own {}") < page.index("<p>body</p>") < page.index("start();")
    assert "://" not in page
    assert "<script" not in document("a", "b")


def test_both_themes_and_paper_have_every_colour() -> None:
    for css in (source("page", "report.css"), source("explain", "web", "picture.css")):
        light, dark, paper = (
            set(re.findall(r"(--\w+):", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)
        )
        assert light == dark
        assert paper <= light
        # The accent is that of links and of what has the focus: none on paper.
        assert light - paper <= {"--accent"}


def test_names_of_kernels_may_break_and_words_do_not() -> None:
    table = html_table(
        ["layer", "kernel"], [["features.denseblock_1", "fused_f32_k3x3_s1x2x2_c64<m1"], ["", "dense_f32"]]
    )
    assert "<td>fused_<wbr>f32_<wbr>k3x3_<wbr>s1x2x2_<wbr>c64&lt;m1</td>" in table
    assert "<td>features.denseblock_1</td>" in table
    assert "<td></td><td>dense_f32</td>" in table
    # Of what scrolls sideways no cell is cut to letters.
    assert ".wide td, .wide th { overflow-wrap: break-word; }" in source("page", "report.css")
    assert "anywhere" not in framed("a", "")


def test_bars_begin_at_zero_and_share_a_scale() -> None:
    chart = bars("t", [Bar("a", ((2.0, "dense"),), "2"), Bar("b", ((1.0, "depthwise"), (3.0, "pointwise")), "4")])
    found = [
        (float(x), float(w))
        for x, w in re.findall(r'<rect class="\w+" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', chart)
    ]
    assert found[0][0] == found[1][0] == 150
    assert found[1][0] + found[1][1] == pytest.approx(found[2][0], abs=0.01)
    assert found[0][1] / found[2][1] == pytest.approx(2 / 3, abs=0.001)
    ET.fromstring(chart)


def test_ten_times_as_much_is_always_as_far() -> None:
    rows = [Dot(str(value), value, "gain", str(value)) for value in (0.1, 1.0, 10.0, 100.0, 0.0)]
    chart = dots("t", rows, least=0.1, most=100, unit=" %")
    places = [float(x) for x in re.findall(r'<circle class="gain" cx="([\d.]+)"', chart)]
    steps = [b - a for a, b in pairwise(places[:4])]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.01)
    # Nothing at all is drawn at the scale's end.
    assert places[4] == places[0]
    assert [tick for tick in ("0.1 %", "1 %", "10 %", "100 %") if f">{tick}</text>" in chart] == [
        "0.1 %",
        "1 %",
        "10 %",
        "100 %",
    ]


def test_what_a_chart_says_can_be_read_aloud() -> None:
    assert 'aria-label="t &amp; u. a: 2"' in bars("t & u", [Bar("a", ((2.0, "dense"),), "2")])
