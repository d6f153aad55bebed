"""`prepare`: all that a first call would do is done, and nothing of the model is changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import depthwise
from depthwise import DepthwiseError, SeparableConv1d, SeparableConv2d, SeparableConv3d, backends, operators, prepare
from depthwise.backends.cpu import machine
from depthwise.backends.cpu.run import jit

needs_machine = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")


class Two(nn.Module):
    """Two inputs, one of them optional."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = SeparableConv2d(5, 7, 3, depthwise_norm=nn.BatchNorm2d, pointwise_activation=nn.SiLU)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Any:
        out = self.layer(x)
        return out if scale is None else out * scale


def network() -> nn.Sequential:
    return nn.Sequential(
        SeparableConv2d(3, 11, 3, 2, "same", depthwise_norm=nn.BatchNorm2d, depthwise_activation=nn.ReLU6),
        nn.Conv2d(11, 5, 1),
        SeparableConv2d(5, 6, 5, padding=((2, 1), (0, 2)), pointwise_norm=nn.BatchNorm2d),
    ).eval()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that are asked to be compiled or loaded from here on."""
    keys: list[str] = []
    original = jit.load

    def recording(key: str, *rest: Any) -> jit.Code:
        if key != "driver":
            keys.append(key)
        return original(key, *rest)

    monkeypatch.setattr(jit, "load", recording)
    depthwise.repack_()
    return keys


@needs_machine
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_first_call_compiles_and_packs_nothing(
    memory_format: torch.memory_format, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = network(), torch.randn(2, 3, 15, 15).contiguous(memory_format=memory_format)
    prepare(model, x)
    assert len(set(compiled)) == 2

    def never(*_: object) -> Any:
        raise AssertionError("done at the first call")

    for name in ("load", "compile_object", "link"):
        monkeypatch.setattr(jit, name, never)
    monkeypatch.setattr("depthwise.backends.cpu.launch.pack_of", never)
    monkeypatch.setattr(operators, "runner", never)
    with torch.no_grad():
        model(x)
        model(torch.randn_like(x))


@needs_machine
def test_other_sizes_compile_nothing(compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    layer = SeparableConv2d(9, 13, 3, padding=1).eval()
    prepare(layer, torch.zeros(1, 9, 32, 32).contiguous(memory_format=torch.channels_last))
    (first,) = set(compiled)
    with torch.no_grad():
        for batch, size in ((2, 32), (5, 32)):
            layer(torch.zeros(batch, 9, size, size).contiguous(memory_format=torch.channels_last))
    assert set(compiled) == {first}


@needs_machine
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_many_sizes_need_few_kernels(rank: int, compiled: list[str]) -> None:
    layer = (SeparableConv1d, SeparableConv2d, SeparableConv3d)[rank - 1](24, 40, 3, padding=1).eval()
    with torch.no_grad():
        for size in range(1, 51):
            layer(torch.zeros(1, 24, *(min(size, 12),) * (rank - 1), size))
    assert len(set(compiled)) <= 6


@pytest.mark.parametrize("backend", ["eager", None])
def test_the_model_stays_as_it_is(backend: str | None) -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    versions = {name: tensor._version for name, tensor in model.state_dict().items()}
    grads = [parameter.requires_grad for parameter in model.parameters()]
    with depthwise.backend(backend):
        prepare(model, torch.randn(1, 3, 15, 15))
    assert torch.is_grad_enabled()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert versions == {name: tensor._version for name, tensor in model.state_dict().items()}
    assert grads == [parameter.requires_grad for parameter in model.parameters()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


def test_several_inputs() -> None:
    model, x = Two().eval(), torch.randn(1, 5, 9, 9)
    prepare(model, x)
    prepare(model, x, torch.ones(1))
    with torch.no_grad():
        assert torch.equal(model(x), model(x, torch.ones(1)))


def test_errors() -> None:
    x: Any = torch.zeros(1, 3, 15, 15)
    with pytest.raises(DepthwiseError, match=r"prepare takes a torch\.nn\.Module; got function"):
        prepare(lambda x: x, x)  # type: ignore[arg-type]
    with pytest.raises(DepthwiseError, match=r"would change a model in training mode; call \.eval\(\)"):
        prepare(network().train(), x)
    half = network()
    half[2].pointwise_norm.train()  # type: ignore[union-attr]
    with pytest.raises(DepthwiseError, match="in training mode"):
        prepare(half, x)
    with pytest.raises(DepthwiseError, match=r"needs example inputs, as the model is called with: prepare\(model, x\)"):
        prepare(network())


def test_what_a_backend_refuses_is_not_hidden() -> None:
    with depthwise.backend("cpu"), pytest.raises(DepthwiseError, match=r"refuses: torch\.float64 is not supported"):
        prepare(network().double(), torch.zeros(1, 3, 15, 15).double())
    assert backends.asked_backend() is None
