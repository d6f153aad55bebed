"""The definition itself: against sums written out by hand, and against torch."""

from __future__ import annotations

import torch
from hypothesis import given
from torch.nn import functional as F

from depthwise import reference
from depthwise.geometry import geometry
from tests.support.cases import Case, assert_bit_equal, cases, small_integers


def test_one_output_written_out() -> None:
    x = torch.arange(2.0 * 5 * 6).reshape(1, 2, 5, 6)
    weight = torch.arange(4.0 * 2 * 3).reshape(4, 1, 2, 3)
    bias = torch.tensor([1.0, 2.0, 3.0, 4.0])
    out = reference.depthwise_conv(x, weight, bias, stride=2, padding=((1, 0), (0, 2)), dilation=(1, 2))
    # Filter 3 belongs to channel 1; output (1, 1) reads rows 1, 2 and columns 2, 4, 6 (the last one padding).
    expected = 4.0 + sum(
        float(weight[3, 0, ky, kx] * x[0, 1, 1 + ky, 2 + 2 * kx]) for ky in range(2) for kx in range(2)
    )
    assert out[0, 3, 1, 1] == expected
    assert out.shape == (1, 4, 3, 2)


@given(case=cases())
def test_reference_is_torchs_convolution(case: Case) -> None:
    x, depthwise, pointwise, bias = case.tensors(small_integers(0))
    conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[case.rank]
    pairs = geometry((case.in_channels, *case.spatial), case.kernel_size, **case.window).padding
    padded = F.pad(x, [amount for pair in reversed(pairs) for amount in pair])
    middle = conv(padded, depthwise, None, case.stride, 0, case.dilation, case.in_channels)
    assert_bit_equal(reference.depthwise_conv(x, depthwise, None, **case.window), middle)
    assert_bit_equal(
        reference.separable_conv(x, depthwise, pointwise, None, bias, groups=case.groups, **case.window),
        conv(middle, pointwise, bias, groups=case.groups),
    )
