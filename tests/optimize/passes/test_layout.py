"""Convolutions read channels-last images, laid out where they come in; weights lie as they need them."""

from __future__ import annotations

import torch
from torch import nn

from depthwise.optimize.passes.layout import choose_layout, lay_out_weights
from tests.support.passes import after, calls, captured

LAST = torch.channels_last


def test_an_image_is_laid_out_once_for_all_that_read_it() -> None:
    parts = {"one": nn.Conv2d(6, 6, 3), "two": nn.Conv2d(6, 6, 3)}
    model = calls(lambda x, one, two: (torch.relu(x), two(torch.relu(one(x))), one(x)), **parts)
    found = after(model, choose_layout)
    assert (found.count("layout"), found.count("conv")) == (1, 3)


def test_what_moves_dimensions_is_laid_out_behind() -> None:
    model = calls(lambda x, conv: conv(x.permute(0, 3, 2, 1)), conv=nn.Conv2d(8, 6, 3))
    assert after(model, choose_layout) == ["permute", "layout", "conv"]
    unknown = calls(lambda x, conv: conv(x.roll(1, 1)), conv=nn.Conv2d(6, 6, 3))
    assert after(unknown, choose_layout) == ["aten.roll.default", "layout", "conv"]


def test_sequences_have_one_layout() -> None:
    assert after(nn.Conv1d(6, 6, 3).eval(), choose_layout, sizes=(1, 6, 9)) == ["conv"]


def test_volumes_too() -> None:
    assert after(nn.Conv3d(6, 6, 3).eval(), choose_layout, sizes=(1, 6, 5, 5, 5)) == ["layout", "conv"]


def test_weights_are_laid_out_where_images_are() -> None:
    network = captured(nn.Conv2d(6, 6, 3), 1, 6, 9, 8)
    assert lay_out_weights(network) is network
    weight = choose_layout(network).weights["weight"]
    assert weight.is_contiguous(memory_format=LAST)
    assert torch.equal(weight, network.weights["weight"])


def test_a_name_that_is_taken() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 1)
            self.input_0_channels_last = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.conv(x) * self.input_0_channels_last
            return out

    assert after(Named().eval(), choose_layout) == ["layout", "conv", "mul"]
