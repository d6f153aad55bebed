"""Which layers are meant: names, patterns, lists and callables, and what means none."""

from __future__ import annotations

import re
from typing import Any

import pytest
from torch import nn

from depthwise import DepthwiseError, separate_
from depthwise.separate.selection import chosen_by
from tests.support.dense import convolutional, images


def network() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    return nn.ModuleDict({"stem": stem, "stem2": nn.Conv2d(8, 8, 3), "head": nn.Sequential(nn.Conv2d(8, 8, 3))})


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("stem", ["stem.0", "stem.2"]),
        ("stem2", ["stem2"]),
        ("stem*", ["stem.0", "stem.2", "stem2"]),
        ("*.0", ["stem.0", "head.0"]),
        ("stem.[2-9]", ["stem.2"]),
        (re.compile(r"(stem|head)\.0"), ["stem.0", "head.0"]),
        (["stem2", "head"], ["stem2", "head.0"]),
        (("stem2", re.compile("head.*")), ["stem2", "head.0"]),
        (lambda name, conv: conv.in_channels == 3, ["stem.0"]),
    ],
)
def test_what_is_meant(where: Any, expected: list[str]) -> None:
    model = network()
    chosen = chosen_by(model, where)
    assert [name for name, module in model.named_modules() if chosen(name, module)] == expected


def failing(name: str, _: nn.Module) -> bool:
    raise KeyError(name)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("tail", r"where= 'tail' means no convolution of the model, which has: stem\.0, stem\.2, stem2, head\.0"),
        (["stem", "hea"], "where= 'hea' means no convolution"),
        (re.compile("ste"), "where= 'ste' means no convolution"),
        ("", "where= '' means no convolution"),
        ([], r"where= is a callable of name and module, a name, a pattern, or a list of those; got \[\]"),
        ([3], "where= is a callable .*; got "),
        (3, "where= is a callable .*; got 3"),
        (lambda name, _: False, "where= means none of the 4 convolutions of the model"),
        (failing, "where= failed on stem.0: KeyError: 'stem.0'"),
    ],
)
def test_what_means_nothing_is_told(where: Any, message: str) -> None:
    with pytest.raises(DepthwiseError, match=message):
        chosen_by(network(), where)


def test_it_is_what_separate_takes() -> None:
    model = convolutional()
    report = separate_(model, images(32), budget=0.3, where=["0", "6"])
    assert [layer.name for layer in report.layers if layer.options] == ["0", "6"]
    assert report.layers[1].reason == "excluded by where="
    with pytest.raises(DepthwiseError, match="where= 'conv' means no convolution of the model, which has: 0, 3, 6"):
        separate_(convolutional(), images(32), where="conv")
