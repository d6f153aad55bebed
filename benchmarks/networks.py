"""The distinct layers of networks, at batch 1 and the size of their papers, and how often each network has each.

Batch norms are folded into the biases, and an activation that follows directly belongs to its layer. Of a block with
squeeze-excite only the depthwise convolution can be here: the scaling stands between its two steps. EfficientNet-B0,
whose blocks all have it, is depthwise convolutions; MobileNetV3-Large is its blocks without. Where timm has a network,
a test holds its list against timm.
"""

from __future__ import annotations

from functools import partial

from depthwise.bench.cases import MOBILENET_V1, Case, layer

# MobileNetV2, arXiv 1801.04381, table 2: depthwise and linear projection.
_v2 = partial(layer, "MobileNetV2", kernel_size=3, act="relu6")
MOBILENET_V2 = (
    _v2((32, 112, 112), out=16),
    _v2((96, 112, 112), out=24, stride=2),
    _v2((144, 56, 56), out=24, residual=True),
    _v2((144, 56, 56), out=32, stride=2),
    _v2((192, 28, 28), out=32, residual=True, count=2),
    _v2((192, 28, 28), out=64, stride=2),
    _v2((384, 14, 14), out=64, residual=True, count=3),
    _v2((384, 14, 14), out=96),
    _v2((576, 14, 14), out=96, residual=True, count=2),
    _v2((576, 14, 14), out=160, stride=2),
    _v2((960, 7, 7), out=160, residual=True, count=2),
    _v2((960, 7, 7), out=320),
)

# MobileNetV3, arXiv 1905.02244, table 1: the blocks without squeeze-excite.
_v3 = partial(layer, "MobileNetV3-Large", kernel_size=3)
MOBILENET_V3 = (
    _v3((16, 112, 112), out=16, act="relu", residual=True),
    _v3((64, 112, 112), out=24, act="relu", stride=2),
    _v3((72, 56, 56), out=24, act="relu", residual=True),
    _v3((240, 28, 28), out=80, act="hardswish", stride=2),
    _v3((200, 14, 14), out=80, act="hardswish", residual=True),
    _v3((184, 14, 14), out=80, act="hardswish", residual=True, count=2),
)

# EfficientNet, arXiv 1905.11946, table 1.
_b0 = partial(layer, "EfficientNet-B0", act="silu")
EFFICIENTNET_B0 = (
    _b0((32, 112, 112), 3),
    _b0((96, 112, 112), 3, stride=2),
    _b0((144, 56, 56), 3),
    _b0((144, 56, 56), 5, stride=2),
    _b0((240, 28, 28), 5),
    _b0((240, 28, 28), 3, stride=2),
    _b0((480, 14, 14), 3, count=2),
    _b0((480, 14, 14), 5),
    _b0((672, 14, 14), 5, count=2),
    _b0((672, 14, 14), 5, stride=2),
    _b0((1152, 7, 7), 5, count=3),
    _b0((1152, 7, 7), 3),
)

# ConvNeXt, arXiv 2201.03545, table 9: a layer norm follows.
_convnext = partial(layer, "ConvNeXt-T", kernel_size=7)
CONVNEXT_T = (
    _convnext((96, 56, 56), count=3),
    _convnext((192, 28, 28), count=3),
    _convnext((384, 14, 14), count=9),
    _convnext((768, 7, 7), count=3),
)

# Xception, arXiv 1610.02357, figure 5, at 299: nothing between the steps; pooling follows where no activation does.
_xception = partial(layer, "Xception", kernel_size=3)
XCEPTION = (
    _xception((64, 147, 147), out=128, out_act="relu"),
    _xception((128, 147, 147), out=128),
    _xception((128, 74, 74), out=256, out_act="relu"),
    _xception((256, 74, 74), out=256),
    _xception((256, 37, 37), out=728, out_act="relu"),
    _xception((728, 37, 37), out=728),
    _xception((728, 19, 19), out=728, out_act="relu", count=17),
    _xception((728, 19, 19), out=728, residual=True, count=8),
    _xception((728, 19, 19), out=1024),
    _xception((1024, 10, 10), out=1536, out_act="relu"),
    _xception((1536, 10, 10), out=2048, out_act="relu"),
)

