"""State dicts that say the same under other keys, or with a bias in both parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.layers.test_separable import LAYERS

TORCH: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Hand(nn.Module):
    """The layer as people write it: the same names, and torch's default of a bias in both parts."""

    def __init__(self, rank: int, multiplier: int = 1, groups: int = 1, norms: tuple[bool, bool] = (False, False)):
        super().__init__()
        inner = 4 * multiplier
        self.depthwise = TORCH[rank](4, inner, 3, padding=1, groups=4)
        self.depthwise_norm = NORMS[rank](inner) if norms[0] else None
        self.pointwise = TORCH[rank](inner, 6, 1, groups=groups)
        self.pointwise_norm = NORMS[rank](6) if norms[1] else None
        for buffer in self.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 2)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        for part in (self.depthwise, self.depthwise_norm, self.pointwise, self.pointwise_norm):
            x = x if part is None else part(x)
        return x


def alike(rank: int, multiplier: int = 1, groups: int = 1, **options: Any) -> Any:
    layer = LAYERS[rank](4, 6, 3, padding=1, groups=groups, depth_multiplier=multiplier, **options)
    return layer.double().eval()


def input_of(rank: int) -> Tensor:
    return torch.randn(2, 4, *(5,) * rank, dtype=torch.float64)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("rank", "multiplier", "groups"), [(1, 1, 1), (2, 1, 1), (2, 3, 2), (3, 2, 2)])
def test_a_bias_in_both_parts(rank: int, multiplier: int, groups: int, strict: bool, assign: bool) -> None:
    theirs, ours, x = Hand(rank, multiplier, groups), alike(rank, multiplier, groups), input_of(rank)
    state = theirs.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    loaded = ours.load_state_dict(state, strict=strict, assign=assign)
    assert (loaded.missing_keys, loaded.unexpected_keys) == ([], [])
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    assert list(state) == list(before)
    assert all(torch.equal(state[key], value) for key, value in before.items())
    assert isinstance(ours.pointwise.bias, nn.Parameter)
    assert ours.pointwise.bias.is_leaf


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("norms", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("bias", [False, True])
def test_biases_before_a_batch_norm_go_into_its_mean(rank: int, norms: tuple[bool, bool], bias: bool) -> None:
    if not bias and not norms[1]:
        return
    theirs, x = Hand(rank, 2, 2, norms), input_of(rank)
    made = {
        name: NORMS[rank] for name, wanted in zip(("depthwise_norm", "pointwise_norm"), norms, strict=True) if wanted
    }
    ours = alike(rank, 2, 2, bias=bias, **made)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-11, atol=1e-11)


def test_a_layer_in_a_network_and_under_two_names() -> None:
    theirs, ours, x = Hand(2), alike(2), input_of(2)
    network = nn.ModuleDict({"first": nn.Sequential(ours), "again": nn.Sequential(ours)})
    network.load_state_dict(
        {f"{name}.0.{key}": value for name in network for key, value in theirs.state_dict().items()}
    )
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_parameters_as_state_dict_of_keep_vars() -> None:
    theirs, ours, x = Hand(2), alike(2), input_of(2)
    ours.load_state_dict(theirs.state_dict(keep_vars=True), assign=True)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def without(state: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key not in keys}


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"bias": False}, lambda state: state),
        ({"depthwise_norm": lambda c: nn.GroupNorm(2, c)}, lambda state: state),
        ({}, lambda state: without(state, "pointwise.weight", "pointwise.bias")),
        ({}, lambda state: state | {"pointwise.weight": torch.zeros(5, 4, 1, 1)}),
        ({}, lambda state: state | {"depthwise.bias": [0.0] * 4}),
        ({}, lambda state: state | {"depthwise.bias": torch.zeros(3)}),
        ({}, lambda state: state | {"pointwise.bias": torch.zeros(3)}),
    ],
)
def test_a_bias_that_has_no_place_is_told_of(options: dict[str, Any], change: Callable[..., Any]) -> None:
    ours = alike(2, **options)
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: .*\"depthwise.bias\"|size mismatch"):
        ours.load_state_dict(change(Hand(2).state_dict()))


