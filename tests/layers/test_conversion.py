"""Dense and back: exactness, least error, and what forbids it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from depthwise import DepthwiseConv2d, DepthwiseError, SeparableConv1d, SeparableConv2d, SeparableConv3d
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


# ---- what only looks like torch's own


class Same(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))


class Standardised(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out: Tensor = super()._conv_forward(x, weight - weight.mean((1, 2, 3), keepdim=True), bias)
        return out


class Named(nn.Conv2d):
    label = "stem"


class Activated(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Residual(SeparableConv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


class Doubled(nn.Identity):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def hooked(conv: nn.Module) -> nn.Module:
    conv.register_forward_hook(lambda _, __, out: out + 1)
    return conv


def with_other_padding() -> nn.Conv2d:
    conv = nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular")
    conv.padding = (0, 0)
    return conv


def with_another_weight(**tensors: Tensor) -> nn.Conv2d:
    conv = nn.Conv2d(4, 6, 3)
    for name, tensor in tensors.items():
        setattr(conv, name, nn.Parameter(tensor))
    return conv


class Wrapped(Tensor):
    pass


def with_a_wrapped_weight() -> nn.Conv2d:
    conv = nn.Conv2d(4, 6, 3)
    del conv.weight
    conv.weight = conv.bias.new_zeros(6, 4, 3, 3).as_subclass(Wrapped)  # type: ignore[union-attr]
    return conv


@pytest.mark.parametrize(
    ("conv", "message"),
    [
        (Same(4, 6, 3), r"cannot say what Same\(4, 6.* computes: a Same computes something else; give a plain torch"),
        (Standardised(4, 6, 3), "a Standardised computes something else"),
        (hooked(nn.Conv2d(4, 6, 3)), "it has hooks, or a forward of its own; make pruning and the like permanent"),
        (prune.l1_unstructured(nn.Conv2d(4, 6, 3), "weight", amount=0.5), "it has hooks"),
        (with_other_padding(), "the padding of .* was changed after it was made, and torch pads by what it was"),
        (
            with_another_weight(weight=torch.zeros(5, 4, 3, 3)),
            r"weight of .* must have the shape \(6, 4, 3, 3\); it has",
        ),
        (with_another_weight(bias=torch.zeros(5)), r"bias of .* must have the shape \(6,\); it has \(5,\)"),
        (with_a_wrapped_weight(), "the weight of .* must be a plain tensor; it is a Wrapped"),
    ],
)
def test_from_dense_leaves_what_it_cannot_read(conv: Any, message: str) -> None:
    with pytest.raises(DepthwiseError, match=message):
        SeparableConv2d.from_dense(conv, 6)


@pytest.mark.parametrize(
    "conv",
    [
        Named(4, 6, 3),
        parametrizations.weight_norm(nn.Conv2d(4, 6, 3)),
        prune.remove(prune.l1_unstructured(nn.Conv2d(4, 6, 3), "weight", amount=0.5), "weight"),
        nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="circular"),
        nn.Conv2d(4, 6, 2, padding="same", padding_mode="reflect"),
        DepthwiseConv2d(4, 3, padding=((1, 0), (2, 1)), depth_multiplier=2),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_from_dense_takes_what_computes_as_torchs(conv: Any) -> None:
    x = torch.randn(2, 4, 9, 9)
    layer = SeparableConv2d.from_dense(
        conv, min(conv.out_channels // conv.groups, 4 if conv.kernel_size == (2, 2) else 9)
    )
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-4, atol=1e-5)


def with_parts(**parts: nn.Module) -> SeparableConv2d:
    layer = SeparableConv2d(4, 6, 3)
    for name, module in parts.items():
        setattr(layer, name, module)
    return layer.eval()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (with_parts(pointwise=Standardised(4, 6, 1)), "what the pointwise part, .*, computes: a Standardised computes"),
        (with_parts(pointwise=nn.Linear(4, 6)), "what the pointwise part, .*, computes: it is a Linear"),
        (with_parts(depthwise=Same(4, 4, 3, groups=4)), "what the depthwise part, .*, computes: a Same computes"),
        (
            with_parts(depthwise=nn.Conv2d(4, 4, 3)),
            "to_dense needs a depthwise and a pointwise convolution; got Conv2d",
        ),
        (with_parts(pointwise=nn.Conv2d(4, 6, 1, 2)), "to_dense needs a depthwise and a pointwise convolution"),
        (with_parts(pointwise=nn.Conv2d(4, 6, 1, padding=1)), "to_dense needs a depthwise and a pointwise convolution"),
        (with_parts(pointwise=nn.Conv2d(4, 6, 3)), "to_dense needs a depthwise and a pointwise convolution"),
        (
            with_parts(pointwise_norm=Activated(6)),
            "only a batch norm folds .*, and a Activated computes something else",
        ),
        (with_parts(pointwise_norm=hooked(nn.BatchNorm2d(6))), "only a batch norm folds .*, and it has hooks"),
        (with_parts(pointwise_norm=nn.BatchNorm1d(6)), "only a batch norm folds .*, and it is a BatchNorm1d"),
        (
            with_parts(pointwise_norm=nn.BatchNorm2d(1)),
            "pointwise_norm has 1 channels, and the convolution before it 6",
        ),
        (with_parts(depthwise_activation=Doubled()), r"a layer with depthwise_activation=Doubled\(\) is no single"),
        (with_parts(depthwise_norm=Doubled()), "only a batch norm folds"),
        (
            Residual(4, 4, 3, padding=1),
            "to_dense cannot say what this Residual computes: a Residual computes something",
        ),
        (hooked(SeparableConv2d(4, 6, 3)), "to_dense cannot say what this SeparableConv2d computes: it has hooks"),
    ],
)
def test_to_dense_leaves_what_it_cannot_read(layer: Any, message: str) -> None:
    with pytest.raises(DepthwiseError, match=message):
        layer.to_dense()


@pytest.mark.parametrize(
    "layer",
    [
        with_parts(depthwise=nn.Conv2d(4, 8, 3, groups=4), pointwise=nn.Conv2d(8, 6, 1, groups=2)),
        with_parts(pointwise=Named(4, 6, 1)),
        with_parts(pointwise_norm=nn.SyncBatchNorm(6)),
        with_parts(depthwise=parametrizations.weight_norm(DepthwiseConv2d(4, 3))),
    ],
)
def test_to_dense_reads_given_parts(layer: Any) -> None:
    x = torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(layer.to_dense()(x), layer(x), rtol=1e-4, atol=1e-5)
