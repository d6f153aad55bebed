"""Patches: a kernel times them is the convolution, for every geometry."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from torch import nn

from depthwise.geometry import torch_padding
from depthwise.layers.conversion import CONVOLUTIONS
from depthwise.separate.patches import outputs, patches, places
from tests.support.cases import Case, cases, normals

GEOMETRIES: list[tuple[Any, tuple[int, ...], dict[str, Any]]] = [
    (nn.Conv1d, (2, 4, 17), {"kernel_size": 4, "stride": 3, "padding": 2}),
    (nn.Conv1d, (2, 4, 17), {"kernel_size": 3, "padding": "same", "dilation": 2}),
    (nn.Conv2d, (2, 4, 9, 8), {"kernel_size": 3, "padding": 1}),
    (nn.Conv2d, (2, 4, 9, 8), {"kernel_size": (3, 5), "stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}),
    (nn.Conv2d, (2, 4, 9, 8), {"kernel_size": 3, "padding": 1, "groups": 2, "padding_mode": "reflect"}),
    (nn.Conv2d, (2, 4, 9, 8), {"kernel_size": 3, "padding": 2, "padding_mode": "circular"}),
    (nn.Conv2d, (4, 9, 8), {"kernel_size": 2, "padding": 1, "padding_mode": "replicate"}),
    (nn.Conv3d, (2, 4, 5, 6, 7), {"kernel_size": (2, 3, 2), "stride": (1, 2, 1), "padding": 1}),
]


@pytest.mark.parametrize(("conv_class", "size", "options"), GEOMETRIES)
@pytest.mark.parametrize("most", [10_000, 7])
def test_a_kernel_times_patches_is_the_convolution(
    conv_class: Any, size: tuple[int, ...], options: dict[str, Any], most: int
) -> None:
    conv = conv_class(4, 6, bias=False, dtype=torch.float64, **options)
    x = torch.randn(size, dtype=torch.float64)
    rows, wanted = patches(x, conv, most), outputs(conv(x), conv, most)
    kernel = conv.weight.flatten(1).unflatten(0, (conv.groups, -1))
    torch.testing.assert_close(rows @ kernel.mT, wanted)
    # The check fails where a tap is another's.
    assert not torch.allclose(rows.roll(1, 2) @ kernel.mT, wanted)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(case=cases())
@settings(max_examples=40)
def test_every_geometry_that_torch_has(case: Case) -> None:
    padding = torch_padding(case.padding, case.stride)
    assume(padding is not None and case.batch > 0)
    conv_class: Any = CONVOLUTIONS[case.rank]
    window = {"stride": case.stride, "padding": padding, "dilation": case.dilation, "groups": case.groups}
    conv = conv_class(case.in_channels, case.out_channels, case.kernel_size, bias=False, dtype=torch.float64, **window)
    x = case.tensors(normals(1, torch.float64))[0]
    kernel = conv.weight.flatten(1).unflatten(0, (conv.groups, -1))
    torch.testing.assert_close(patches(x, conv, 50) @ kernel.mT, outputs(conv(x), conv, 50))


def test_few_positions_of_large_images_are_used_and_always_the_same() -> None:
    conv = nn.Conv2d(3, 4, 3)
    assert patches(torch.randn(2, 3, 40, 40), conv, 100).shape == (1, 200, 27)
    again = places((38, 38), 100)
    places.cache_clear()
    assert all(torch.equal(a, b) for a, b in zip(places((38, 38), 100), again, strict=True))
    assert len({(int(y), int(x)) for y, x in zip(*again, strict=True)}) == 100