def test_a_layer_with_a_bias_of_its_own_between_keeps_it() -> None:
    theirs, ours = Hand(2), alike(2, depthwise_activation=nn.ReLU)
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.depthwise.bias, theirs.depthwise.bias)
    assert torch.equal(ours.pointwise.bias, theirs.pointwise.bias)


def test_a_foreign_part_loads_as_it_is() -> None:
    theirs, ours = Hand(2), alike(2)
    ours.pointwise = nn.Sequential(ours.pointwise)
    state = {key.replace("pointwise", "pointwise.0"): value for key, value in theirs.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"depthwise.bias\""):
        ours.load_state_dict(state)


# ---- other names

OTHERS = {
    "timm": ("conv_dw", "bn1", "conv_pw", "bn2"),
    "mmcv": ("depthwise_conv.conv", "depthwise_conv.bn", "pointwise_conv.conv", "pointwise_conv.bn"),
    "xception": ("conv1", "bn1", "pointwise", "bn2"),
    "by hand": ("dw", "dw_bn", "pw", "pw_bn"),
    "sequential": ("0", "1", "2", "3"),
}
OURS = ("depthwise", "depthwise_norm", "pointwise", "pointwise_norm")


@pytest.mark.parametrize("library", OTHERS)
def test_names_of_other_libraries(library: str) -> None:
    norms: Any = {"depthwise_norm": nn.BatchNorm2d, "pointwise_norm": nn.BatchNorm2d}
    ours, again, x = alike(2, 2, bias=False, **norms), alike(2, 2, bias=False, **norms), input_of(2)
    names = dict(zip(OURS, OTHERS[library], strict=True))
    state = {}
    for key, value in ours.state_dict().items():
        part, _, rest = key.partition(".")
        state[f"0.{names[part]}.{rest}"] = value.uniform_(0.5, 2) if value.is_floating_point() else value
    keys = list(state)
    nn.Sequential(again).load_state_dict(state)
    assert torch.equal(again(x), ours(x))
    assert list(state) == keys


def test_other_names_with_a_bias_in_both_parts() -> None:
    theirs, ours, x = Hand(2), alike(2), input_of(2)
    state = {key.replace("depthwise", "dw").replace("pointwise", "pw"): v for key, v in theirs.state_dict().items()}
    ours.load_state_dict(state)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"weight": torch.zeros(6, 4, 3, 3)},
            r"depthwise.weight \(weight, \(6, 4, 3, 3\), is a dense convolution's: load that, then Sep",
        ),
        (
            {"a.weight": torch.zeros(4, 1, 3, 3), "b.weight": torch.zeros(7, 4, 1, 1), "c.weight": torch.zeros(3)},
            r"has depthwise.weight and pointwise.weight; what looks like .* here: a.weight \(4, 1, 3, 3\), b.weight",
        ),
        ({"running": torch.zeros(3)}, "what looks like a convolution's weight here: none"),
        ({"dw.weight": torch.zeros(4, 1, 5, 5), "pw.weight": torch.zeros(6, 4, 1, 1)}, "here: dw.weight"),
    ],
)
def test_a_missing_weight_points_to_what_is_there(state: dict[str, Tensor], message: str) -> None:
    layer = alike(2)
    with pytest.raises(RuntimeError, match=message):
        nn.Sequential(layer).load_state_dict({f"0.{key}": value for key, value in state.items()})
    loaded = layer.load_state_dict(state, strict=False)
    assert loaded.missing_keys == ["depthwise.weight", "pointwise.weight", "pointwise.bias"]
    assert sorted(loaded.unexpected_keys) == sorted(state)


def test_nothing_is_pointed_at_where_nothing_is() -> None:
    with pytest.raises(RuntimeError, match=r'"depthwise.weight", "pointwise.weight", "pointwise.bias"'):
        alike(2).load_state_dict({})
