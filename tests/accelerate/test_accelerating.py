"""Models accelerated in place: the same objects, the same numbers, and back."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import depthwise
from depthwise import DepthwiseConv2d, DepthwiseError, SeparableConv2d, accelerate_, restore_
from depthwise.accelerate.classes import ours_in
from depthwise.backends import observed_choices

LAST = torch.channels_last


class Named(nn.Conv2d):
    """A subclass that changes nothing of a call."""


class Padded(nn.Conv2d):
    """A subclass with a forward of its own."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(nn.functional.pad(input, (0, 1, 0, 1)))


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 16, 3, padding="same", groups=8, padding_mode="circular"),
        nn.ReLU(),
        nn.Conv2d(16, 24, 1),
        Named(24, 24, 5, stride=2, padding=2, groups=24, bias=False),
        nn.Conv2d(24, 12, 1, groups=2),
        nn.Flatten(),
        nn.Linear(12 * 5 * 5, 4),
    )


def image(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 9, 9).contiguous(memory_format=LAST)


def steps(model: nn.Module, count: int = 4, **options: Any) -> list[float]:
    """Losses of the first steps of a training on the same images."""
    torch.manual_seed(1)
    x, target = image(8), torch.arange(8) % 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, **options)
    losses = []
    for _ in range(count):
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_every_module_stays_the_object_that_it_is() -> None:
    model = network()
    modules, parameters = list(model.named_modules()), list(model.named_parameters())
    state, text = model.state_dict(), restored_text(model)
    report = accelerate_(model)
    assert all(a is b for (_, a), (_, b) in zip(modules, model.named_modules(), strict=True))
    assert all(a is b for (_, a), (_, b) in zip(parameters, model.named_parameters(), strict=True))
    assert list(state) == list(model.state_dict())
    assert [(row.name, row.kind, row.became) for row in report.accelerated] == [
        ("1", "Conv2d", "depthwise"),
        ("3", "Conv2d", "pointwise"),
        ("4", "Named", "depthwise"),
        ("5", "Conv2d", "pointwise"),
    ]
    assert isinstance(model[4], Named)
    assert accelerate_(model) == report
    assert restore_(model) == 4
    assert restored_text(model) == text
    assert restore_(model) == 0


def restored_text(model: nn.Module) -> str:
    return "\n".join(f"{name} {type(module)}" for name, module in model.named_modules())


def test_the_numbers_stay_within_rounding() -> None:
    model, x = network(), image()
    theirs = copy.deepcopy(model)
    accelerate_(model)
    for form in (LAST, torch.contiguous_format):
        given = x.contiguous(memory_format=form)
        mine = given.clone().requires_grad_()
        other = given.clone().requires_grad_()
        out, expected = model(mine), theirs(other)
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
        out.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-4, rtol=1e-4)
    for a, b in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-3, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model[:6](x[0]), theirs[:6](x[0]), atol=1e-5, rtol=1e-5)


def test_the_convolutions_go_through_the_backends() -> None:
    model, seen = network(), []
    accelerate_(model)
    with observed_choices(lambda choice: seen.append(choice.problem.operation)), torch.no_grad():
        model(image())
    assert seen == ["depthwise", "pointwise", "depthwise", "pointwise"]


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank: int) -> None:
    conv: Any = {1: nn.Conv1d, 3: nn.Conv3d}[rank]
    model = nn.Sequential(conv(4, 8, 3, padding=1, groups=4), conv(8, 6, 1))
    x = torch.randn(2, 4, *(5,) * rank)
    expected = model(x)
    assert len(accelerate_(model).accelerated) == 2
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


def test_what_is_left_is_told() -> None:
    own = nn.Conv2d(4, 4, 3, groups=4)
    own.forward = own.forward  # type: ignore[method-assign]
    model = nn.Sequential(
        *(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 4, 1, stride=2), nn.ConvTranspose2d(4, 4, 2)),
        *(Padded(4, 4, 3, groups=4), own, DepthwiseConv2d(4, 3), nn.LazyConv2d(4, 1), SeparableConv2d(4, 4, 3)),
    )
    report = accelerate_(model)
    assert not report.accelerated
    assert [row.reason for row in report.left] == [
        "is dense: separate_ makes it separable",
        "is a convolution in groups",
        "is pointwise with a stride or padding",
        "is transposed",
        "is a Padded, with a forward of its own",
        "has a forward of its own",
        "is a layer of ours already",
        "is lazy; call the model once before",
    ]
    assert type(model[8].pointwise) is nn.Conv2d


