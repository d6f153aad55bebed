"""`prepare`: all that a first call would do is done, and nothing of the model is changed."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import depthwise
from depthwise import (
    DepthwiseError,
    SeparableConv1d,
    SeparableConv2d,
    SeparableConv3d,
    backends,
    operators,
    prepare,
    preparing,
)
from depthwise.backends import tensors
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
    # Two layers: each of one kernel, of contiguous images of two.
    assert len(set(compiled)) == (4 if memory_format == torch.contiguous_format else 2)

    def never(*_: object) -> Any:
        raise AssertionError("done at the first call")

    for name in ("load", "compile_object", "link"):
        monkeypatch.setattr(jit, name, never)
    monkeypatch.setattr("depthwise.backends.cpu.launch.pack_of", never)
    monkeypatch.setattr(operators, "convolution", never)
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
    assert len(set(compiled)) <= 8


@pytest.mark.parametrize("backend", ["eager", None])
def test_the_model_stays_as_it_is(backend: str | None) -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    versions = {name: tensor._version for name, tensor in model.state_dict().items()}
    grads = [parameter.requires_grad for parameter in model.parameters()]
    with depthwise.backend(backend), warnings.catch_warnings():
        # That nothing is prepared for PyTorch's operators.
        warnings.simplefilter("ignore" if backend else "error")
        prepare(model, torch.randn(1, 3, 15, 15))
    assert torch.is_grad_enabled()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert versions == {name: tensor._version for name, tensor in model.state_dict().items()}
    assert grads == [parameter.requires_grad for parameter in model.parameters()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


@needs_machine
def test_a_first_call_in_inference_mode_refuses_no_later_one() -> None:
    tensors._plain_keys.cache_clear()
    layer, x = SeparableConv2d(5, 7, 3).eval(), torch.randn(1, 5, 9, 9)
    with torch.inference_mode():
        layer(x)
    assert prepare(layer, x).convolutions == 1


def test_several_inputs() -> None:
    model, x = Two().eval(), torch.randn(1, 5, 9, 9)
    prepare(model, x)
    prepare(model, x, torch.ones(1))
    done = prepare(model, {"x": x, "scale": torch.ones(1, 7, 7, 7)})
    assert done.convolutions == 1
    with torch.no_grad():
        assert torch.equal(model(x), model(x, torch.ones(1)))


@needs_machine
def test_sizes_that_were_given_compile_nothing_later(compiled: list[str]) -> None:
    model = network()
    x = torch.randn(1, 3, 15, 15).contiguous(memory_format=torch.channels_last)
    done = prepare(model, x, sizes=[33, (20, 31), range(40, 61, 10), (range(50, 52), 70)])
    assert done.sizes == ((15, 15), (33, 33), (20, 31), (40, 40), (50, 50), (60, 60), (50, 70), (51, 70))
    assert done.convolutions == 2
    assert len(done.kernels) == len(set(done.kernels)) >= 2
    before = set(compiled)
    with torch.no_grad():
        for height, width in done.sizes:
            model(torch.randn(1, 3, height, width).contiguous(memory_format=torch.channels_last))
    assert set(compiled) == before
    assert str(done).startswith(f"2 convolutions prepared for 8 sizes in {done.seconds:.1f} s: {len(done.kernels)} k")


@needs_machine
def test_a_size_is_that_of_every_input_like_the_first() -> None:
    seen: list[Any] = []

    class Watching(Two):
        def forward(self, x: Tensor, scale: Tensor | None = None) -> Any:
            seen.append((tuple(x.shape), x.stride(), None if scale is None else tuple(scale.shape)))
            return super().forward(x)

    x = torch.randn(2, 9, 9, 5).permute(0, 3, 1, 2)
    prepare(Watching().eval(), {"x": x, "scale": torch.zeros(1, 1, 9, 9)}, sizes=[(7, 11)])
    assert seen[-1] == ((2, 5, 7, 11), (5 * 77, 1, 55, 5), (1, 1, 7, 11))
    prepare(Watching().eval(), x, torch.zeros(1, 1, 3), sizes=[(7, 11)])
    assert seen[-1] == ((2, 5, 7, 11), (5 * 77, 1, 55, 5), (1, 1, 3))


@needs_machine
def test_sequences_and_volumes() -> None:
    sequence, volume = SeparableConv1d(4, 8, 3).eval(), SeparableConv3d(4, 8, 3).eval()
    assert prepare(sequence, torch.zeros(1, 4, 50), sizes=range(60, 81, 10)).sizes == ((50,), (60,), (70,), (80,))
    assert prepare(volume, torch.zeros(1, 4, 5, 5, 5), sizes=[(4, 6, 7)]).sizes == ((5, 5, 5), (4, 6, 7))


@needs_machine
def test_an_empty_batch_has_nothing_to_prepare() -> None:
    with pytest.warns(UserWarning, match="nothing to prepare"):
        prepare(SeparableConv2d(3, 8, 3).eval(), torch.zeros(0, 3, 9, 9))


def test_numbers_come_from_the_example() -> None:
    """So that a forward that looks at them, or takes them as indices, does as it did."""
    x = torch.arange(6).reshape(1, 1, 2, 3)
    assert preparing._resized(x, (3, 2)).tolist() == [[[[0, 1], [3, 4], [0, 1]]]]


def test_a_model_that_gets_nothing_is_told() -> None:
    x = torch.zeros(1, 3, 9, 9)
    with pytest.warns(UserWarning, match="nothing to prepare; no convolution of the model goes through depthwise's"):
        done = prepare(nn.Conv2d(3, 8, 3).eval(), x)
    assert (done.convolutions, done.kernels, done.sizes) == (0, (), ((9, 9),))
    model = SeparableConv2d(3, 8, 3).double().eval()
    with pytest.warns(UserWarning, match=r"nothing to prepare; 1 convolution on PyTorch's operators: cpu refuses"):
        prepare(model, x.double())
    message = "the backend 'eager' was asked for"
    with depthwise.backend("eager"), pytest.warns(UserWarning, match=message):
        prepare(SeparableConv2d(3, 8, 3).eval(), x)


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
    nothing: Any
    for nothing in ("x", 3, (3, 15, 15), {}):
        with pytest.raises(DepthwiseError, match="needs example inputs, tensors as the model is called with; got "):
            prepare(network(), nothing)
    message = r"the model failed on inputs of shape \(1, 3, 15, 15\), \(2,\): TypeError: .* takes 2 positional"
    with pytest.raises(DepthwiseError, match=message):
        prepare(network(), x, torch.zeros(2))
    with pytest.raises(DepthwiseError, match=r"the kernel covers 5 pixels along the height"):
        prepare(network(), x, sizes=[(15, 15), (1, 15)])
    with pytest.raises(DepthwiseError, match=r"the model failed at the size 2x2 on inputs of shape \(1, 3, 2, 2\)"):
        prepare(nn.Sequential(SeparableConv2d(3, 4, 1), nn.Conv2d(4, 4, 3)).eval(), x, sizes=[2])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (224, r"sizes is a list such as \[\(224, 224\), range\(192, 321, 32\)\]; got 224"),
        ("224", "sizes is a list such as"),
        (torch.tensor(224), "sizes is a list such as .*; got tensor"),
        ([torch.zeros(20, 20)], "a spatial size must be an integer; got a Tensor"),
        (["224"], "a spatial size must be an integer; got '224'"),
        ([(15, 0)], "a spatial size must be at least 1; got 0"),
        ([15.0], r"a spatial size must be an integer; got 15\.0"),
        ([(15, 15, 15)], r"a size has 2 spatial dimensions, as the example input; got \(15, 15, 15\)"),
        ([(15, range(0))], r"a range of sizes holds at least one, all of them at least 1; got \(15, range\(0, 0\)\)"),
        ([range(9)], r"all of them at least 1; got range\(0, 9\)"),
    ],
)
def test_sizes_that_are_none(sizes: Any, message: str) -> None:
    with pytest.raises(DepthwiseError, match=message):
        prepare(network(), torch.zeros(1, 3, 15, 15), sizes=sizes)


def test_sizes_need_a_spatial_input() -> None:
    with pytest.raises(DepthwiseError, match=r"sizes need an example input of \(batch, channels, \*spatial\)"):
        prepare(nn.Linear(3, 3).eval(), torch.zeros(1, 3), sizes=[9])


def test_what_a_backend_refuses_is_not_hidden() -> None:
    with depthwise.backend("cpu"), pytest.raises(DepthwiseError, match=r"refuses: torch\.float64 is not supported"):
        prepare(network().double(), torch.zeros(1, 3, 15, 15).double())
    assert backends.asked_backend() is None
