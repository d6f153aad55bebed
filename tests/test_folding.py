"""Folded batch norms and biases give what the modules give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from depthwise import DepthwiseError
from depthwise.folding import scale_and_shift, through_pointwise


@pytest.mark.parametrize("affine", [False, True])
def test_scale_and_shift_is_the_norm(affine: bool) -> None:
    norm = nn.BatchNorm1d(5, eps=1e-3, affine=affine).double()
    for tensor in norm.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2)
    norm.eval()
    x = torch.randn(7, 5, dtype=torch.float64)
    scale, shift = scale_and_shift(norm)
    torch.testing.assert_close(x * scale + shift, norm(x))


def test_a_norm_in_training_mode_does_not_fold() -> None:
    with pytest.raises(DepthwiseError, match="only with running statistics and in eval mode"):
        scale_and_shift(nn.BatchNorm2d(3))


@pytest.mark.parametrize("groups", [1, 2])
def test_a_constant_goes_through_the_pointwise(groups: int) -> None:
    conv = nn.Conv2d(4, 6, 1, groups=groups, bias=False)
    shift = torch.randn(4)
    expected = conv(shift.reshape(1, 4, 1, 1)).flatten()
    torch.testing.assert_close(through_pointwise(shift, conv.weight, groups), expected)
