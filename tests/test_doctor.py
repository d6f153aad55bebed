"""What runs where, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import depthwise
from depthwise import DepthwiseError, SeparableConv2d, backends, functional
from depthwise.backends import EAGER
from depthwise.backends.cpu import machine
from depthwise.backends.cpu.run import threads
from depthwise.blocks import InvertedResidual, MobileNetV1Block
from depthwise.doctor import accelerated_line, cpu_name, machine_report, model_report, model_table
from tests.test_backends import Doubling


class Functional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.depthwise_conv2d(x, torch.ones(16, 1, 3, 3))


class TorchsFunctional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, torch.ones(2, 4, 1, 1))


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        MobileNetV1Block(8, 16),
        InvertedResidual(16, 16),
        nn.Conv2d(16, 16, 3, groups=16),
        Functional(),
        SeparableConv2d(16, 4, 3),
        nn.ConvTranspose2d(4, 4, 2),
        TorchsFunctional(),
    )


def kinds(kernels: str) -> str:
    return " + ".join(kernel.partition("_f32_")[0] for kernel in kernels.split(" + "))


def test_every_convolution_of_a_model() -> None:
    rows = {
        row.name: (row.kind, row.backend, row.reason + (f": {kinds(row.kernel)}" if row.kernel else ""))
        for row in model_report(network(), (3, 20, 20))
    }
    cpu = "kernels generated for this CPU"
    # In one stage or in two, as this machine's caches have it.
    separable = rows["2.separable"]
    assert separable[2] in (f"{cpu}: fused", f"{cpu}: dw + pw")
    assert rows == {
        "0": ("Conv2d", "torch", "dense: PyTorch's operator"),
        "1.separable": ("SeparableConv2d", "cpu", f"{cpu}: dw + pw"),
        "2.expand.0": ("Conv2d", "torch", "pointwise: PyTorch's operator"),
        "2.separable": ("SeparableConv2d", "cpu", separable[2]),
        "3": ("Conv2d", "torch", "depthwise, but PyTorch's operator; a DepthwiseConv2d goes through the backends"),
        "4": ("Functional", "cpu", f"{cpu}: dw"),
        "5": ("SeparableConv2d", "cpu", f"{cpu}: dw + pw"),
        "6": ("ConvTranspose2d", "torch", "transposed: PyTorch's operator"),
        "7": ("TorchsFunctional", "torch", "calls PyTorch's operator"),
    }


def test_what_accelerating_would_gain() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    line = accelerated_line(model)
    assert line.endswith(
        "in training too: 1 chain of convolutions and batch norms, 1 depthwise, 1 batch norm, 1 pointwise."
    )
    assert type(model[0]) is nn.Conv2d
    assert model_table(model_report(model, (8, 9, 9)), line).endswith("1 pointwise.")
    assert accelerated_line(nn.ReLU()) == ""
    assert "autocast   and torch.func's transforms: PyTorch's operators run" in str(machine_report())


class Padded(nn.Conv2d):
    """A subclass with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, (0, 1)))


class Named(nn.Conv2d):
    """A subclass that changes nothing of what is computed."""


def test_what_would_let_generated_code_run_a_layer() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 4, 1)),
        *(Padded(4, 4, 3), Padded(4, 4, 3, groups=4), nn.ConvTranspose2d(4, 4, 3), SeparableConv2d(4, 4, 3)),
        *(Named(4, 4, 3), Named(4, 4, 3, groups=4)),
    )
    rows = model_report(model, (4, 20, 20))
    remedies = [row.remedy for row in rows]
    assert remedies == ["separate_", "DepthwiseConv2d", *(None,) * 6, "separate_", "DepthwiseConv2d"]
    assert rows[2].reason == "in groups: PyTorch's operator"


@pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")
def test_a_reason_stands_once_and_the_end_says_what_to_do() -> None:
    layers = [nn.Conv2d(8, 8, 3, padding=1, groups=8) for _ in range(20)]
    table = model_table(model_report(nn.Sequential(*layers, SeparableConv2d(8, 8, 3), nn.Conv2d(8, 8, 3)), (8, 9, 9)))
    assert table.count("goes through the backends") == 1
    assert table.count("[1]") == 21
    end = " ".join(table.rpartition("\n\n")[2].split())
    assert end.startswith("1 of 22 convolutions run on generated kernels as the model is. 20 would as DepthwiseConv2d,")
    assert "1 would after depthwise.separate_(model, samples)" in end
    half = model_table(model_report(SeparableConv2d(8, 8, 3, dtype=torch.float64), (8, 9, 9)))
    assert half.endswith(
        "0 of 1 convolutions run on generated kernels as the model is. 1 could, but for the reason above."
    )


def test_a_shared_layer_stands_once_for_each_call_of_the_registry() -> None:
    shared = SeparableConv2d(4, 4, 3, padding=1)
    rows = model_report(nn.Sequential(shared, nn.ReLU(), shared), (4, 9, 9))
    assert [row.name for row in rows] == ["0", "0"]
    conv = nn.Conv2d(4, 4, 3)
    assert len(model_report(nn.Sequential(conv, conv), (4, 9, 9))) == 1


def test_refusals_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "BACKENDS", (Doubling(), EAGER))
    monkeypatch.setattr("depthwise.doctor.BACKENDS", (Doubling(), EAGER))
    layer = SeparableConv2d(4, 4, 3, dtype=torch.float64)
    (row,) = model_report(layer, (4, 9, 9))
    assert (row.backend, row.reason) == ("eager", "doubling refuses: torch.float64 is not supported")
    (row,) = model_report(layer.float(), (4, 9, 9))
    assert (row.backend, row.reason) == ("doubling", "twice the result")
    report = machine_report()
    assert [(row.name, row.runs) for row in report.backends] == [("doubling", True), ("eager", True)]
    assert "doubling runs: twice the result" in str(report)


@pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")
def test_weights_made_in_inference_mode_are_told() -> None:
    with torch.inference_mode():
        layer = SeparableConv2d(4, 4, 3)
        (row,) = model_report(layer, (4, 9, 9))
    assert row.backend == "cpu"
    assert row.reason.endswith("compared with a copy at each call, as weights made in inference mode have no version")
    (row,) = model_report(SeparableConv2d(4, 4, 3), (4, 9, 9))
    assert "compared" not in row.reason


@pytest.mark.parametrize("model", [None, "net", nn.ReLU, torch.relu])
def test_models_that_are_none(model: Any) -> None:
    with pytest.raises(DepthwiseError, match=r"expected a (torch\.nn\.Module|model), got "):
        model_report(model, (3, 9, 9))


@pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")
def test_an_empty_batch_runs_nothing() -> None:
    (row,) = model_report(SeparableConv2d(3, 8, 3), torch.zeros(0, 3, 9, 9))
    assert (row.backend, row.kernel) == ("cpu", None)


def test_this_machine() -> None:
    with depthwise.backend("eager"):
        report = machine_report()
    assert (report.torch, report.asked_backend) == (torch.__version__, "eager")
    assert report.threads == torch.get_num_threads()
    assert json.loads(json.dumps(report.to_dict()))["backends"][-1]["name"] == "eager"
    assert "backend    eager" in str(report)
    assert "threads of PyTorch's own" in str(report)
    assert "kernels kept in" in str(report)


def test_what_is_missing_on_this_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "reason", lambda: "there is no such library")
    monkeypatch.setenv("DEPTHWISE_CACHE_DIR", "kernels")
    assert "one thread: there is no such library" in str(machine_report())
    assert "kernels kept in memory only: kernels is not an absolute path" in str(machine_report())


def test_a_layer_that_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(Doubling):
        name = "refusing"

        def refusal(self, call: object) -> str:
            return "no such instruction here"

    monkeypatch.setattr("depthwise.doctor.BACKENDS", (Refusing(), EAGER))
    assert "refusing refuses: no such instruction here" in str(machine_report())


def test_the_processor_has_a_name(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: A Processor: Model 7\n")
    assert cpu_name(cpuinfo) == "A Processor: Model 7"
    assert cpu_name(tmp_path / "none")
    assert cpu_name(tmp_path)
    cpuinfo.write_bytes(b"model name\t: M\xf6del\n")
    assert cpu_name(cpuinfo) == "M\ufffddel"
