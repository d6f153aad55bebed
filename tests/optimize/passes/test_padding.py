"""Zeros around an image become the convolution's padding; nothing else does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise.optimize.passes.padding import fold_padding
from tests.support.passes import after, calls, captured


@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 1, 2, 0), (3, 0), (0, 0, 1, 1, 0, 0, 0, 0)])
@pytest.mark.parametrize("padding", [0, (2, 1)])
def test_zeros_around_an_image(pads: tuple[int, ...], padding: int | tuple[int, int]) -> None:
    model = calls(lambda x, conv: conv(F.pad(x, pads)), conv=nn.Conv2d(6, 4, 3, stride=2, padding=padding))
    assert after(model, fold_padding) == ["conv"]


def test_the_padding_is_that_of_each_side() -> None:
    model = calls(lambda x, conv: conv(F.pad(x, (0, 1, 2, 3))), conv=nn.Conv2d(6, 4, 3, padding=1))
    assert fold_padding(captured(model, 1, 6, 9, 8)).graph.nodes[0]["padding"] == ((3, 4), (1, 2))


@pytest.mark.parametrize(
    "pad",
    [
        lambda x: F.pad(x, (1, 1, 1, 1), value=0.5),
        lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
        lambda x: F.pad(x, (2, -1, 1, 1)),
        lambda x: F.pad(x[:, :4], (1, 1, 0, 0, 1, 1)),
    ],
)
def test_what_is_no_zero_around_an_image_stays(pad: Callable[[Tensor], Tensor]) -> None:
    model = calls(lambda x, conv: conv(pad(x)), conv=nn.Conv2d(6, 4, 3))
    assert "conv" in after(model, fold_padding)
    assert any(name in after(model, fold_padding) for name in ("pad", "aten.pad.default"))


def test_a_padded_image_that_a_pool_reads_too_stays_for_it() -> None:
    model = calls(lambda x, conv: (conv(y := F.pad(x, (1, 1, 1, 1))), torch.relu(y)), conv=nn.Conv2d(6, 4, 3))
    assert after(model, fold_padding) == ["pad", "conv", "relu"]


def test_two_convolutions_of_one_padded_image() -> None:
    parts = {"one": nn.Conv2d(6, 4, 3), "two": nn.Conv2d(6, 4, 3, dilation=2)}
    model = calls(lambda x, one, two: (one(y := F.pad(x, (1, 1, 1, 1))), two(y)), **parts)
    assert after(model, fold_padding) == ["conv", "conv"]
