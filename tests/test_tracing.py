"""Tracing: what it sees, what it leaves untouched, and what it says when it cannot."""

from __future__ import annotations

import copy
import random
from collections import UserDict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from depthwise.count import count
from depthwise.errors import DepthwiseError
from depthwise.tracing import trace

from .support.networks import Calls, InvertedResidual


class Restless(nn.Module):
    """A module whose forward changes whatever it can."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout()
        self.weight = nn.Parameter(torch.randn(4))
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros(()))
        self.cache: Tensor | None = None
        self.offset = torch.zeros(4)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.steps += 1
        self.weight.mul_(2)
        self.offset += 1
        self.cache = x
        self.register_buffer("late", x)
        self.norm.train()
        self.norm.momentum = 0.5
        x = nn.functional.dropout(self.dropout(self.norm(x + self.offset)), training=True)
        return x + torch.rand(4) + torch.randn_like(x) * self.weight


class State(NamedTuple):
    values: dict[str, Tensor]
    training: list[bool]
    attributes: list[set[str]]
    hooks: int


def state(model: nn.Module) -> State:
    modules = list(model.modules())
    hooks = [(*m._forward_hooks.values(), *m._forward_pre_hooks.values()) for m in modules]
    return State(
        copy.deepcopy(dict(model.state_dict())),
        [module.training for module in modules],
        [set(vars(module)) for module in modules],
        sum(map(len, hooks)),
    )


def assert_same(before: State, after: State) -> None:
    assert before.values.keys() == after.values.keys()
    for name, value in before.values.items():
        torch.testing.assert_close(after.values[name], value, rtol=0, atol=0)
    assert before[1:] == after[1:]


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4), Restless(), nn.Linear(5 if fails else 4, 4))
    model[0].eval()
    before, identities = state(model), [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    numpy_state, python_state, torch_state = str(np.random.get_state()), random.getstate(), torch.get_rng_state()
    example = torch.ones(2, 4)
    if fails:
        with pytest.raises(DepthwiseError, match=r"2 \(Linear\) failed"):
            trace(model, example)
    else:
        trace(model, example)
    assert_same(before, state(model))
    assert [id(tensor) for tensor in (*model.parameters(), *model.buffers())] == identities
    restless = model[1]
    assert isinstance(restless, Restless)
    assert restless.cache is None
    assert (restless.calls, restless.offset.tolist(), restless.norm.momentum) == (0, [0.0] * 4, 0.1)
    assert example.tolist() == [[1.0] * 4] * 2
    assert before.hooks == 0
    assert all(parameter.grad is None for parameter in model.parameters())
    torch.testing.assert_close(torch.get_rng_state(), torch_state, rtol=0, atol=0)
    assert random.getstate() == python_state
    assert str(np.random.get_state()) == numpy_state
    assert torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_comparison_of_states_can_fail() -> None:
    model = Restless()
    before = state(model)
    with torch.no_grad():
        model(torch.zeros(2, 4))
    with pytest.raises(AssertionError):
        assert_same(before, state(model))


def test_a_training_model_is_traced_in_evaluation_mode() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Dropout()).train()
    assert [call.base_name for call in trace(model, (4, 1, 1)).operators if "empty" not in call.name] == [
        "_native_batch_norm_legit_no_training"
    ]
    assert model.training
    assert model[1].training


def test_module_calls_in_order() -> None:
    calls = trace(InvertedResidual(4, 8), (4, 6, 6)).modules
    assert [call.path for call in calls][:5] == ["", "expand", "expand.0", "expand.1", "expand.2"]
    assert [tuple(call.args[0].shape) for call in calls if call.path == "project.0"] == [(1, 8, 6, 6)]
    assert isinstance(calls[2].module, nn.Conv2d)


def test_operators_know_their_module() -> None:
    model = Calls(lambda x, inner: torch.relu(inner(x)), inner=nn.Conv2d(3, 4, 3))
    calls = trace(model, (3, 6, 6)).operators
    assert [(call.path, call.name) for call in calls] == [("inner", "aten.convolution"), ("", "aten.relu")]
    assert calls[0].module is model.inner


def test_a_caught_failure_does_not_move_what_follows() -> None:
    def forward(x: Tensor, broken: nn.Module, after: nn.Module) -> Any:
        try:
            return broken(x)
        except RuntimeError:
            return after(x)

    broken = nn.Sequential(nn.Linear(5, 5))
    inner = Calls(forward, broken=broken, after=nn.ReLU())
    calls = trace(nn.Sequential(inner, nn.Sigmoid()), (4,)).operators
    assert [(call.path, call.name) for call in calls if call.base_name != "t"] == [
        ("0.after", "aten.relu"),
        ("1", "aten.sigmoid"),
    ]


def test_the_models_own_hooks_run() -> None:
    model = nn.Sequential(nn.Identity())
    model[0].register_forward_pre_hook(lambda module, args: (torch.relu(args[0]),))
    handle = model[0].register_forward_hook(lambda module, args, output: torch.sigmoid(output))
    assert [(call.path, call.name) for call in trace(model, (4,)).operators] == [
        ("0", "aten.relu"),
        ("0", "aten.sigmoid"),
    ]
    handle.remove()
    assert len(model[0]._forward_hooks) == 0
    assert len(model[0]._forward_pre_hooks) == 1


def test_whole_operators_are_not_taken_apart() -> None:
    model = nn.Upsample(scale_factor=2)
    assert len(trace(model, (4, 5, 5)).operators) > 1
    whole = trace(model, (4, 5, 5), whole={"aten.upsample_nearest2d"}).operators
    assert [call.base_name for call in whole] == ["upsample_nearest2d"]


def test_parameters_behind_a_layers_back_are_found() -> None:
    # nn.GRU keeps a second list of its weights.
    model = nn.GRU(4, 4)
    assert sum(row.cost.parameters for row in count(model, (1, 4)).rows) == count(model, (1, 4)).total.parameters


def test_tensors_that_are_no_parameters() -> None:
    class Anchors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.anchors = torch.ones(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.anchors[None].mT + torch.arange(4) + torch.tensor([1.0]).item()

    assert count(Anchors(), (3, 4)).total.macs == 48


def test_meta_models_give_the_same_trace() -> None:
    def forward(x: Tensor, block: nn.Module) -> Tensor:
        return block(x) + torch.ones(1) + torch.ones(1, device=x.device)  # type: ignore[no-any-return]

    meta = count(Calls(forward, block=InvertedResidual(4, 8, 2)).to("meta"), (4, 6, 6))
    assert meta == count(Calls(forward, block=InvertedResidual(4, 8, 2)), (4, 6, 6))


def test_inputs_follow_the_models_dtype() -> None:
    half = trace(nn.Linear(3, 3, dtype=torch.float16), (3,)).modules[0].args[0]
    assert half.dtype == torch.float16
    assert trace(nn.ReLU(), (3,)).modules[0].args[0].dtype == torch.get_default_dtype()
    example = torch.zeros(2, 3, 4, 4, dtype=torch.float64).to(memory_format=torch.channels_last)
    given = trace(nn.ReLU(), example).modules[0].args[0]
    assert (given.dtype, given.stride()) == (torch.float64, example.stride())


@pytest.mark.parametrize("size", [(3, 8, 8), [3, 8, 8], torch.Size([3, 8, 8]), tuple(np.array([3, 8, 8]))])
def test_sizes_in_any_sequence_of_ints(size: Any) -> None:
    for given in (size, (size,), [size]):
        assert trace(nn.ReLU(), given).modules[0].args[0].shape == (1, 3, 8, 8)


def test_compiled_modules_are_traced_as_they_were() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    compiled = torch.compile(model, backend="eager")
    assert count(compiled, (3, 6, 6)).rows == count(model, (3, 6, 6)).rows  # type: ignore[arg-type]
    partly = nn.Sequential()
    partly.append(compiled)  # type: ignore[arg-type]
    partly.append(nn.ReLU())
    assert [row.name for row in count(partly, (3, 6, 6)).rows] == ["0.0", "0.1", "1"]


def scaled_by_its_sum(x: Tensor) -> Tensor:
    return x * x.sum().item()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            scaled_by_its_sum,
            r"block \(Calls\) needs the numbers in a tensor \(aten._local_scalar_dense.default\), and no",
        ),
        (lambda x: x if x.sum() > 0 else -x, r"block \(Calls\) needs the numbers in a tensor"),
        (lambda x: x[x > 0], r"block \(Calls\) needs the numbers in a tensor \(aten.nonzero.default\)"),
        (lambda x: x.numpy(), r"block \(Calls\) failed; .* RuntimeError: .numpy\(\) is not supported"),
    ],
)
def test_a_forward_that_needs_numbers(function: Any, message: str) -> None:
    model = Calls(lambda x, block: block(x), block=Calls(function))
    with pytest.raises(DepthwiseError, match=message):
        trace(model, (3, 8, 8))


def test_an_operator_without_a_shape() -> None:
    library = torch.library.Library("depthwise_test_tracing", "FRAGMENT")
    library.define("opaque(Tensor x) -> Tensor")
    library.impl("opaque", torch.clone, "CPU")
    with pytest.raises(
        DepthwiseError,
        match=r"the model \(Calls\) calls depthwise_test_tracing.opaque.default, .* torch.library.register_fake",
    ):
        trace(Calls(torch.ops.depthwise_test_tracing.opaque), (3,))


def test_a_forward_that_fails_names_its_module() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 8, 3)))
    message = (
        r"1\.1 \(Conv2d\) failed; the model's input was \(1, 3, 9, 9\), batch first: RuntimeError: Given groups=1, "
        r".* but got 8 channels instead; .* give example inputs"
    )
    with pytest.raises(DepthwiseError, match=message) as caught:
        trace(model, (3, 9, 9))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_failure_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DepthwiseError, match=r"must have same reduction dim|mat1 and mat2"):
        trace(nn.Linear(5, 5), (4,))
    assert caplog.records == []


def test_indices_need_example_inputs() -> None:
    table = torch.zeros(10, 3)
    with pytest.raises(DepthwiseError, match=r"the model \(Calls\) failed; .*for inputs of another kind, indices"):
        trace(Calls(lambda x: table[x]), (4,))


def test_a_bug_in_the_model_is_told_with_its_cause() -> None:
    with pytest.raises(DepthwiseError, match=r"AttributeError: .* has no attribute 'no_such'") as told:
        trace(Calls(lambda x: x.no_such), (3,))
    assert isinstance(told.value.__cause__, AttributeError)


def test_lazy_modules_must_be_initialised() -> None:
    model = nn.Sequential(nn.ReLU(), nn.LazyConv2d(8, 3))
    with pytest.raises(DepthwiseError, match=r"1 \(LazyConv2d\) does not know its shape yet; call the model once"):
        trace(model, (3, 8, 8))
    model(torch.zeros(1, 3, 8, 8))
    assert len(trace(model, (3, 8, 8)).operators) == 2


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (torch.relu, "expected a torch.nn.Module, got builtin_function_or_method; call a function from a module"),
        (nn.ReLU, r"expected a model, got the class ReLU; make one: ReLU\(...\)"),
    ],
)
def test_models_that_are_none(model: Any, message: str) -> None:
    with pytest.raises(DepthwiseError, match=message):
        trace(model, (3, 8, 8))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_hides_its_operators() -> None:
    with pytest.raises(DepthwiseError, match=r"a TorchScript module hides its operators; give the nn.Module"):
        trace(torch.jit.script(nn.ReLU()), (3, 8, 8))


@pytest.mark.parametrize(
    "size", ["3x8x8", 3, (), ((),), (3.0, 8), None, (3, (8, 8)), ("3x8x8",), (None, (3, 8)), {3}, ((3, 8), None)]
)
def test_inputs_that_are_none(size: Any) -> None:
    message = r"input_size (is \(channels, \*spatial\), a tuple of such sizes, an example|must be an integer; got)"
    with pytest.raises(DepthwiseError, match=message):
        trace(nn.ReLU(), size)


@pytest.mark.parametrize("inputs", [{}, {3: (3, 8)}])
def test_keywords_that_are_none(inputs: Any) -> None:
    with pytest.raises(DepthwiseError, match=r"a dict of inputs has the model's keywords as its keys; got \[3?\]"):
        trace(nn.ReLU(), inputs)


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, *, pixels: Tensor, extra: Any = None, scale: float = 1.0) -> Tensor:
        out: Tensor = self.conv(pixels) * scale
        if extra is not None:
            out += extra["shift"][0]
        return out


@pytest.mark.parametrize(
    "inputs",
    [
        {"pixels": (3, 8, 8)},
        {"pixels": torch.zeros(1, 3, 8, 8), "scale": 2.0},
        {"pixels": (3, 8, 8), "extra": {"shift": [torch.zeros(4, 1, 1)]}},
        UserDict(pixels=torch.zeros(1, 3, 8, 8), extra=None),
    ],
)
def test_a_dict_is_keyword_arguments(inputs: Any) -> None:
    (convolution, *_) = trace(Keywords(), inputs).operators
    assert convolution.result.shape == (1, 4, 6, 6)


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@pytest.mark.parametrize(
    "inputs", [(Pair(torch.zeros(2, 3), torch.zeros(2, 3)),), ([torch.zeros(2, 3), torch.zeros(2, 3)],)]
)
def test_examples_may_hold_their_tensors(inputs: Any) -> None:
    traced = trace(Calls(lambda pair: pair[0] + pair[1]), inputs)
    assert [call.name for call in traced.operators] == ["aten.add"]
    assert traced.batch_size == 2
    traced = trace(Calls(lambda pair: pair.x * pair.y), (Pair(torch.zeros(5, 3), torch.zeros(5, 3)),))
    assert traced.batch_size == 5


def test_what_stands_beside_examples_is_passed_on() -> None:
    traced = trace(Calls(lambda x, size, nothing, factor: x * factor + size), (torch.zeros(1, 3), (3,), None, 2))
    assert [call.name for call in traced.operators] == ["aten.mul", "aten.add"]


def test_a_batch_in_a_size_is_pointed_out() -> None:
    message = (
        r"input was \(1, 1, 3, 9, 9\), .*; the batch is left out of a size: where the 1 of 1x3x9x9 is one, give 3x9x9"
    )
    with pytest.raises(DepthwiseError, match=message):
        trace(nn.Conv2d(3, 8, 3), (1, 3, 9, 9))


@pytest.mark.parametrize(
    "size", [(3, 2**63, 3), (3, 10**30, 3), (3, 2**40, 2**40), (2**62,), (1,) * 70, (3, 2**29, 2**29)]
)
def test_absurd_sizes(size: Any) -> None:
    with pytest.raises(
        DepthwiseError,
        match=r"at most 9223|more elements than|Conv2d\) failed",
    ) as told:
        trace(nn.Conv2d(3, 8, 3, padding=2**20), size)
    assert "\n" not in str(told.value)


def test_an_example_without_a_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Tensor:
        raise NotImplementedError("quantized nyi\nin meta tensors")

    # Quantised and nested tensors are such; torch warns of them.
    monkeypatch.setattr("torch._subclasses.fake_tensor.FakeTensorMode.from_tensor", fail)
    message = "cannot be traced without its numbers: NotImplementedError: quantized nyi in meta tensors"
    with pytest.raises(DepthwiseError, match=message):
        trace(nn.Identity(), torch.zeros(1, 3))


def test_a_forward_that_ends_the_process() -> None:
    def leave(x: Tensor) -> None:
        raise SystemExit(3)

    with pytest.raises(DepthwiseError, match=r"the model \(Calls\) failed; .* SystemExit: 3"):
        trace(Calls(leave), (3,))


class Uncopied(dict[str, int]):
    """A dict that cannot be copied as objects are."""

    def __reduce_ex__(self, _: Any) -> Any:
        raise TypeError("no copy of this")


def test_what_a_forward_puts_into_containers_is_undone() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen, self.nested, self.own = [1], ({"a": {2}},), Uncopied(x=1)

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(len(x))
            self.nested[0]["a"].add(3)
            self.own["y"] = 2
            return x + 1

    model = Counting()
    trace(model, (3, 8, 8))
    assert (model.seen, model.nested, model.own) == ([1], ({"a": {2}},), {"x": 1})


def test_sizes_are_positive() -> None:
    with pytest.raises(DepthwiseError, match="input_size must be at least 1; got 0"):
        trace(nn.ReLU(), (3, 0, 8))