# RepLKNet, arXiv 2203.06717, section 4.1: the large kernels, their small ones merged.
_replknet = partial(layer, "RepLKNet-31B", act="relu")
REPLKNET_31B = (
    _replknet((128, 56, 56), 31, count=2),
    _replknet((256, 28, 28), 29, count=2),
    _replknet((512, 14, 14), 27, count=18),
    _replknet((1024, 7, 7), 13, count=2),
)

# X3D-S, arXiv 2004.04730, table 1, 13 frames of 160x160: every other block of a stage, from its first, has
# squeeze-excite; there the activation comes after the scaling.
_x3d = partial(layer, "X3D-S", kernel_size=3)
_x3d_plain = partial(_x3d, act="silu", out_act="relu", residual=True)
X3D_S = (
    _x3d((54, 13, 80, 80), stride=(1, 2, 2)),
    _x3d((54, 13, 40, 40)),
    _x3d_plain((54, 13, 40, 40), out=24),
    _x3d((108, 13, 40, 40), stride=(1, 2, 2)),
    _x3d((108, 13, 20, 20), count=2),
    _x3d_plain((108, 13, 20, 20), out=48, count=2),
    _x3d((216, 13, 20, 20), stride=(1, 2, 2)),
    _x3d((216, 13, 10, 10), count=5),
    _x3d_plain((216, 13, 10, 10), out=96, count=5),
    _x3d((432, 13, 10, 10), stride=(1, 2, 2)),
    _x3d((432, 13, 5, 5), count=3),
    _x3d_plain((432, 13, 5, 5), out=192, count=3),
)

# QuartzNet-15x5, arXiv 1910.10261, table 1, on 10 seconds: 15 blocks of five, the residual before the fifth activation.
_quartznet = partial(layer, "QuartzNet-15x5", out_act="relu")
QUARTZNET = (
    _quartznet((64, 1000), 33, out=256, stride=2),
    _quartznet((256, 500), 33, out=256, count=12),
    _quartznet((256, 500), 33, out=256, residual=True, count=3),
    _quartznet((256, 500), 39, out=256, count=12),
    _quartznet((256, 500), 39, out=256, residual=True, count=3),
    _quartznet((256, 500), 51, out=512),
    _quartznet((512, 500), 51, out=512, count=11),
    _quartznet((512, 500), 51, out=512, residual=True, count=3),
    _quartznet((512, 500), 63, out=512, count=12),
    _quartznet((512, 500), 63, out=512, residual=True, count=3),
    _quartznet((512, 500), 75, out=512, count=12),
    _quartznet((512, 500), 75, out=512, residual=True, count=3),
    _quartznet((512, 500), 87, out=512, dilation=2),
)

# Conformer, arXiv 2005.08100, figure 2 and table 1 (there a kernel of 32; NeMo and others have 31), on 10 seconds.
CONFORMER_L = (layer("Conformer-L", (512, 250), 31, out=512, act="silu", residual=True, count=17),)

# Mamba, arXiv 2312.00752, figure 3, on 2048 tokens: causal.
_mamba = partial(layer, kernel_size=4, padding=((3, 0),), act="silu")
MAMBA = (
    _mamba("Mamba", (1536, 2048), count=24),
    _mamba("Mamba", (5120, 2048), count=64),
)

NETWORKS: dict[str, tuple[Case, ...]] = {
    cases[0].network: cases
    for cases in (
        MOBILENET_V1,
        MOBILENET_V2,
        MOBILENET_V3,
        EFFICIENTNET_B0,
        CONVNEXT_T,
        XCEPTION,
        REPLKNET_31B,
        X3D_S,
        QUARTZNET,
        CONFORMER_L,
        MAMBA,
    )
}
