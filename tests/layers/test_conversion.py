"""Dense and back: exactness, least error, and what forbids it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import nn

from depthwise import DepthwiseError, SeparableConv1d, SeparableConv2d, SeparableConv3d
from depthwise.geometry import torch_padding
from tests.layers.test_separable import LAYERS, build
from tests.support.cases import Case, cases, normals

TORCH: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(case=cases())
def test_to_dense_is_exact(case: Case) -> None:
    layer = build(case).double()
    x = case.tensors(normals(1, torch.float64))[0]
    if torch_padding(case.padding, case.stride) is None:
        with pytest.raises(DepthwiseError, match="torch's dense convolution has no padding="):
            layer.to_dense()
        return
    dense = layer.to_dense()
    assert type(dense) is TORCH[case.rank]
    torch.testing.assert_close(dense(x), layer(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular", "replicate"])
def test_to_dense_folds_norms_and_biases(mode: str) -> None:
    options: Any = {"depthwise_norm": nn.BatchNorm2d, "pointwise_norm": nn.BatchNorm2d, "padding_mode": mode}
    layer = SeparableConv2d(4, 6, 3, 2, 1, groups=2, dtype=torch.float64, **options)
    for buffer in layer.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    for norm in (layer.depthwise_norm, layer.pointwise_norm):
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    layer.eval()
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(layer.to_dense()(x), layer(x), rtol=1e-11, atol=1e-11)
    assert not layer.to_dense().training


def test_identities_are_nothing() -> None:
    layer = SeparableConv2d(4, 6, 3, depthwise_norm=nn.Identity, pointwise_activation=nn.Identity)
    x = torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(layer.to_dense()(x), layer(x), rtol=1e-4, atol=1e-5)


def test_to_dense_keeps_the_absence_of_a_bias() -> None:
    assert SeparableConv2d(4, 6, 3, bias=False).to_dense().bias is None
    with_norm = SeparableConv2d(4, 6, 3, bias=False, depthwise_norm=lambda c: nn.BatchNorm2d(c, affine=False)).eval()
    assert with_norm.to_dense().bias is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depthwise_activation": nn.ReLU}, r"a layer with depthwise_activation=ReLU\(\) is no single convolution"),
        ({"pointwise_activation": nn.ReLU6}, r"a layer with pointwise_activation=ReLU6\(\) is no single convolution"),
        ({"depthwise_norm": nn.BatchNorm2d}, "only with running statistics and in eval mode; call .eval"),
        ({"pointwise_norm": lambda c: nn.GroupNorm(2, c)}, r"only a batch norm folds .*; pointwise_norm is GroupNorm"),
        ({"stride": 2, "padding": "same"}, r"no padding='same' with stride=\(2, 2\); pad the input yourself"),
        ({"padding": ((1, 0), (0, 0))}, r"no padding=\(\(1, 0\), \(0, 0\)\)"),
    ],
)
def test_what_has_no_dense_equivalent(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DepthwiseError, match=message):
        SeparableConv2d(4, 6, 3, **options).to_dense()


def test_a_norm_without_running_statistics_does_not_fold_in_eval_mode_either() -> None:
    layer = SeparableConv2d(4, 6, 3, depthwise_norm=lambda c: nn.BatchNorm2d(c, track_running_stats=False)).eval()
    with pytest.raises(DepthwiseError, match="only with running statistics"):
        layer.to_dense()


@given(case=cases())
@settings(max_examples=40)
def test_from_dense_is_exact_at_full_rank(case: Case) -> None:
    area = int(torch.tensor(case.kernel_size).prod())
    full = min(case.out_channels // case.groups, area)
    padding = torch_padding(case.padding, case.stride)
    conv = TORCH[case.rank](
        case.in_channels,
        case.out_channels,
        case.kernel_size,
        case.stride,
        0 if padding is None else padding,
        case.dilation,
        case.groups,
        case.bias,
        dtype=torch.float64,
    )
    layer = LAYERS[case.rank].from_dense(conv, full)
    assert layer.dense_error < 1e-12
    torch.testing.assert_close(layer.to_dense().weight, conv.weight, rtol=1e-10, atol=1e-10)
    assert (layer.pointwise.bias is not None) == case.bias


def test_from_dense_keeps_everything_else() -> None:
    conv = nn.Conv2d(6, 9, (3, 5), (2, 1), (1, 2), (1, 2), 3, True, "reflect", dtype=torch.float64).eval()
    layer = SeparableConv2d.from_dense(conv, 3)
    x = torch.randn(2, 6, 11, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-10, atol=1e-10)
    assert not layer.training
    assert isinstance(layer, SeparableConv2d)


@pytest.mark.parametrize("multiplier", [1, 2, 3])
def test_below_full_rank_the_error_is_what_it_says(multiplier: int) -> None:
    conv = nn.Conv2d(8, 16, 3)
    layer = SeparableConv2d.from_dense(conv, multiplier)
    difference = ((layer.to_dense().weight - conv.weight).norm() / conv.weight.norm()).detach()
    assert layer.dense_error == pytest.approx(float(difference), rel=1e-5)
    assert difference > 0.1


def test_a_layer_made_otherwise_has_no_error_to_read() -> None:
    assert SeparableConv2d(3, 4, 3).dense_error is None


@pytest.mark.parametrize(
    ("layer", "conv", "multiplier", "message"),
    [
        (SeparableConv2d, nn.Conv1d(4, 6, 3), 1, r"SeparableConv2d.from_dense takes a torch.nn.Conv2d; got Conv1d\(4"),
        (SeparableConv2d, nn.ConvTranspose2d(4, 6, 3), 1, "takes a torch.nn.Conv2d; got ConvTranspose2d"),
        (SeparableConv1d, nn.Linear(4, 6), 1, "takes a torch.nn.Conv1d; got Linear"),
        (SeparableConv2d, nn.Conv2d(4, 6, 3), 7, r"depth_multiplier=7 is more than a 6 x 9 slice .*: 6 \(out_channels"),
        (SeparableConv2d, nn.Conv2d(4, 60, 3), 10, "depth_multiplier=10 is more than a 60 x 9 slice"),
        (SeparableConv2d, nn.LazyConv2d(4, 3), 1, "needs the weights, and LazyConv2d.* has none before its first call"),
        (SeparableConv3d, nn.Conv3d(4, 6, 3), 0, "depth_multiplier must be at least 1; got 0"),
        (SeparableConv2d, nn.Conv2d(4, 6, 3, device="meta"), 1, "needs the weights, and .* on the meta device"),
    ],
)
def test_from_dense_errors(layer: Any, conv: nn.Module, multiplier: int, message: str) -> None:
    with pytest.raises(DepthwiseError, match=message):
        layer.from_dense(conv, multiplier)
