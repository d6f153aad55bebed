"""The lists of layers: against timm, against their papers' totals, and against their own rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.cases import ALONE, CASES, IN_CACHE
from benchmarks.networks import (
    CONVNEXT_T,
    EFFICIENTNET_B0,
    MOBILENET_V2,
    MOBILENET_V3,
    NETWORKS,
    REPLKNET_31B,
    X3D_S,
    XCEPTION,
)
from benchmarks.run import selected
from depthwise.bench.cases import MOBILENET_V1, Case
from depthwise.bench.gate import STEEPEST
from tests.support.networks import timm_model

EVERY = [case for cases in CASES.values() for case in cases]


@dataclass(frozen=True)
class Seen:
    """A depthwise convolution as it ran in timm's network, and the convolution that ran after it."""

    path: str
    module: nn.Conv2d
    size: tuple[int, ...]
    next_path: str
    next_module: nn.Conv2d | None

    @property
    def is_separable(self) -> bool:
        """Whether the next convolution is the pointwise step, squeeze-excite not between."""
        after = self.next_module
        return after is not None and after.kernel_size == (1, 1) and ".se." not in self.next_path


def depthwise_of(name: str, side: int) -> tuple[nn.Module, list[Seen]]:
    model = timm_model(name)
    ran: list[tuple[str, nn.Conv2d, tuple[int, ...]]] = []

    def record(path: str) -> Callable[..., None]:
        return lambda module, inputs, output: ran.append((path, module, tuple(inputs[0].shape[1:])))

    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(record(path))
    model(torch.empty(1, 3, side, side, device="meta"))
    following: list[Any] = [*ran[1:], ("", None, ())]
    seen = [Seen(*one, *after[:2]) for one, after in zip(ran, following, strict=True)]
    return model, [one for one in seen if one.module.groups == one.module.in_channels > 1]


def numbers(seen: list[Seen], *, separable: bool) -> Counter[tuple[object, ...]]:
    """(size, kernel, stride, padding, out_channels) of each layer, counted."""
    return Counter(
        (
            one.size,
            one.module.kernel_size,
            one.module.stride,
            tuple((p, p) for p in one.module.padding),
            one.next_module.out_channels if separable and one.next_module else None,
        )
        for one in seen
    )


def listed(cases: tuple[Case, ...]) -> Counter[tuple[object, ...]]:
    found: Counter[tuple[object, ...]] = Counter()
    for case in cases:
        g = case.geometry
        found[g.input_size, g.kernel_size, g.stride, g.padding, g.out_channels] += case.count
    return found


@pytest.mark.parametrize(
    ("name", "cases"),
    [
        ("mobilenetv1_100", MOBILENET_V1),
        ("mobilenetv2_100", MOBILENET_V2),
        ("mobilenetv3_large_100", MOBILENET_V3),
        ("legacy_xception", XCEPTION),
    ],
)
def test_separable_layers_are_those_of_timm(name: str, cases: tuple[Case, ...]) -> None:
    _, seen = depthwise_of(name, 299 if name == "legacy_xception" else 224)
    assert listed(cases) == numbers([one for one in seen if one.is_separable], separable=True)


@pytest.mark.parametrize(("name", "cases"), [("efficientnet_b0", EFFICIENTNET_B0), ("convnext_tiny", CONVNEXT_T)])
def test_depthwise_layers_are_those_of_timm(name: str, cases: tuple[Case, ...]) -> None:
    _, seen = depthwise_of(name, 224)
    assert listed(cases) == numbers(seen, separable=False)
    assert not any(one.is_separable for one in seen)


ACTIVATIONS = {"ReLU": "relu", "ReLU6": "relu6", "Hardswish": "hardswish", "SiLU": "silu"}


