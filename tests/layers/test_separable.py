"""`SeparableConv*`: what it computes, its parts, and that one call does what the parts do."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn
from torch.nn.utils import prune

import depthwise
from depthwise import DepthwiseConv2d, DepthwiseError, SeparableConv1d, SeparableConv2d, SeparableConv3d
from depthwise.backends import Choice, observed_choices
from tests.support.cases import Case, assert_bit_equal, cases, separable_reference, small_integers

LAYERS: dict[int, Any] = {1: SeparableConv1d, 2: SeparableConv2d, 3: SeparableConv3d}


def build(case: Case, **options: Any) -> Any:
    return LAYERS[case.rank](
        case.in_channels,
        case.out_channels,
        case.kernel_size,
        groups=case.groups,
        bias=case.bias,
        depth_multiplier=case.depth_multiplier,
        **case.window,
        **options,
    )


@given(case=cases())
def test_bit_equal_to_the_definition(case: Case) -> None:
    x, depthwise_weight, pointwise, bias = case.tensors(small_integers(1))
    layer = build(case)
    state = {"depthwise.weight": depthwise_weight, "pointwise.weight": pointwise}
    layer.load_state_dict(state if bias is None else state | {"pointwise.bias": bias})
    assert_bit_equal(layer(x), separable_reference(case, x, depthwise_weight, pointwise, bias))


def test_replacing_the_class_name_is_the_whole_migration() -> None:
    arguments: Any = (6, 12, (3, 5), 2, (1, 2), 1, 3, False, "reflect")
    x = torch.randn(2, 6, 12, 12)
    assert SeparableConv2d(*arguments)(x).shape == nn.Conv2d(*arguments)(x).shape


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes(rank: int, mode: str) -> None:
    layer = LAYERS[rank](4, 6, 3, 2, 2, padding_mode=mode)
    x = torch.randn(2, 4, *(7,) * rank)
    torch.testing.assert_close(layer(x), layer.pointwise(layer.depthwise(x)))
    torch.testing.assert_close(layer(x), layer.to_dense()(x), rtol=1e-4, atol=1e-5)


# ---- parts


def names(layer: nn.Module) -> list[str]:
    return [name for name, _ in layer.named_children()]


def test_the_parts_of_mobilenets_block() -> None:
    layer = SeparableConv2d(
        8,
        16,
        3,
        bias=False,
        depthwise_norm=nn.BatchNorm2d,
        depthwise_activation=nn.ReLU6,
        pointwise_norm=nn.BatchNorm2d,
        pointwise_activation=nn.ReLU6,
    )
    assert names(layer) == list(layer.parts)
    x = torch.randn(2, 8, 9, 9)
    expected = nn.Sequential(*copy.deepcopy(layer).children())(x)
    torch.testing.assert_close(layer(x), expected)
    assert (layer.depthwise_norm.num_features, layer.pointwise_norm.num_features) == (8, 16)  # type: ignore[union-attr]


def test_absent_parts_are_none() -> None:
    layer = SeparableConv2d(8, 16, 3)
    assert (
        layer.depthwise_norm is layer.depthwise_activation is layer.pointwise_norm is layer.pointwise_activation is None
    )
    assert list(layer.state_dict()) == ["depthwise.weight", "pointwise.weight", "pointwise.bias"]


@pytest.mark.parametrize(
    ("options", "depthwise_bias", "pointwise_bias"),
    [
        ({}, False, True),
        ({"bias": False}, False, False),
        ({"depthwise_activation": nn.ReLU}, True, True),
        ({"depthwise_activation": nn.ReLU, "bias": False}, False, False),
        ({"depthwise_activation": nn.ReLU, "depthwise_norm": nn.BatchNorm2d}, False, True),
        ({"depthwise_norm": nn.BatchNorm2d}, False, True),
    ],
)
def test_biases(options: dict[str, Any], depthwise_bias: bool, pointwise_bias: bool) -> None:
    layer = SeparableConv2d(4, 6, 3, **options)
    assert (layer.depthwise.bias is not None, layer.pointwise.bias is not None) == (depthwise_bias, pointwise_bias)


def test_the_attributes_of_a_convolution() -> None:
    layer = SeparableConv2d(4, 6, 3, 2, ((1, 0), (0, 1)), 2, 2, padding_mode="replicate", depth_multiplier=3)
    assert (layer.in_channels, layer.out_channels, layer.groups, layer.depth_multiplier) == (4, 6, 2, 3)
    assert (layer.kernel_size, layer.stride, layer.dilation) == ((3, 3), (2, 2), (2, 2))
    assert (layer.padding, layer.padding_mode) == (((1, 0), (0, 1)), "replicate")


def test_outputs_vary_as_those_of_a_dense_convolution() -> None:
    x = torch.randn(64, 256, 9, 9)
    ours, dense = SeparableConv2d(256, 256, 3, bias=False), nn.Conv2d(256, 256, 3, bias=False)
    with torch.no_grad():
        assert abs(float(ours(x).std() / dense(x).std()) - 1) < 0.05


def test_repr_reads_like_the_call() -> None:
    layer = SeparableConv2d(4, 6, 3, 2, "same", groups=2, bias=False, depth_multiplier=3)
    expected = "4, 6, kernel_size=(3, 3), stride=(2, 2), padding='same', groups=2, bias=False, depth_multiplier=3"
    assert layer.extra_repr() == expected
    again = eval(f"SeparableConv2d({layer.extra_repr()})", vars(depthwise))
    assert repr(again) == repr(layer)


# ---- one call or its parts


def operations(layer: nn.Module, x: Tensor) -> set[str]:
    choices: list[Choice] = []
    with observed_choices(choices.append):
        layer(x)
    return {choice.problem.operation for choice in choices}


X = torch.randn(2, 4, 9, 9)


def with_forward_hook(layer: SeparableConv2d) -> None:
    layer.depthwise.register_forward_hook(lambda *_: None)


def with_pre_hook(layer: SeparableConv2d) -> None:
    layer.pointwise.register_forward_pre_hook(lambda *_: None)


def with_backward_hook(layer: SeparableConv2d) -> None:
    layer.depthwise.register_full_backward_hook(lambda *_: None)


def with_parametrisation(layer: SeparableConv2d) -> None:
    torch.nn.utils.parametrizations.weight_norm(layer.depthwise)


def with_pruning(layer: SeparableConv2d) -> None:
    prune.l1_unstructured(layer.pointwise, "weight", amount=0.5)


def with_a_foreign_child(layer: SeparableConv2d) -> None:
    layer.pointwise = nn.Sequential(layer.pointwise)  # type: ignore[assignment]


class Shifted(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 1) - self.weight.sum((1, 2, 3)).reshape(-1, 1, 1)


def with_a_subclass(layer: SeparableConv2d) -> None:
    other = Shifted(4, 6, 1)
    other.load_state_dict(layer.pointwise.state_dict())
    layer.pointwise = other


def with_a_backward_pre_hook(layer: SeparableConv2d) -> None:
    layer.pointwise.register_full_backward_pre_hook(lambda *_: None)


def with_a_compiled_child(layer: SeparableConv2d) -> None:
    layer.depthwise.compile(backend="eager")


def with_its_own_forward(layer: SeparableConv2d) -> None:
    layer.depthwise.forward = layer.depthwise.forward


@pytest.mark.parametrize(
    "watch",
    [
        with_forward_hook,
        with_pre_hook,
        with_backward_hook,
        with_parametrisation,
        with_pruning,
        with_a_foreign_child,
        with_a_subclass,
        with_a_backward_pre_hook,
        with_a_compiled_child,
        with_its_own_forward,
    ],
)
def test_parts_run_one_by_one_where_something_sees_between(watch: Any) -> None:
    layer = SeparableConv2d(4, 6, 3)
    assert operations(layer, X) == {"separable"}
    assert layer.parts_reason() is None
    before = layer(X)
    watch(layer)
    reason = layer.parts_reason()
    assert reason is not None
    assert "depthwise" in reason or "pointwise" in reason
    # By a kernel of its own, unless it is the pointwise convolution that is seen or that computes something else.
    is_torchs = watch in (with_pre_hook, with_pruning, with_a_subclass, with_a_backward_pre_hook)
    assert operations(layer, X) == ({"depthwise"} if is_torchs else {"depthwise", "pointwise"})
    if watch is not with_pruning:
        torch.testing.assert_close(layer(X), before)


class Named(nn.Conv2d):
    label = "projection"


class NamedNorm(nn.BatchNorm2d):
    label = "after"


class Gate(nn.ReLU):
    label = "gate"


class Activated(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Negative(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(x)


def materialised() -> nn.Module:
    norm = nn.LazyBatchNorm2d()
    norm(torch.randn(3, 6, 4, 4))
    return norm


def other_relu6() -> nn.Module:
    activation = nn.ReLU6()
    activation.max_val = 0.25
    return activation


@pytest.mark.parametrize(
    ("part", "module", "is_one_call"),
    [
        ("pointwise", Named(4, 6, 1), True),
        ("pointwise_norm", NamedNorm(6), True),
        ("pointwise_norm", materialised(), True),
        ("pointwise_norm", nn.SyncBatchNorm(6), True),
        ("pointwise_activation", Gate(), True),
        ("pointwise_norm", Activated(6), False),
        ("pointwise_norm", nn.InstanceNorm2d(6), False),
        ("pointwise_activation", Negative(), False),
        ("pointwise_activation", other_relu6(), False),
        ("pointwise_activation", nn.LeakyReLU(float("nan")), False),
        ("pointwise_activation", nn.ELU(torch.tensor(0.5)), False),  # type: ignore[arg-type]
        ("pointwise", nn.Conv2d(4, 6, 1, 2), False),
        ("pointwise", nn.Conv2d(4, 6, 1, padding=1), False),
        ("pointwise", nn.Conv2d(4, 6, 3), False),
        ("depthwise", nn.Conv2d(4, 4, 3, 2, groups=4), False),
        ("depthwise", DepthwiseConv2d(4, 3, stride=2), True),
        ("pointwise", nn.Conv2d(4, 6, 1, groups=2), True),
    ],
)
def test_a_given_part_runs_as_what_it_is(part: str, module: nn.Module, is_one_call: bool) -> None:
    layer = SeparableConv2d(4, 6, 3)
    setattr(layer, part, module)
    layer.eval()
    assert (layer.parts_reason() is None) == is_one_call
    with torch.no_grad():
        torch.testing.assert_close(layer(X), nn.Sequential(*(m for _, m in layer.present_parts()))(X), equal_nan=True)


def test_a_batch_norm_of_other_channels_is_an_error() -> None:
    for channels in (1, 5, 12):
        layer = SeparableConv2d(4, 6, 3, pointwise_norm=lambda _, c=channels: nn.BatchNorm2d(c)).eval()
        with pytest.raises(DepthwiseError, match=rf"pointwise_norm has the shape \({channels},\) for 6 channels"):
            layer(X)
    layer = SeparableConv2d(4, 6, 3, depthwise_norm=lambda _: nn.BatchNorm2d(4, device="meta")).eval()
    layer.depthwise_norm = nn.BatchNorm2d(4, device="meta").eval()
    with pytest.raises(DepthwiseError, match="depthwise_norm is on meta and x on cpu"):
        layer(X)


def test_a_layer_without_its_depthwise_part_runs_the_others() -> None:
    layer: Any = SeparableConv2d(4, 6, 3)
    layer.depthwise = None
    assert layer.parts_reason() == "depthwise is a NoneType"
    assert torch.equal(layer(X), layer.pointwise(X))


def test_a_global_hook_sees_the_parts() -> None:
    layer, seen = SeparableConv2d(4, 6, 3), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    try:
        layer(X)
    finally:
        handle.remove()
    assert seen == ["DepthwiseConv2d", "Conv2d", "SeparableConv2d"]


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (nn.ReLU, "separable"),
        (lambda: nn.LeakyReLU(0.2), "separable"),
        (lambda: nn.ELU(0.7), "separable"),
        (nn.GELU, "separable"),
        (nn.Identity, "separable"),
        (lambda: nn.GELU("tanh"), "depthwise pointwise"),
        (nn.Mish, "depthwise pointwise"),
    ],
)
def test_activations_the_functional_forms_know_are_part_of_the_call(activation: Any, expected: str) -> None:
    layer = SeparableConv2d(4, 6, 3, depthwise_activation=activation, pointwise_activation=activation)
    assert operations(layer, X) == {*expected.split()}
    torch.testing.assert_close(layer(X), nn.Sequential(*layer.children())(X))


def test_hooks_see_values_and_gradients() -> None:
    layer = SeparableConv2d(4, 6, 3)
    seen: dict[str, Any] = {}
    layer.depthwise.register_forward_hook(lambda _, __, out: seen.update(forward=out))
    layer.depthwise.register_full_backward_hook(lambda _, __, grad_out: seen.update(backward=grad_out))
    layer(X.clone().requires_grad_()).sum().backward()
    assert torch.equal(seen["forward"], layer.depthwise(X))
    assert seen["backward"][0].shape == (2, 4, 7, 7)


def test_pruning_and_parametrisation_train() -> None:
    for watch in (with_pruning, with_parametrisation):
        layer = SeparableConv2d(4, 6, 3)
        watch(layer)
        layer(X).sum().backward()
        assert all(parameter.grad is not None for parameter in layer.parameters())


def test_the_reason_why_parts_run_one_by_one() -> None:
    reasons = {
        SeparableConv2d(4, 6, 3, pointwise_norm=nn.BatchNorm2d).parts_reason(),
        SeparableConv2d(4, 6, 3, depthwise_activation=nn.Mish).parts_reason(),
        SeparableConv2d(4, 6, 3, depthwise_activation=lambda: nn.GELU("tanh")).parts_reason(),
    }
    assert reasons == {
        "pointwise_norm normalises with the statistics of the batch",
        "depthwise_activation is Mish()",
        "depthwise_activation is GELU(approximate='tanh')",
    }


def test_a_wrapped_part_leaves_the_repr_readable() -> None:
    layer = SeparableConv2d(4, 6, 3)
    with_a_foreign_child(layer)
    assert repr(layer).splitlines()[1] == "  4, 6"


# ---- copies and state dicts


def test_copies_pickles_and_state_dicts() -> None:
    layer = SeparableConv2d(4, 6, 3, padding="same", stride=2, depthwise_activation=nn.ReLU)
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    fresh = SeparableConv2d(4, 6, 3, padding="same", stride=2, depthwise_activation=nn.ReLU)
    fresh.load_state_dict(layer.state_dict())
    for other in [*copies, fresh]:
        assert torch.equal(other(X), layer(X))
        assert repr(other) == repr(layer)


def hand_written(*middle: nn.Module, bias: bool, after: tuple[nn.Module, ...] = ()) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=bias), *middle, nn.Conv2d(8, 6, 1, groups=2), *after
    )


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_hand_written_sequential_loads(bias: bool, nested: bool) -> None:
    theirs: nn.Module = hand_written(bias=bias)
    ours: nn.Module = SeparableConv2d(4, 6, 3, padding=1, groups=2, depth_multiplier=2)
    if nested:
        theirs, ours = nn.Sequential(nn.ReLU(), theirs), nn.Sequential(nn.ReLU(), ours)
    state = theirs.state_dict()
    keys = list(state)
    ours.load_state_dict(state)
    assert list(state) == keys
    torch.testing.assert_close(ours(X), theirs(X))


def test_a_hand_written_sequential_with_norms_loads() -> None:
    theirs = hand_written(nn.BatchNorm2d(8), nn.ReLU(), bias=False, after=(nn.BatchNorm2d(6),)).eval()
    for buffer in theirs.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    ours = SeparableConv2d(
        4,
        6,
        3,
        padding=1,
        groups=2,
        depth_multiplier=2,
        depthwise_norm=nn.BatchNorm2d,
        depthwise_activation=nn.ReLU,
        pointwise_norm=nn.BatchNorm2d,
    )
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours.eval()(X), theirs(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_a_depthwise_bias_before_a_batch_norm_goes_into_its_mean(training: bool) -> None:
    theirs = hand_written(nn.BatchNorm2d(8), nn.ReLU(), bias=True)
    ours = SeparableConv2d(
        4,
        6,
        3,
        padding=1,
        groups=2,
        depth_multiplier=2,
        depthwise_norm=nn.BatchNorm2d,
        depthwise_activation=nn.ReLU,
    )
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours.train(training)(X), theirs.train(training)(X), rtol=1e-4, atol=1e-5)


def test_a_depthwise_bias_that_has_no_place_is_not_dropped() -> None:
    theirs = hand_written(nn.GroupNorm(2, 8), bias=True)
    group_norm: Any = {"depthwise_norm": lambda channels: nn.GroupNorm(2, channels)}
    ours = SeparableConv2d(4, 6, 3, padding=1, groups=2, depth_multiplier=2, **group_norm)
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"depthwise.bias\""):
        ours.load_state_dict(theirs.state_dict())


def test_wrong_shapes_are_torchs_own_message() -> None:
    ours = SeparableConv2d(4, 6, 3)
    theirs = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 7, 1))
    with pytest.raises(RuntimeError, match=r"size mismatch for pointwise.weight"):
        ours.load_state_dict(theirs.state_dict())


# ---- device, dtype, batches


def test_device_and_dtype_reach_every_part() -> None:
    options: Any = {"depthwise_norm": nn.BatchNorm2d, "pointwise_norm": lambda channels: nn.GroupNorm(2, channels)}
    layer = SeparableConv2d(4, 6, 3, device="meta", dtype=torch.bfloat16, **options)
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.bfloat16)}
    assert layer(torch.empty(2, 4, 9, 9, device="meta", dtype=torch.bfloat16)).shape == (2, 6, 7, 7)
    skipped = torch.nn.utils.skip_init(SeparableConv2d, 4, 6, 3)
    assert skipped.depthwise.weight.device.type == "cpu"


def test_unbatched_and_empty() -> None:
    every: list[dict[str, Any]] = [{}, {"depthwise_norm": nn.BatchNorm2d}]
    for options in every:
        layer = SeparableConv2d(4, 6, 3, **options).eval()
        torch.testing.assert_close(layer(X[0]), layer(X)[0])
        assert layer(X[:0]).shape == (0, 6, 7, 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "in_channels must be at least 1; got 0"),
        ({"out_channels": "6"}, "out_channels must be an integer; got '6'"),
        ({"groups": 0}, "groups must be at least 1; got 0"),
        ({"groups": 3}, "in_channels=4 is not divisible by groups=3"),
        ({"groups": 4}, "out_channels=6 is not divisible by groups=4"),
        (
            {"depthwise_activation": nn.ReLU()},
            r"depthwise_activation must be a callable .* such as nn.ReLU6; got ReLU\(\)",
        ),
        ({"pointwise_activation": "relu"}, "pointwise_activation must be a callable that makes a module.* got 'relu'"),
        (
            {"depthwise_norm": nn.BatchNorm2d(4)},
            "depthwise_norm must be a callable .* such as nn.BatchNorm2d, given the",
        ),
        ({"pointwise_norm": lambda channels: channels}, "pointwise_norm must make a torch.nn.Module; .* made 6"),
        (
            {"depthwise_activation": nn.functional.relu},
            "depthwise_activation is called with no arguments, and <function",
        ),
        (
            {"pointwise_norm": nn.GroupNorm},
            "pointwise_norm is called with the number of channels, and .* raised TypeError",
        ),
        ({"padding_mode": "wrap"}, "padding_mode is one of"),
    ],
)
def test_constructor_errors(arguments: dict[str, Any], message: str) -> None:
    valid: dict[str, Any] = {"in_channels": 4, "out_channels": 6, "kernel_size": 3}
    with pytest.raises(DepthwiseError, match=message):
        SeparableConv2d(**(valid | arguments))


@pytest.mark.parametrize("options", [{}, {"depthwise_norm": nn.BatchNorm2d}])
def test_wrong_channels(options: dict[str, Any]) -> None:
    with pytest.raises(DepthwiseError, match="the layer has in_channels=4; the input has 8 channels"):
        SeparableConv2d(4, 6, 3, **options)(torch.zeros(1, 8, 9, 9))
