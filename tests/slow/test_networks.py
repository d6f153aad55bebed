"""Every one of the 77 networks whose operators were counted, and long fuzzing of drawn ones."""

from __future__ import annotations

import copy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

from depthwise import optimize
from depthwise.optimize.frozen import optimized
from depthwise.optimize.passes import PASSES
from tests.support.random_networks import networks
from tests.support.whole import SIZES, difference, real_model

pytestmark = pytest.mark.slow

NAMES = [
    "mobilenetv1_100",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "mobilenetv3_small_100",
    "mobilenetv4_conv_small",
    "mobilenetv4_conv_medium",
    "mobilenetv4_hybrid_medium",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_lite0",
    "efficientnet_es",
    "tf_efficientnet_b0",
    "tf_efficientnetv2_s",
    "efficientnetv2_rw_s",
    "mnasnet_100",
    "semnasnet_100",
    "mixnet_s",
    "tf_mixnet_s",
    "fbnetc_100",
    "fbnetv3_b",
    "spnasnet_100",
    "hardcorenas_a",
    "lcnet_050",
    "lcnet_100",
    "tinynet_a",
    "ghostnet_100",
    "ghostnetv2_100",
    "ghostnetv3_100",
    "rexnet_100",
    "regnety_004",
    "regnetx_004",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "seresnet50",
    "ecaresnet50d",
    "resnest14d",
    "skresnet18",
    "res2net50_26w_4s",
    "legacy_xception",
    "xception41",
    "xception65",
    "convnext_atto",
    "convnext_tiny",
    "convnextv2_atto",
    "edgenext_x_small",
    "inception_next_tiny",
    "repvgg_a0",
    "mobileone_s0",
    "repvit_m1",
    "repvit_m0_9",
    "fastvit_t8",
    "starnet_s1",
    "fasternet_t0",
    "densenet121",
    "vgg11_bn",
    "inception_v3",
    "dla34",
    "hrnet_w18_small",
    "cspresnet50",
    "darknet53",
    "nfnet_f0",
    "dm_nfnet_f0",
    "tresnet_m",
    "vovnet39a",
    "selecsls42b",
    "mobilevit_xs",
    "mobilevitv2_050",
    "efficientformerv2_s0",
    "efficientvit_b0",
    "levit_128",
    "poolformer_s12",
    "levit_conv_128s",
    "coatnet_0_rw_224",
    "swin_tiny_patch4_window7_224",
    "shvit_s1",
    "nextvit_small",
]
# Those of which torch runs something: attention, and what goes with it. The 66 others run whole.
PARTLY = {
    *("coatnet_0_rw_224", "edgenext_x_small", "efficientformerv2_s0", "efficientvit_b0", "levit_128"),
    *("levit_conv_128s", "mobilenetv4_hybrid_medium", "mobilevit_xs", "nextvit_small", "shvit_s1"),
    "swin_tiny_patch4_window7_224",
}
# What attention and position codes need, beside the operators that have rules.
FOREIGN = {
    *("matmul.default", "scaled_dot_product_attention.default", "roll.default", "avg_pool1d.default", "to.dtype"),
    *("bitwise_not.default", "clamp_min.default", "cos.default", "cumsum.default", "sin.default", "to.device"),
    "zeros.default",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_network_matches_or_says_what_torch_runs(name: str) -> None:
    model, size = real_model(name), SIZES.get(name, 64)
    found = optimize(model, torch.zeros(1, 3, size, size))
    assert difference(found, model, torch.randn(2, 3, size, size)) <= 1
    foreign = {layer.operator for layer in found.report.layers if "." in layer.operator}
    assert foreign <= {f"aten.{operator}" for operator in FOREIGN}
    assert all(layer.reason for layer in found.report.layers if layer.engine == "torch")
    is_whole = all(layer.engine == "cpu" for layer in found.report.layers)
    assert is_whole == (name not in PARTLY), found.report
    read = copy.deepcopy(found)
    x = torch.randn(1, 3, size, size)
    assert torch.equal(read(x), found(x))


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(networks(), st.sampled_from((None, *PASSES)), st.integers(0, 3))
def test_drawn_networks_match(drawn: tuple[nn.Module, tuple[int, int, int]], left_out: str | None, batch: int) -> None:
    model, size = drawn
    found = optimized(model, torch.zeros(1, *size), without=() if left_out is None else (left_out,))
    assert difference(found, model, torch.randn(batch, *size)) <= 1