def blocks(model: nn.Module) -> Iterator[tuple[nn.Conv2d, str, bool, bool]]:
    """(depthwise convolution, activation after it, whether the block has a residual, or squeeze-excite)."""
    for module in model.modules():
        kind = type(module).__name__
        if kind in ("DepthwiseSeparableConv", "InvertedResidual"):
            block: Any = module
            norm = block.bn1 if kind == "DepthwiseSeparableConv" else block.bn2
            has_se = not isinstance(block.se, nn.Identity)
            yield block.conv_dw, ACTIVATIONS[type(norm.act).__name__], block.has_skip, has_se


@pytest.mark.parametrize(
    ("name", "cases"),
    [
        ("mobilenetv2_100", MOBILENET_V2),
        ("mobilenetv3_large_100", MOBILENET_V3),
        ("efficientnet_b0", EFFICIENTNET_B0),
    ],
)
def test_activations_and_residuals_are_those_of_timm(name: str, cases: tuple[Case, ...]) -> None:
    separable = cases[0].operation == "separable"
    found = Counter(
        (conv.in_channels, conv.kernel_size, conv.stride, activation, has_skip and separable)
        for conv, activation, has_skip, has_se in blocks(timm_model(name))
        if not (separable and has_se)
    )
    expected: Counter[tuple[object, ...]] = Counter()
    for case in cases:
        g = case.geometry
        expected[g.in_channels, g.kernel_size, g.stride, case.depthwise_activation, case.residual] += case.count
    assert expected == found


def test_replknet_has_24_large_kernels_and_x3d_26_blocks() -> None:
    assert sum(case.count for case in REPLKNET_31B) == 24
    assert sum(case.count for case in X3D_S) == 3 + 5 + 11 + 7


def test_names_are_unique_within_a_network() -> None:
    for name, cases in CASES.items():
        assert {case.network for case in cases} == {name}
        assert len({case.name for case in cases}) == len(cases), name


@pytest.mark.parametrize("case", EVERY, ids=lambda case: f"{case.network}: {case.name}")
def test_a_case_fits_its_network(case: Case) -> None:
    g = case.geometry
    assert not case.residual or g.out_channels is not None
    # torch's way without a padded copy, which the peers take, needs stride 1.
    assert all(before == after for before, after in g.padding) or set(g.stride) == {1}
    # The gate knows how steep each is.
    assert {case.depthwise_activation, case.pointwise_activation} <= {None, *STEEPEST}


def test_every_network_of_the_issue_is_here() -> None:
    assert list(NETWORKS) == [
        "MobileNetV1",
        "MobileNetV2",
        "MobileNetV3-Large",
        "EfficientNet-B0",
        "ConvNeXt-T",
        "Xception",
        "RepLKNet-31B",
        "X3D-S",
        "QuartzNet-15x5",
        "Conformer-L",
        "Mamba",
    ]


def test_depthwise_alone_is_every_kind_at_batch_1_and_8() -> None:
    kinds = Counter((case.geometry.kernel_size, case.geometry.stride, case.geometry.dilation) for case in CASES[ALONE])
    assert set(kinds.values()) == {2, 4}  # 3x3 at stride 1 comes with multiplier 1 and 2
    assert {k for k, _, _ in kinds} == {(3, 3), (5, 5), (7, 7), (31, 31), (4,), (31,), (87,), (3, 3, 3)}
    assert [case.batch for case in CASES[ALONE]] == [1] * 12 + [8] * 12


def test_cases_in_cache_fit_a_mebibyte() -> None:
    for case in CASES[IN_CACHE]:
        elements = case.batch * sum(
            torch.Size(size).numel() for size in (case.geometry.input_size, case.geometry.output_size)
        )
        assert 2**18 < 4 * elements < 2**20, case.name


def test_cases_are_selected_by_a_part_of_their_network() -> None:
    assert selected(["v1"]) == list(MOBILENET_V1)
    assert selected([]) == EVERY
    assert {case.network for case in selected(["x3d", "IN CACHE"])} == {"X3D-S", IN_CACHE}
