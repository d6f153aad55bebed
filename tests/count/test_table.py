"""Tables of counts: exact text, and width."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from torch import nn

from depthwise.count import count

from ..support.networks import timm_model


def test_the_worked_example_as_text() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3, bias=False), nn.Conv2d(3, 128, 1, bias=False))
    lines = [line.rstrip() for line in str(count(model, (3, 7, 7))).splitlines()]
    assert lines == [
        "layer  kind                    output   MACs  parameters   bytes  FLOP/B   dense MACs",
        "-------------------------------------------------------------------------------------",
        "0      depthwise convolution    3x5x5    675          27     996     1.4  in its pair",
        "1      pointwise convolution  128x5x5  9,600         384  14,636     1.3       86,400",
        "-------------------------------------------------------------------------------------",
        "kind                   calls  multiplications  share  parameters  share   bytes  share",
        "pointwise convolution      1            9,600  93.4%         384  93.4%  14,636  93.6%",
        "depthwise convolution      1              675   6.6%          27   6.6%     996   6.4%",
        "-------------------------------------------------------------------------------------",
        "total: 10,275 MACs, 10,275 multiplications, 7,000 additions, 411 parameters, 15,632 bytes moved",
        "dense: 86,400 MACs, 3,456 parameters with every grouped and separable convolution dense; this model has",
        "  11.9% of those multiplications",
        "in its pair: the dense convolution that a depthwise and a pointwise one stand for is counted in the line",
        "  of the pointwise one",
    ]


def test_a_training_step_has_a_line() -> None:
    text = str(count(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), (3,), backward=True))
    # 15 + 10 forward; the weights' 25, and the 10 that lead back to the first layer.
    assert "training step: 60 multiplications, 35 of them for gradients" in text
    assert "training step" not in str(count(nn.ReLU(), (3,)))


def test_every_number_is_written_out() -> None:
    text = str(count(nn.Conv2d(64, 64, 3), (64, 100, 100)))
    assert "354,041,856" in text
    assert not re.search(r"\d (K|M|G|T|KiB|MiB)\b", text)


def test_no_line_is_too_long() -> None:
    model = nn.Sequential()
    model.add_module("a_name_" * 20 + "end", timm_model("ghostnetv2_100"))
    table = str(count(model, (3, 224, 224)))
    assert max(map(len, table.splitlines())) <= 120
    assert "…" in table


def test_equal_calls_share_a_line() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    lines = str(count(nn.Sequential(conv, nn.ReLU(), conv), (4, 6, 6))).splitlines()
    assert [line.split("  ")[0] for line in lines[2:4]] == ["0", "1"]
    assert "convolution x2" in lines[2]
    # 2 x 144 outputs x 36 products; the parameters are read twice, and are the same.
    assert "10,368" in lines[2]
    assert " 148 " in lines[2]


def test_html_is_escaped_and_well_formed() -> None:
    model = nn.Sequential()
    model.add_module("<b>&", nn.Conv2d(3, 3, 1))
    # A parser of XML accepts neither an open tag nor an unescaped character.
    page = ET.fromstring(count(model, (3, 4, 4))._repr_html_())
    assert [cell.text for cell in page.iter("td")][:4] == ["<b>&", "pointwise convolution", "3x4x4", "144"]
    assert [table.find("thead") is not None for table in page.iter("table")] == [True, True]
    assert [cell.text for cell in page.iter("p")] == [
        "total: 144 MACs, 144 multiplications, 144 additions, 12 parameters, 432 bytes moved"
    ]
