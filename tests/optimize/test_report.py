"""What is told of a network: as text, as a dict, as HTML."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

from depthwise import SeparableConv2d, optimize
from depthwise.optimize.module import Optimized
from depthwise.optimize.page import document


@pytest.fixture(scope="module")
def network() -> Optimized:
    torch.manual_seed(0)
    layers = [
        *(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()),
        *(SeparableConv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(16, 4), nn.Tanh()),
    ]
    return optimize(nn.Sequential(*layers).eval(), torch.zeros(1, 3, 17, 17))


def test_the_text(network: Optimized) -> None:
    lines = str(network.report).splitlines()
    assert lines[0].split() == ["layer", "operator", "output", "runs", "on", "kernel,", "or", "why", "not", "ours"]
    rows = [line.split()[:4] for line in lines[2:9]]
    assert rows == [
        ["0", "layout", "3x17x17", "cpu"],
        ["0", "conv", "8x8x8", "cpu"],
        ["3", "separable", "16x8x8", "cpu"],
        ["5", "adaptive_avg_pool2d", "16x1x1", "cpu"],
        ["6", "flatten", "16", "cpu"],
        ["7", "linear", "4", "cpu"],
        ["8", "tanh", "4", "torch"],
    ]
    assert "no work: another look at its input" in lines[2]
    assert "fused_f32_k3x3" in lines[4]
    assert "tanh has no kernel of ours" in lines[8]
    assert lines[10:] == [
        "3 of 3 convolutions on our kernels, 2 segments",
        "precision float32; weights 0.0 MiB",
        "nodes saved by pass: norms 2, activations 1, separable 1; added: layout 1",
        "4 stages, 0 barriers; arenas 0.02 MiB",
        "by torch: tanh (1)",
    ]


def test_the_dict(network: Optimized) -> None:
    content = network.report.to_dict()
    assert content["convolutions"] == {"ours": 3, "all": 3}
    assert content["saved"]["norms"] == 2
    assert content["segments"] == [["cpu", 6], ["torch", 1]]
    assert content["layers"][2]["engine"] == "cpu"
    assert json.loads(json.dumps(content)) == content


class Tags(HTMLParser):
    """Checks that every tag is closed, and collects what is loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows = 0
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "rect", "wbr"):
            self.open.append(tag)
        self.rows += tag == "tr"
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    assert not tags.open
    assert not tags.loaded
    return tags


def test_the_page(network: Optimized) -> None:
    assert parsed(network.report._repr_html_()).rows == 1 + len(network.report.layers)
    profile = network.profile(torch.zeros(1, 3, 17, 17), seconds=0.01)
    assert parsed(profile._repr_html_()).rows == 1 + len(network.report.layers)
    page = document(network.report, profile, ["twice as fast & more"])
    assert parsed(page).rows == 2 * (1 + len(network.report.layers))
    assert "<li>twice as fast &amp; more</li>" in page
    assert page.count("<svg") == 1
    assert parsed(document(network.report)).rows == 1 + len(network.report.layers)


def test_the_profile(network: Optimized) -> None:
    profile = network.profile(torch.zeros(4, 3, 17, 17), seconds=0.01)
    by_name = {timing.operator: timing for timing in profile.timings}
    assert by_name["conv"].macs == 4 * 8 * 8 * 8 * 27
    assert by_name["separable"].macs == 4 * 8 * 8 * (8 * 9 + 16 * 8)
    assert by_name["linear"].macs == 4 * 16 * 4
    assert by_name["flatten"].macs == 0
    assert by_name["linear"].bytes_moved == 4 * (4 * 16 + 4 * 16 + 4 + 4 * 4)
    assert profile.seconds == pytest.approx(sum(timing.seconds for timing in profile.timings))
    text = str(profile).splitlines()
    assert text[0].split()[:2] == ["layer", "operator"]
    assert "ms for a batch of 4 on 1 threads, each node run alone" in text[-1]
    assert repr(profile).startswith("Profile(7 nodes, ")
    content = json.loads(json.dumps(profile.to_dict()))
    assert len(content["timings"]) == 7
    assert content["batch"] == 4


def test_nothing_to_time() -> None:
    profile = optimize(nn.Identity(), torch.zeros(1, 3)).profile(torch.zeros(1, 3), seconds=0)
    assert (profile.timings, profile.rows(), profile.seconds) == ((), [], 0)
    assert "0.00 ms" in str(profile)
    parsed(profile._repr_html_())


def test_no_share_is_more_than_all(network: Optimized) -> None:
    profile = network.profile(torch.zeros(1, 3, 17, 17), seconds=0)
    shares = [timing.peak_share for timing in profile.timings]
    assert all(share is None or 0 <= share <= 1 for share in shares)


def test_several_tensors_are_counted_each() -> None:
    class Halves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = x.chunk(2, 1)
            return first + second

    profile = optimize(Halves(), torch.zeros(1, 6)).profile(torch.zeros(5, 6), seconds=0.01)
    assert [timing.bytes_moved for timing in profile.timings] == [0, 4 * 45, 4 * 45, 4 * 45]


def test_what_needs_no_work_moves_no_bytes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten())
    x = torch.randn(1, 3, 9, 9)
    found = {timing.operator: timing.bytes_moved for timing in optimize(model, x).profile(x, seconds=0.01).timings}
    # A contiguous image is read as it comes.
    assert found["layout"] == 0
    assert found["conv"] == 4 * (3 * 81 + 8 * 27 + 8 + 8 * 49)