def test_the_report_as_text_dict_and_html() -> None:
    report = accelerate_(network())
    assert report.summary == "2 depthwise, 2 pointwise; 1 left as they were"
    assert "Named" in str(report)
    assert report.to_dict()["modules"][0] == {
        "name": "0",
        "kind": "Conv2d",
        "became": "",
        "reason": "is dense: separate_ makes it separable",
    }
    assert "<td>is dense: separate_ makes it separable</td>" in report._repr_html_()
    assert repr(report) == f"Acceleration({report.summary})"
    assert any("channels_last" in sentence for sentence in report.advice)
    assert not accelerate_(network().to(memory_format=LAST)).advice  # type: ignore[call-overload]
    assert accelerate_(nn.ReLU()).summary == "nothing to accelerate"


def scripted() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(nn.ReLU())


@pytest.mark.parametrize("verb", [accelerate_, restore_])
def test_what_is_no_model_is_told(verb: Callable[[Any], object]) -> None:
    with pytest.raises(DepthwiseError, match=r"_ takes a torch.nn.Module; got int"):
        verb(3)
    with pytest.raises(DepthwiseError, match="takes a model in Python; this one was scripted"):
        verb(scripted())


def test_training_goes_the_same_way_with_optimizers_made_before_and_after() -> None:
    model = network()
    theirs = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    accelerate_(model)
    mine = steps(model)
    assert mine == pytest.approx(steps(theirs), rel=1e-4)
    assert all(a is b for a, b in zip(optimizer.param_groups[0]["params"], model.parameters(), strict=True))
    optimizer.step()
    restore_(model)
    assert steps(model, 1) != mine[:1]


def test_hooks_still_run() -> None:
    model, seen = network(), []
    model[1].register_forward_hook(lambda *_: seen.append("before"))
    accelerate_(model)
    model[3].register_forward_hook(lambda *_: seen.append("after"))
    model(image())
    assert seen == ["before", "after"]


def test_copies_and_pickles_are_accelerated_too() -> None:
    model, x = network(), image()
    accelerate_(model)
    expected = model(x)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(stream, weights_only=False)):
        assert type(other[1]) is type(model[1])
        assert ours_in(type(other[1])) is not None
        assert torch.equal(other(x), expected)
        assert restore_(other) == 4
        assert type(other[4]) is Named


def test_a_restored_model_loads_where_this_package_is_absent(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 1))
    accelerate_(model)
    restore_(model)
    torch.save(model, tmp_path / "model.pt")
    program = (
        "import sys; sys.modules['depthwise'] = None; import torch; "
        f"model = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False); "
        "print(model(torch.ones(2, 4, 5, 5)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "torch.Size([2, 8, 3, 3])\n", done.stderr


@pytest.mark.parametrize("first", [True, False], ids=["parametrised first", "accelerated first"])
def test_parametrised_modules(first: bool) -> None:
    model, x = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4)), torch.randn(2, 4, 5, 5)
    accelerate_(model) if not first else None
    parametrizations.weight_norm(model[0])
    expected = model(x)
    assert len(accelerate_(model).accelerated) == 1
    seen: list[Any] = []
    with observed_choices(seen.append):
        torch.testing.assert_close(model(x), expected)
    assert len(seen) == 1
    torch.testing.assert_close(copy.deepcopy(model)(x), expected)
    assert type(model[0]).__name__.startswith("Parametrized")
    if first:
        parametrize.remove_parametrizations(model[0], "weight")
        torch.testing.assert_close(model(x), expected)
        assert restore_(model) == 1
    else:
        assert restore_(model) == 1
        parametrize.remove_parametrizations(model[0], "weight")
    assert type(model[0]) is nn.Conv2d
    torch.testing.assert_close(model(x), expected)


def test_pruned_modules() -> None:
    model, x = network(), image()
    accelerate_(model)
    prune.l1_unstructured(model[3], "weight", amount=0.5)
    pruned: Any = model[3]
    wide = x.repeat(1, 6, 1, 1)[:, :16]
    expected = nn.functional.conv2d(wide, pruned.weight, pruned.bias)
    torch.testing.assert_close(pruned(wide), expected, atol=1e-5, rtol=1e-5)


def test_tracers_see_torchs_operators() -> None:
    model, x = network().eval(), image()
    accelerate_(model)
    with torch.no_grad():
        expected = model(x)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), expected, atol=1e-5, rtol=1e-5)
    exported = torch.export.export(model, (x,))
    assert not any("depthwise" in str(node.target) for node in exported.graph.nodes if node.op == "call_function")
    torch.testing.assert_close(exported.module()(x), expected, atol=1e-5, rtol=1e-5)


def test_separable_layers_of_accelerated_parts_stay_one_call() -> None:
    layer = SeparableConv2d(4, 8, 3).eval()
    accelerate_(layer.pointwise)
    assert layer.parts_reason() is None


def test_names_are_public() -> None:
    assert {"accelerate_", "restore_"} <= set(depthwise.__all__)
