"""The report: its numbers, its frontier, and what it looks like as text, JSON and HTML."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from torch import nn

from depthwise import DepthwiseError, count, separate_
from depthwise.separate import Separation
from depthwise.separate.page import document
from tests.support.dense import convolutional, images


@pytest.fixture(scope="module")
def separated() -> tuple[nn.Module, Separation]:
    model = convolutional()
    return model, separate_(model, images(), budget=0.4)


def test_the_multiplications_are_those_that_count_counts(separated: tuple[nn.Module, Separation]) -> None:
    model, report = separated
    dense = convolutional()
    for network, key in ((dense, "multiplications_before"), (model, "multiplications_after")):
        rows = [row for row in count(network, (3, 12, 12)).rows if "convolution" in row.kind]
        assert sum(row.cost.multiplications for row in rows) == getattr(report, key)


def test_the_frontier_goes_from_the_least_to_all(separated: tuple[nn.Module, Separation]) -> None:
    _, report = separated
    frontier = report.frontier()
    assert len(frontier) == 10
    spent = [point.multiplications for point in frontier]
    errors = [point.predicted_error for point in frontier]
    assert spent == sorted(spent)
    assert errors == sorted(errors, reverse=True)
    assert (spent[-1], errors[-1]) == (report.multiplications_before, 0)
    assert errors[0] > 0
    assert all(point.multiplications <= point.budget * report.multiplications_before + 1 for point in frontier)
    assert frontier[0].multiplications < report.multiplications_after < frontier[-1].multiplications
    assert frontier[-1].predicted_error < report.predicted_error < errors[0]


def test_the_prediction_is_near_what_came(separated: tuple[nn.Module, Separation]) -> None:
    _, report = separated
    assert report.output_error is not None
    assert report.output_error / 3 < report.predicted_error < 3 * report.output_error


def test_the_report_is_the_same_after_a_round_through_json(
    separated: tuple[nn.Module, Separation], tmp_path: Path
) -> None:
    _, report = separated
    assert Separation.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    report.save(tmp_path / "report.json")
    assert Separation.load(tmp_path / "report.json") == report


def test_what_is_no_report_is_told(tmp_path: Path) -> None:
    with pytest.raises(DepthwiseError, match="this is no report of a separation in format 1"):
        Separation.from_dict({"layers": []})
    with pytest.raises(DepthwiseError, match="the report of a separation is not whole: KeyError: 'per'"):
        Separation.from_dict({"format": 1})
    with pytest.raises(DepthwiseError, match=r"missing\.json does not load as the report of a separation"):
        Separation.load(tmp_path / "missing.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DepthwiseError, match="does not load as the report of a separation: Expecting"):
        Separation.load(tmp_path / "broken.json")


def test_the_text_says_what_became_of_every_layer(separated: tuple[nn.Module, Separation]) -> None:
    _, report = separated
    text = str(report)
    for layer in report.separated:
        (row,) = [line for line in text.splitlines() if line.startswith(f"{layer.name} ")]
        assert str(layer.form) in row
        assert f"{layer.multiplications_after:,}" in row
        assert f"{layer.relative_error:.4f}" in row
    assert f"{report.share:.1%}" in text
    assert f"network's output on 64 samples: {report.output_error:.4f}" in text
    assert len(report.separated) == 3 or "stays dense: the budget has room for it" in text


def test_the_page_has_the_plot_and_loads_nothing(separated: tuple[nn.Module, Separation]) -> None:
    _, report = separated
    page = document(report)
    assert page.count("<circle ") == 11
    assert f"At {report.share:.1%} of the multiplications" in page
    assert not re.search(r"<(script|link|iframe|object)\b|@import|url\(", page)
    assert report._repr_html_() in page or report._repr_html_()[:200] in page
    assert "this network" in report._repr_html_()


def test_a_model_without_anything_to_separate() -> None:
    report = separate_(nn.Sequential(nn.Conv2d(3, 4, 1)).eval(), images(4))
    assert report.layers[0].reason == "its kernel is a single pixel"
    assert (report.share, report.frontier(), report.output_error) == (1.0, (), 0.0)
    assert "<svg" not in report._repr_html_()
    assert "0 of 1 convolutions separated" in str(report)


def test_without_sizes_multiplications_are_those_of_an_output_position() -> None:
    model = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2)).eval()
    report = separate_(model, budget=0.5)
    assert report.per == "output position"
    assert report.multiplications_before == 8 * 16 * 9
    assert report.output_error is None
    assert "multiplications per output position" in str(report)


def test_unseen_directions_are_told() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3)).eval()
    x = images(16)
    x[:, 1] = 0
    report = separate_(model, x, budget=0.5)
    assert report.layers[0].unseen == report.layers[0].multiplier
    assert f"0: the calibration data leave {report.layers[0].unseen} directions of its inputs unseen" in str(report)
