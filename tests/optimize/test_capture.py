"""What a network takes: any batch, any size, or the ones that are baked in; the model stays as it was."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise import DepthwiseError, SeparableConv2d, optimize
from depthwise.optimize.capture import call_of, capture, frozen_copy
from depthwise.optimize.graph import Batch, Tree, Value
from depthwise.optimize.network import Network
from tests.support.networks import Calls


def captured(model: nn.Module, *args: Any, **kwargs: Any) -> Network:
    return capture(frozen_copy(model), call_of(args, kwargs))


def of(function: Any, *sizes: int, **children: nn.Module) -> Network:
    return captured(Calls(function, **children), torch.randn(*(sizes or (1, 4, 32, 32))))


def test_a_plain_network_takes_any_batch_and_size() -> None:
    network = captured(nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten()), torch.zeros(1, 4, 9, 9))
    assert (network.batch, network.is_sized) == (None, False)
    assert [node.operator for node in network.graph.nodes] == ["conv", "relu", "flatten"]
    assert network.graph.inputs[0].shape == (Batch(), 4, 9, 9)
    assert {spec.name: spec.shape for spec in network.graph.weights} == {"0.weight": (6, 4, 3, 3), "0.bias": (6,)}
    assert [node.source for node in network.graph.nodes] == ["0", "1", "2"]


def test_our_own_layers_are_convolutions() -> None:
    network = captured(SeparableConv2d(4, 8, 3, stride=2, padding="same"), torch.zeros(1, 4, 9, 9))
    assert [node.operator for node in network.graph.nodes if node.operator != "pad"] == ["conv", "conv"]


def test_a_batch_in_a_view_is_a_multiple_of_the_batch() -> None:
    network = of(lambda x: x.view(x.shape[0] * 2, 2, x.shape[2] * x.shape[3]).permute(1, 0, 2))
    assert network.graph.nodes[0]["shape"] == (Batch(2), 2, 1024)
    assert (network.batch, network.is_sized) == (None, True)


def test_a_batch_in_a_view_of_any_size() -> None:
    network = of(lambda x: x.view(x.shape[0] * 2, -1))
    assert network.graph.nodes[0]["shape"] == (Batch(2), -1)
    assert (network.batch, network.is_sized) == (None, False)


def test_a_size_that_is_baked_in() -> None:
    network = of(lambda x: F.interpolate(F.avg_pool2d(x, 2), size=x.shape[2:]))
    assert (network.batch, network.is_sized) == (None, True)


def test_a_size_in_a_constant_of_the_forward() -> None:
    network = of(lambda x: x * torch.tensor(float(x.shape[2])))
    assert (network.batch, network.is_sized) == (None, True)


def to_multiple_of_8(x: Tensor) -> Tensor:
    height, width = (-size % 8 for size in x.shape[2:])
    return F.pad(x, (0, width, 0, height)) if height or width else x


@pytest.mark.parametrize(
    "function",
    [
        to_multiple_of_8,
        lambda x: F.pad(x, (0, x.shape[3] % 2)),
        # Whose views have the batch in them.
        lambda x: to_multiple_of_8(x).view(x.shape[0], -1),
        # It takes even sizes alone.
        lambda x: to_multiple_of_8(x.unflatten(2, (-1, 2)).flatten(2, 3)),
        lambda x: x * 2 if x.shape[2] == x.shape[3] else x * 3,
        # Constants of the forward are not compared without an export.
        lambda x: to_multiple_of_8(x) * torch.tensor(2.0),
    ],
)
def test_what_sizes_with_remainders_show(function: Any) -> None:
    assert (of(function).batch, of(function).is_sized) == (None, True)


def test_what_is_refused_at_sizes_with_remainders_is_taken_at_the_example_s() -> None:
    def forward(x: Tensor) -> Tensor:
        return x * 2 if x.shape[2] % 2 == 0 else x.squeeze_(1)

    assert of(forward).is_sized


def test_a_padding_that_depends_on_the_size() -> None:
    layer = SeparableConv2d(4, 8, 3, stride=2, padding="same").eval()
    found = optimize(layer, torch.zeros(1, 4, 9, 9))
    for size in (9, 10, 12):
        x = torch.randn(2, 4, size, size + 1)
        assert torch.allclose(found(x), layer(x), atol=1e-5), size


def test_a_model_that_takes_multiples_alone_has_no_size_baked_in() -> None:
    def forward(x: Tensor) -> Tensor:
        if x.shape[2] % 32:
            raise ValueError("multiples of 32")
        return x * 2

    network = of(forward)
    assert (network.batch, network.is_sized, network.least) == (None, False, 0)


def test_one_image_is_a_case_of_its_own() -> None:
    model = Calls(lambda x: x.mean(2)[0] if x.shape[0] == 1 else x.mean(2))
    found = optimize(model, torch.zeros(1, 4, 8, 8))
    assert "batches below 2 run on the model as it is" in str(found.report)
    for batch in (1, 2, 3):
        x = torch.randn(batch, 4, 8, 8)
        assert torch.allclose(found(x), model(x), atol=1e-6)
    network = of(lambda x: x.mean(2)[0] if x.shape[0] == 1 else F.pad(x, (0, x.shape[3] % 2)).mean(2))
    assert (network.is_sized, network.least) == (True, 2)


def test_a_model_that_knows_its_size_has_it_baked_in() -> None:
    def forward(x: Tensor) -> Tensor:
        if x.shape[2] != 32:
            raise ValueError("only 32")
        return x * 2

    network = of(forward)
    assert (network.batch, network.is_sized) == (None, True)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: x.reshape(1, -1), None),
        (lambda x: x * (x.shape[0] + 1), "other of mul in the model depends on the batch: 3 for a batch of 2, 6 for 5"),
        (lambda x: torch.relu(x) if x.shape[0] > 3 else torch.sigmoid(x), "runs other operators for another batch"),
        (lambda x: torch.relu(torch.relu(x)) if x.shape[0] > 3 else x, "runs other operators for another batch"),
        (lambda x: x + torch.ones(x.shape[0] * 7)[:1], None),
        (lambda x: x + torch.tensor([1.0] * x.shape[0]).sum(), "a constant of the forward, depends on the batch"),
        (lambda x: x.view(1, *x.shape[1:]), "shape '.*' is invalid|view size|RuntimeError"),
    ],
)  # fmt: skip
def test_a_batch_that_is_baked_in(function: Any, why: str | None) -> None:
    network = of(function)
    if why is None:
        assert network.batch is None
        return
    assert network.batch == 1
    assert network.is_sized
    assert __import__("re").search(why, network.why_fixed), network.why_fixed
    assert network.graph.inputs[0].shape == (1, 4, 32, 32)


def test_inputs_without_a_batch() -> None:
    network = captured(Calls(lambda x: x * 2), torch.tensor(3.0))
    assert (network.batch, network.why_fixed) == (1, "the inputs have no dimension for a batch")


def test_dicts_lists_and_numbers() -> None:
    def forward(x: dict[str, Tensor], scale: float, *, others: list[Tensor], what: str = "a") -> Any:
        return {"sum": x["a"] + others[0] * scale, "rest": [x["b"], (others[1], None, 3)]}

    class Model(nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return forward(*args, **kwargs)

    one = {name: torch.randn(1, 3) for name in "ab"}
    network = captured(Model(), one, 2.5, others=[torch.randn(1, 3), torch.randn(3)], what="a")
    assert [spec.shape for spec in network.graph.inputs] == [(Batch(), 3), (Batch(), 3), (Batch(), 3), (3,)]
    gives = network.graph.gives
    assert isinstance(gives, Tree)
    assert gives.keys == ("sum", "rest")
    assert str(gives.items[1]) == "[input_1, (input_3, None, 3)]"
    assert (
        str(network.graph.takes) == "(({'a': input_0, 'b': input_1}, 2.5), {'others': [input_2, input_3], 'what': 'a'})"
    )


def test_tied_weights_are_one() -> None:
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    network = captured(nn.Sequential(first, second), torch.zeros(1, 4))
    assert len(network.weights) == 1
    assert network.graph.nodes[0]["weight"] == network.graph.nodes[1]["weight"]


def test_the_model_is_untouched_and_the_weights_are_the_networks_own() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network = captured(model, torch.randn(1, 4, 8, 8))
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    addresses = {parameter.data_ptr() for parameter in model.parameters()}
    assert all(tensor.data_ptr() not in addresses and not tensor.requires_grad for tensor in network.weights.values())
    assert [node.operator for node in network.graph.nodes] == ["conv", "batch_norm"]


def test_channels_last_examples_are_captured_so() -> None:
    model = nn.Conv2d(4, 4, 3)
    x = torch.zeros(1, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    assert captured(model, torch.zeros(1, 4, 8, 8)).gives_last == (False,)
    network = captured(model, x)
    assert (network.takes_last, network.gives_last) == (True, (True,))


def test_regions_without_gradient_or_autocast_are_read_through() -> None:
    def forward(x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            y = x.float() * 2
        with torch.no_grad():
            return torch.relu(y) + 1

    operators = [node.operator for node in of(forward).graph.nodes]
    assert operators[-3:] == ["mul", "relu", "add"]


def test_a_region_of_lower_precision_is_refused() -> None:
    def forward(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return x @ x

    with pytest.raises(DepthwiseError, match="the model needs wrap_with_autocast, which optimize does not take"):
        of(forward)


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        (nn.Linear(2, 2, device="meta"), (torch.zeros(1, 2),), "weight is on meta; optimize is for the CPU"),
        (nn.LazyLinear(2), (torch.zeros(1, 2),), "does not know its shape yet"),
        (nn.Linear(2, 2), (), "optimize needs an example input"),
        (nn.Linear(2, 2), (torch.zeros(1, 3),), "torch.export does not take the model with the example inputs: Runt"),
        (nn.Linear(2, 2), ({1: 2},), r"the input\[0\] is a dict; a network takes tensors, numbers"),
        (nn.Linear(2, 2), (torch.zeros(2, 2).to_sparse(),), r"is a Tensor of layout torch.sparse_coo; plain tensors"),
        (Calls(lambda x: {1: x}), (torch.zeros(1, 3),), "what the model returns holds a dict"),
        (Calls(lambda x: x, other=nn.Linear(1, 1).share_memory()), ([object()],), "is a object; a network"),
    ],
)  # fmt: skip
def test_what_cannot_be_captured(model: nn.Module, args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(DepthwiseError, match=message):
        captured(model, *args)


def test_a_model_that_cannot_be_copied() -> None:
    class Unique(nn.Module):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("there is only one")

    with pytest.raises(DepthwiseError, match="the model cannot be copied: TypeError: there is only one"):
        frozen_copy(Unique())


def test_caches_of_the_forward_keep_no_tensor_without_numbers() -> None:
    class Caches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.arange(4.0))
            self.cache: dict[str, Tensor] = {}
            self.seen: list[Any] = [set()]

        def forward(self, x: Tensor) -> Tensor:
            if "bias" not in self.cache:
                self.cache["bias"] = self.bias[[3, 2, 1, 0]]
            self.seen[0].add(x.shape)
            return (x + self.cache["bias"]).reshape(x.shape[0], x.shape[1] * x.shape[2] * x.shape[3])

    copy = frozen_copy(Caches())
    assert isinstance(copy, Caches)
    network = capture(copy, call_of((torch.zeros(1, 4, 8, 4),), {}))
    assert (network.batch, network.is_sized) == (None, True)
    assert (copy.cache, copy.seen) == ({}, [set()])


def test_what_the_forward_remembers_of_one_size_is_not_another_s() -> None:
    class Remembers(nn.Module):
        size = 0

        def forward(self, x: Tensor) -> Tensor:
            self.size = self.size or x.shape[2]
            return x * self.size

    network = captured(Remembers(), torch.zeros(1, 4, 8, 8))
    assert (network.batch, network.is_sized) == (None, True)


def test_threads_capture_one_at_a_time() -> None:
    models = [nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(6)]
    before = getattr(torch.fx.config, "do_not_emit_stack_traces", None)
    with ThreadPoolExecutor(len(models)) as pool:
        networks = list(pool.map(lambda model: captured(model, torch.zeros(1, 4, 9, 9)), models))
    assert [len(network.graph.nodes) for network in networks] == [3] * len(models)
    assert getattr(torch.fx.config, "do_not_emit_stack_traces", None) == before
    assert gc.isenabled()


def test_values_are_named_once() -> None:
    class Clash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.Parameter(torch.ones(3))
            self.input_0 = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x + self.relu) * self.input_0

    network = captured(Clash(), torch.ones(1, 3))
    names = [spec.name for spec in (*network.graph.inputs, *network.graph.weights)]
    names += [node.name for node in network.graph.nodes]
    assert len(set(names)) == len(names)
    assert isinstance(network.graph.gives, Value)
