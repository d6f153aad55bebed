"""`separate_` on whole networks: exact where it can be, within its budget, better than the SVD, all or nothing."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, TensorDataset

from depthwise import DepthwiseConv2d, DepthwiseError, SeparableConv2d, separate_, separated_like
from depthwise.blocks import BlueprintConv2d
from depthwise.separate import Separation
from depthwise.separate.budget import predicted
from depthwise.separate.calibration import batches_of
from depthwise.separate.gathering import Gathering, output_weights
from depthwise.separate.options import Form, cheaper_forms
from depthwise.separate.sample import Sample
from depthwise.separate.survey import survey
from tests.support.dense import convolutional, images
from tests.support.networks import Calls

GEOMETRIES: list[tuple[Any, tuple[int, ...], dict[str, Any]]] = [
    (nn.Conv1d, (24, 4, 19), {"kernel_size": 5, "stride": 2, "padding": 2}),
    (nn.Conv2d, (24, 4, 9, 8), {"kernel_size": 3, "padding": "same"}),
    (nn.Conv2d, (24, 4, 9, 8), {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}),
    (nn.Conv2d, (24, 4, 9, 8), {"kernel_size": 3, "padding": 1, "groups": 2, "padding_mode": "reflect"}),
    (nn.Conv2d, (24, 4, 9, 8), {"kernel_size": 3, "padding": 2, "padding_mode": "circular", "bias": False}),
    (nn.Conv3d, (24, 4, 5, 6, 5), {"kernel_size": (1, 3, 2), "padding": 1, "padding_mode": "replicate"}),
]


def low_rank(conv: Any, form: str) -> None:
    """Give a convolution a kernel that the cheapest form of its order represents exactly."""
    kernel = conv.weight
    with torch.no_grad():
        if form == "depthwise first":
            group_channels = kernel.shape[1]
            filters = torch.randn(conv.groups, 1, group_channels, *kernel.shape[2:])
            mixing = torch.randn(conv.groups, kernel.shape[0] // conv.groups, group_channels)
            kernel.copy_((filters * mixing[(...,) + (None,) * (kernel.dim() - 2)]).flatten(0, 1) / 3)
        else:
            kernel.copy_(
                torch.randn((*kernel.shape[:1], 1, *kernel.shape[2:]))
                * kernel.mean((*range(2, kernel.dim()),), True)
                * 5
            )


@pytest.mark.parametrize("form", ["depthwise first", "pointwise first"])
@pytest.mark.parametrize(("conv_class", "size", "options"), GEOMETRIES)
def test_a_layer_of_low_rank_is_reproduced(
    conv_class: Any, size: tuple[int, ...], options: dict[str, Any], form: str
) -> None:
    torch.manual_seed(3)
    conv = conv_class(4, 32 if form == "depthwise first" else 8, **options)
    low_rank(conv, form)
    model = nn.Sequential(conv).eval()
    x = torch.randn(size)
    expected = model(x).detach()
    for calibration in (x, None):
        copy = deepcopy(model)
        report = separate_(copy, calibration, max_error=1e-4, input_size=size[1:])
        (layer,) = report.layers
        if not layer.separated and form == "pointwise first" and any(s > 1 for s in conv.stride):
            continue
        assert layer.separated, str(report)
        error = float((copy(x).detach() - expected).norm() / expected.norm())
        assert error < 1e-5, (layer.form, error)


@pytest.mark.parametrize(("conv_class", "size", "options"), GEOMETRIES)
@pytest.mark.parametrize("order", ["depthwise first", "pointwise first"])
def test_every_geometry_and_order_does_better_than_the_svd(
    conv_class: Any, size: tuple[int, ...], options: dict[str, Any], order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_order(*layer: Any) -> list[Form]:
        return [form for form in cheaper_forms(*layer) if form.order == order][:1]

    monkeypatch.setattr("depthwise.separate.survey.cheaper_forms", one_order)
    model = nn.Sequential(conv_class(4, 32, **options)).eval()
    x = torch.randn(size)
    expected = model(x).detach()
    plain = deepcopy(model)
    if not separate_(plain, budget=0.99, input_size=size[1:]).separated:
        pytest.skip("dense is as cheap here")
    report = separate_(model, x, budget=0.99)
    (layer,) = report.layers
    assert layer.order == order
    assert layer.cumulative_error is not None
    assert layer.svd_error is not None
    assert layer.cumulative_error < layer.svd_error
    # A bias takes care of the mean, which then does not count.
    mean = expected.mean((0, *range(2, x.dim())), keepdim=True) if options.get("bias", True) else 0
    found = model(x).detach()
    measured = float((found - expected).norm() / (expected - mean).norm())
    assert measured == pytest.approx(layer.cumulative_error, rel=1e-3)
    assert float((plain(x).detach() - expected).norm()) > float((found - expected).norm())


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("budget", [0.25, 0.4, 0.7, 1.0])
def test_a_network_within_its_budget(budget: float, bias: bool) -> None:
    model = convolutional(bias=bias)
    plain, dense, x = deepcopy(model), deepcopy(model), images(64)
    report = separate_(model, x, budget=budget)
    assert report.share <= budget
    assert report.samples == 64
    expected = dense(x).detach()
    error = float((model(x) - expected).norm() / expected.norm())
    assert report.output_error == pytest.approx(error, rel=1e-4, abs=1e-6)
    if budget == 1.0:
        assert error == 0
        assert not report.separated
        return
    separate_(plain, budget=budget, input_size=(3, 12, 12))
    assert error < 0.5 * float((plain(x) - expected).norm() / expected.norm())
    # It holds on other data too.
    other = images(64, seed=8)
    assert float((model(other) - dense(other)).norm() / dense(other).norm()) < 3 * error + 1e-3


def test_max_error_holds_for_every_layer_where_there_are_no_data() -> None:
    report = separate_(convolutional(), max_error=0.4)
    assert report.separated
    assert all(layer.relative_error <= 0.4 for layer in report.layers)
    loose = separate_(convolutional(), max_error=0.7)
    assert loose.multiplications_after < report.multiplications_after


@torch.no_grad()
@pytest.mark.parametrize("max_error", [0.12, 0.2, 0.3])
def test_max_error_holds_for_the_networks_output(max_error: float) -> None:
    model = convolutional()
    dense, x = deepcopy(model), images(128)
    report = separate_(model, x, max_error=max_error)
    error = float((model(x) - dense(x)).norm() / dense(x).norm())
    assert error <= max_error
    assert report.output_error == pytest.approx(error, rel=1e-3, abs=1e-6)
    assert report.separated


def test_a_prediction_that_is_wrong_does_not_break_max_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depthwise.separate.choosing.predicted", lambda chosen: 1e-3 * predicted(chosen))
    report = separate_(convolutional(), images(64), max_error=0.2)
    assert report.output_error is not None
    assert report.output_error <= 0.2
    monkeypatch.setattr("depthwise.separate.separating.TRIES", 0)
    report = separate_(convolutional(), images(64), max_error=0.2)
    assert (report.output_error, report.separated) == (0, ())


def test_the_parts_of_a_model_that_stay() -> None:
    model = nn.ModuleDict(
        {
            "first": nn.Conv2d(3, 16, 3, padding=1),
            "pixel": nn.Conv2d(16, 16, 1),
            "depthwise": nn.Conv2d(16, 16, 3, padding=1, groups=16),
            "ours": DepthwiseConv2d(16, 3, padding=1),
            "watched": nn.Conv2d(16, 16, 3, padding=1),
            "excluded": nn.Conv2d(16, 16, 3, padding=1),
            "thin": nn.Conv2d(16, 16, (1, 2), groups=8),
            "up": nn.ConvTranspose2d(16, 16, 3, padding=1),
            "normed": parametrizations.weight_norm(nn.Conv2d(16, 16, 3, padding=1)),
            "tied": nn.Conv2d(16, 16, 3, padding=1),
            "twin": nn.Conv2d(16, 16, 3, padding=1),
            "biased": nn.Conv2d(16, 16, 3, padding=1),
            "unused": nn.Conv2d(16, 16, 3),
            "last": nn.Conv2d(16, 16, 3, padding=1),
        }
    )
    twin, tied = model["twin"], model["tied"]
    assert isinstance(twin, nn.Conv2d)
    assert isinstance(tied, nn.Conv2d)
    twin.weight = tied.weight
    model["biased"].register_parameter("bias", model["pixel"].get_parameter("bias"))
    model["watched"].register_forward_hook(lambda *_: None)

    def run(x: Tensor, net: nn.Module) -> Tensor:
        for name, layer in net.named_children():
            x = x if name == "unused" else layer(x)
        return x

    network = Calls(run, net=model).eval()
    report = separate_(network, images(16), budget=0.3, where=lambda name, _: not name.endswith("excluded"))
    reasons = {layer.name.removeprefix("net."): layer.reason for layer in report.layers}
    assert [name for name, reason in reasons.items() if not reason] == ["first", "last"]
    expected = {
        "pixel": "its kernel is a single pixel",
        "depthwise": "already depthwise",
        "ours": "already depthwise",
        "watched": "it has hooks, or a forward of its own",
        "excluded": "excluded by where=",
        "thin": "no separable form is cheaper",
        "up": "transposed convolutions are not separated",
        "normed": "is a ParametrizedConv2d",
        "tied": "it shares its weight with another module",
        "twin": "it shares its weight with another module",
        "biased": "it shares its bias with another module",
        "unused": "the calibration data never reach it",
    }
    for name, start in expected.items():
        assert reasons[name].startswith(start), (name, reasons[name])
    text = str(report)
    assert "2 stay dense, already depthwise: net.depthwise, net.ours" in text
    assert "1 stays dense, transposed convolutions are not separated: net.up" in text
    for reason in set(reasons.values()) - {""}:
        assert len(re.findall(rf"stays? dense, {re.escape(reason)}: ", text)) == 1


class Named(nn.Conv2d):
    """torch's own convolution by another name."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)
        self.note = "mine"


class Standardised(nn.Conv2d):
    """Computes with other weights than it has."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._conv_forward(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)
        return out


class Own(nn.Conv2d):
    """Convolves in a way of its own."""

    # torch's name for it.
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        out: Tensor = super()._conv_forward(input.abs(), weight, bias)
        return out


def test_a_subclass_is_separated_where_it_computes_as_torchs_class_does() -> None:
    replaced = nn.Conv2d(16, 16, 3, padding=1)
    replaced.__dict__["_conv_forward"] = lambda x, weight, bias: x
    model = nn.Sequential(Named(16), Standardised(16, 16, 3, padding=1), Own(16, 16, 3, padding=1), replaced).eval()
    report = separate_(model, images(32, channels=16), budget=0.3)
    named, standardised, *others = report.layers
    assert named.separated
    assert standardised.separated
    assert isinstance(model[0], SeparableConv2d | BlueprintConv2d)
    assert [layer.reason for layer in others] == [
        "is a Own, not torch's own convolution",
        "it has hooks, or a forward of its own, which separable parts would not run",
    ]


@torch.no_grad()
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_norm_takes_care_of_the_mean_only_where_nothing_else_reads_it(elsewhere: bool) -> None:
    def run(x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
        y: Tensor = conv(x)
        out: Tensor = norm(y).relu() + (0.1 * y if elsewhere else 0.1)
        return out

    model = Calls(run, conv=nn.Conv2d(8, 16, 3, bias=False), norm=nn.BatchNorm2d(16))
    x = images(32, channels=8) + 1
    model.train()(x)
    batch = batches_of(x, None, None)[0]
    (candidate,), _ = survey(model.eval(), batch, None)
    assert candidate.free_mean is not elsewhere
    assert candidate.norm == (None if elsewhere else "norm")
    dense = deepcopy(model)
    report = separate_(model, x, budget=0.3)
    # Where the mean counts, it is part of what the errors are a share of.
    found, expected = (net.get_submodule("conv")(x) for net in (model, dense))
    mean = 0 if elsewhere else expected.mean((0, 2, 3), keepdim=True)
    shift = 0 if elsewhere else (found - expected).mean((0, 2, 3), keepdim=True)
    weight = 1 if elsewhere else output_weights(dense, candidate)[0, :, None, None]
    measured = (weight * (found - shift - expected).square()).sum() / (weight * (expected - mean).square()).sum()
    assert report.layers[0].cumulative_error == pytest.approx(float(measured) ** 0.5, rel=0.02)


def test_a_layer_of_low_rank_does_not_take_the_budget() -> None:
    torch.manual_seed(0)
    exact, other = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
    low_rank(exact, "depthwise first")
    report = separate_(nn.Sequential(exact, nn.ReLU(), other).eval(), images(32, channels=8), budget=0.5)
    assert report.layers[0].multiplier == 1
    for layer in report.layers:
        for option in layer.options[1:]:
            assert option.arriving is not None
            assert option.error < 1e-4 or 0.01 < option.arriving / option.error**2 < 10


def test_what_is_wrapped_in_inference_mode_can_be_trained() -> None:
    model = convolutional()
    with torch.inference_mode():
        report = separate_(model, images(8), budget=0.5)
    assert report.separated
    model(images(2)).sum().backward()
    for layer in report.separated:
        assert model.get_parameter(f"{layer.name}.pointwise.weight").grad is not None


def test_several_inputs_by_size() -> None:
    model = Calls(lambda x, y, conv: conv(x) + y, conv=nn.Conv2d(8, 16, 3)).eval()
    report = separate_(model, budget=0.5, input_size=((8, 6, 6), (16, 4, 4)))
    assert report.multiplications_before == 16 * 8 * 16 * 9


def test_a_layer_that_only_the_mirror_makes_cheaper_stays_where_its_moments_are_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit_(monkeypatch, 1000)
    model = nn.Sequential(nn.Conv2d(32, 2, 3, groups=2, bias=False)).eval()
    (layer,) = separate_(model, images(8, channels=32), budget=0.9).layers
    assert layer.reason == "no separable form is cheaper that a sample of its patches can be fitted to"
    monkeypatch.undo()
    (layer,) = separate_(model, images(8, channels=32), budget=0.9).layers
    assert layer.order == "pointwise first"


def test_the_sample_is_of_all_calls() -> None:
    rows = 50
    conv = nn.Conv2d(8, 16, 3, padding=1)
    with pytest.MonkeyPatch.context() as patch:
        limit_(patch, 2 * 4 * rows * (72 + 16))
        gathering = Gathering(conv, 16)
    for _ in range(4):
        gathering.add(images(4, channels=8), images(4, channels=16))
    assert isinstance(gathering.sums, Sample)
    assert gathering.sums.count == gathering.most * 16 <= rows
    assert gathering.most == rows // 16


def test_a_module_called_twice_and_one_with_two_names() -> None:
    shared = nn.Conv2d(8, 8, 3, padding=1)
    model = Calls(
        lambda x, a, b, c: a(c(a(x)).relu()) + b(x), a=shared, b=nn.Conv2d(8, 8, 3, padding=1), c=nn.Identity()
    )
    model.again = shared
    model.eval()
    dense, x = deepcopy(model), images(32, channels=8)
    report = separate_(model, x, budget=0.5)
    assert model.a is model.again
    assert isinstance(model.a, SeparableConv2d | BlueprintConv2d)
    assert report.layers[0].multiplications_before == 2 * 8 * 8 * 9 * 144
    plain = deepcopy(dense)
    separate_(plain, budget=0.5, input_size=(8, 12, 12))
    with torch.no_grad():
        assert float((model(x) - dense(x)).norm()) < 0.9 * float((plain(x) - dense(x)).norm())


def test_a_separated_state_dict_loads_into_separated_like(tmp_path: Any) -> None:
    model, dense = convolutional(bias=True), convolutional(bias=True)
    report = separate_(model, images(), budget=0.3)
    report.save(tmp_path / "report.json")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    loaded = separated_like(dense, Separation.load(tmp_path / "report.json"))
    loaded.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    x = images(4)
    torch.testing.assert_close(loaded.eval()(x), model(x))
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())
    save_model(model, tmp_path / "weights.safetensors")
    again = separated_like(dense, report)
    load_model(again, tmp_path / "weights.safetensors")
    assert torch.equal(again.eval()(x), loaded(x))


def test_separated_like_says_what_does_not_fit() -> None:
    report = separate_(nn.Sequential(nn.Conv2d(8, 16, 3)).eval())
    with pytest.raises(DepthwiseError, match="the report separates 0, and the model has no such module"):
        separated_like(nn.Sequential(), report)
    with pytest.raises(DepthwiseError, match="the report separates 0, a dense convolution; the model has ReLU there"):
        separated_like(nn.Sequential(nn.ReLU()), report)


def test_dtype_layout_mode_and_gradients_are_kept() -> None:
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 3)).double().eval()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model[0].get_parameter("weight").requires_grad_(False)
    separate_(model, images(16, channels=8).double(), budget=0.5)
    first, second = model
    assert isinstance(first, SeparableConv2d)
    assert first.pointwise.weight.dtype is torch.float64
    assert not first.pointwise.weight.requires_grad
    assert second.get_parameter("pointwise.weight").requires_grad
    assert not first.training
    half = nn.Sequential(nn.Conv2d(8, 16, 3)).bfloat16().eval()
    separate_(half, images(16, channels=8).bfloat16(), budget=0.5)
    assert half[0].get_parameter("depthwise.weight").dtype is torch.bfloat16


def test_channels_last_weights_stay_so_and_the_result_runs_everywhere() -> None:
    model = convolutional(bias=True)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    report = separate_(model, images(32), budget=0.4)
    x = images(4)
    with torch.no_grad():
        expected = model(x)
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), expected, rtol=1e-4, atol=1e-5)
        for layer in report.separated:
            separated: Any = model.get_submodule(layer.name)
            assert separated.pointwise.weight.is_contiguous(memory_format=torch.channels_last)
            model.set_submodule(layer.name, separated.to_dense())
        torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4)


def test_torchs_random_state_is_left() -> None:
    before = torch.get_rng_state()
    model = convolutional()
    torch.set_rng_state(before)
    separate_(model, images(8), budget=0.5)
    assert torch.equal(torch.get_rng_state(), before)


def limit_(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    for module in ("gathering", "survey"):
        monkeypatch.setattr(f"depthwise.separate.{module}.LIMIT_BYTES", limit)


@torch.no_grad()
def test_too_large_moments_become_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    model = convolutional()
    plain, exact, x = deepcopy(model), deepcopy(model), images()
    expected = model(x).detach()
    limit_(monkeypatch, 200_000)
    report = separate_(model, x, budget=0.4)
    monkeypatch.undo()
    separate_(plain, budget=0.4, input_size=(3, 12, 12))
    separate_(exact, x, budget=0.4)
    errors = [float((each(x) - expected).norm()) for each in (exact, model, plain)]
    assert report.separated
    assert errors[1] < 0.6 * errors[2]
    assert errors[1] < 2 * errors[0]


def test_calibration_takes_tuples_dicts_and_adapters() -> None:
    x = images(32)
    results, dense = [], convolutional()
    for calibration, adapter in (
        (x, None),
        ([x], None),
        ((x,), None),
        ({"input": x}, None),
        (iter([x]), None),
        ([(x, torch.zeros(32, dtype=torch.long))], lambda batch: batch[0]),
        ([{"pixels": x}], lambda batch: {"input": batch["pixels"]}),
        ([{"pixels": x}], lambda batch: batch["pixels"]),
        ([((x,),)], None),
        (x.split(32), None),
    ):
        model = deepcopy(dense)
        separate_(model, calibration, budget=0.4, adapter=adapter)
        results.append(model(x).detach())
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-3, atol=1e-4)


def test_labels_are_left_out_and_that_is_said_once() -> None:
    x, dense = images(32), convolutional()
    expected = deepcopy(dense)
    separate_(expected, x.split(8), budget=0.4)
    labelled = TensorDataset(x, torch.arange(32))
    for calibration in (DataLoader(labelled, batch_size=8), [[part, 7] for part in x.split(8)]):
        model = deepcopy(dense)
        with pytest.warns(UserWarning, match="the first element is the input, and 1 more, such as labels, are") as said:
            separate_(model, calibration, budget=0.4)
        assert len(said) == 1
        assert said[0].filename == __file__
        assert torch.equal(model(x), expected(x))


def test_a_model_and_samples_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = convolutional()
        x = images(32)
    dense = deepcopy(model)
    report = separate_(model, x, budget=0.4)
    assert report.separated
    with torch.no_grad():
        error = float((model(x) - dense(x)).norm() / dense(x).norm())
    assert error == pytest.approx(report.output_error, rel=1e-3)
    for layer in report.separated:
        assert not model.get_parameter(f"{layer.name}.pointwise.weight").is_inference()
    again = separated_like(dense, report)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(x), model(x))


def test_a_fit_to_few_samples_is_not_used_where_it_is_worse_than_the_svd() -> None:
    x, other = torch.randn(64, 32, 4, 4), torch.randn(512, 32, 4, 4)
    dense = nn.Sequential(nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 2)).eval()
    errors = {}
    for count in (0, 2, 3, 6, 16):
        model = deepcopy(dense)
        if count == 0:
            separate_(model, budget=0.5, input_size=(32, 4, 4))
        else:
            message = f"{count} calibration samples are few: 2 has .* output positions in them for 32 weights of each"
            with pytest.warns(UserWarning, match=message) as said:
                report = separate_(model, x[:count], budget=0.5)
            assert report.remarks == (str(said[0].message),)
            assert report.remarks[0] in str(report)
            assert report.remarks[0] in report._repr_html_().replace("&#x27;", "'")
            assert Separation.from_dict(report.to_dict()) == report
            assert "by the weights alone, which are used" in report.remarks[0]
        with torch.no_grad():
            errors[count] = float((model(other) - dense(other)).norm())
    assert all(error <= errors[0] for error in errors.values())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        separate_(deepcopy(dense), torch.randn(512, 32, 4, 4), budget=0.5)


def test_a_model_of_one_batch_size_is_fitted_without_a_trial() -> None:
    model = Calls(lambda x, net: net(x.reshape(24, 3, 12, 12)), net=convolutional()).eval()
    report = separate_(model, [images(24)], budget=0.4)
    assert report.separated
    assert report.remarks == ()


def test_what_fits_another_model_is_told() -> None:
    model = nn.Sequential(nn.Conv2d(8, 16, 3)).eval()
    report = separate_(model, budget=0.9, input_size=(8, 6, 6))
    (layer,) = report.layers
    assert layer.separated

    def like(model: nn.Module, **changes: Any) -> None:
        separated_like(model, replace(report, layers=(replace(layer, **changes),)))

    dense = nn.Sequential(nn.Conv2d(8, 16, 3))
    with pytest.raises(DepthwiseError, match=r"the report gives 0 the form .* multipliers up to 9"):
        like(dense, form=replace(layer.form, multiplier=10**9))
    with pytest.raises(DepthwiseError, match=r"the report gives 0 the form pointwise first .* multipliers up to 1"):
        like(dense, form=replace(layer.form, order="pointwise first", multiplier=2))
    with pytest.raises(DepthwiseError, match=r"the report gives 0 .* is no multiple of the 1,260 weights"):
        like(nn.Sequential(nn.Conv2d(10, 14, 3)))
    with pytest.raises(DepthwiseError, match=r"the report gives 0 .* multiplications as depthwise first, .* which are"):
        like(nn.Sequential(nn.Conv2d(4, 32, 3)))
    with pytest.raises(DepthwiseError, match=r"separated_like takes a torch\.nn\.Module; got NoneType"):
        separated_like(None, report)  # type: ignore[arg-type]
    with pytest.raises(DepthwiseError, match=r"separated_like takes the report that separate_ gave, .*; got dict"):
        separated_like(dense, report.to_dict())  # type: ignore[arg-type]


class Hidden(nn.Module):
    """Keeps a convolution where no module is found."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.kept = [self.conv]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.kept[0](x)
        return out


def poisoned() -> nn.Module:
    model = convolutional()
    with torch.no_grad():
        model[1].get_buffer("running_mean")[0] = float("nan")
    return model


def training() -> nn.Module:
    model = convolutional()
    model[4].train()
    return model


def chosen() -> nn.Module:
    return Calls(lambda x, conv: (y := conv(x))[y > 0], conv=nn.Conv2d(3, 16, 3)).eval()


def labelling() -> nn.Module:
    return Calls(lambda x, net: net(x).argmax(1), net=convolutional()).eval()


def holding(value: str) -> Tensor:
    x = images(8)
    x[0, 0, 0, 0] = float(value)
    return x


def failing() -> Iterator[Tensor]:
    yield images(8)
    raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("make", "calibration", "options", "message"),
    [
        (convolutional, images(8), {"budget": 0.3, "max_error": 0.1}, "give either budget= or max_error=, not both"),
        (convolutional, images(8), {"budget": 0}, "budget is a share, more than 0 and at most 1; got 0"),
        (convolutional, images(8), {"max_error": 2}, "max_error is a share, more than 0 and at most 1; got 2"),
        (convolutional, images(8), {"budget": 0.01}, "budget=0.01 is out of reach: the cheapest forms of the 3 layers"),
        (training, images(8), {}, r"the model is in training mode, where it changes as it runs; call \.eval\(\) first"),
        (convolutional, images(0), {}, "the calibration data are empty; a few hundred unlabelled samples are needed"),
        (convolutional, [], {}, "the calibration data are empty"),
        (convolutional, torch.arange(8), {}, r"look like labels: a tensor of torch.int64 with shape \(8,\)"),
        (convolutional, [torch.arange(8)], {}, "look like labels"),
        (convolutional, images(8, channels=4), {}, r"the model failed on a calibration batch of \(8, 4, 12, 12\)"),
        (convolutional, ["text"], {}, "a calibration batch is a tensor, or a tuple or dict with tensors; got str"),
        (convolutional, 3, {}, "calibration is a tensor, a batch or an iterable of batches; got int"),
        (convolutional, holding("nan"), {}, "a calibration batch holds NaN; leave such samples out"),
        (convolutional, [images(8), {"input": holding("nan")}], {}, "a calibration batch holds NaN"),
        (convolutional, holding("inf"), {}, "0 got or gave numbers that are not finite on the calibration data"),
        (convolutional, images(1), {}, "one calibration sample says nothing of others: give a few hundred, or None"),
        (convolutional, failing(), {}, "calibration failed after 1 batches: OSError: the disk is gone"),
        (convolutional, TensorDataset(images(8)), {}, "calibration is a data set, TensorDataset, .* wrap it in a"),
        (convolutional, (images(8), torch.arange(8)), {}, r"look like labels: .* a tuple inside a list of batches"),
        (
            convolutional,
            (images(8), torch.zeros(8)),
            {},
            r"some of calibration look like labels: tensors of 4 and 1 dimensions; inputs with .*, \[\(x, y\)\]",
        ),
        (convolutional, [((images(8), images(8)),)], {}, "the model failed on a calibration batch of .*adapter="),
        (
            convolutional,
            [images(8)],
            {"adapter": lambda batch: batch.x},
            "adapter= failed on a calibration batch: AttributeError",
        ),
        (convolutional, [images(8)], {"adapter": "x"}, "adapter is something to call; got 'x'"),
        (convolutional, images(8), {"on_step": 3}, "on_step is something to call; got 3"),
        (convolutional, images(8), {"budget": 10**5000}, "budget is a share, .*; got a number beyond 64 bits"),
        (convolutional, images(8), {"budget": float("nan")}, "budget is a share, .*; got nan"),
        (convolutional, None, {"input_size": "3x12x12"}, r"input_size is \(channels, \*spatial\), or a tuple of them"),
        (convolutional, None, {"input_size": (3, 10**9, 10**9)}, "input_size=.* is more than fits in memory"),
        (poisoned, images(8), {}, "3 got or gave numbers that are not finite on the calibration data"),
        (lambda: nn.Conv2d(3, 8, 3).eval(), None, {}, "the model is itself a convolution, Conv2d, and cannot become"),
        (lambda: nn.Sequential(nn.LazyConv2d(8, 3)).eval(), None, {}, "0 does not know its shape yet"),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3, device="meta")).eval(), None, {}, "0 is on the meta device"),
        (lambda: Hidden().eval(), images(8), {"budget": 0.5}, "does not call the separable layer that stands at conv"),
        (convolutional, None, {"input_size": 3}, r"input_size is \(channels, \*spatial\), or a tuple of them; got 3"),
        (
            chosen,
            images(8),
            {},
            r"the model's output has shapes \[.*\], and \[.*\] where a layer computes something else",
        ),
        (labelling, images(8), {}, "the model's output, Tensor, holds no floating-point tensor to measure an error on"),
    ],
)
def test_errors_leave_the_model_as_it_was(make: Any, calibration: Any, options: dict[str, Any], message: str) -> None:
    model = make()
    modules = dict(model.named_modules())
    lazy = any(isinstance(module, nn.LazyConv2d) for module in modules.values())
    state = {} if lazy else {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(DepthwiseError, match=message):
        separate_(model, calibration, **options)
    assert dict(model.named_modules()) == modules
    for name, value in state.items():
        if not value.is_meta:
            torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0, equal_nan=True)
    # A lazy module has hooks of its own.
    assert lazy or not any(module._forward_hooks or module._forward_pre_hooks for module in modules.values())


def test_more_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depthwise.separate.checks.DistributedDataParallel", nn.Sequential)
    with pytest.raises(DepthwiseError, match=r"the model is a DistributedDataParallel, .* separate what it wraps"):
        separate_(convolutional())
    monkeypatch.undo()
    with pytest.raises(DepthwiseError, match=r"separate_ takes a torch\.nn\.Module; got type"):
        separate_(nn.Sequential)  # type: ignore[arg-type]
    model = nn.Sequential(nn.Conv2d(3, 8, 3)).eval()
    with torch.no_grad():
        model[0].get_parameter("weight")[0, 0, 0, 0] = float("inf")
    with pytest.raises(DepthwiseError, match="the weights of 0 are not finite; nothing can be fitted to them"):
        separate_(model)


def test_outputs_that_are_not_finite_are_refused() -> None:
    model = Calls(lambda x, conv: conv(x).log(), conv=nn.Conv2d(3, 16, 3)).eval()
    with pytest.raises(
        DepthwiseError, match=r"the network's output on the calibration data is not finite, or is not wh"
    ):
        separate_(model, images(8))
    assert isinstance(model.conv, nn.Conv2d)
    assert not model.conv._forward_hooks

    def breaks(x: Tensor, conv: nn.Module) -> Tensor:
        y: Tensor = conv(x)
        return y if type(conv) is nn.Conv2d else y * float("nan")

    model = Calls(breaks, conv=nn.Conv2d(3, 16, 3)).eval()
    with pytest.raises(DepthwiseError, match="the separated network's output is not finite on the calibration data"):
        separate_(model, images(8))
    assert isinstance(model.conv, nn.Conv2d)


def test_a_layer_called_otherwise_by_the_separated_network_is_refused() -> None:
    def run(x: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
        y: Tensor = second(second(first(x)))
        again: Tensor = y if type(first) is nn.Conv2d else second(y)
        return again

    model = Calls(run, first=nn.Conv2d(8, 8, 3, padding=1), second=nn.Conv2d(8, 8, 3, padding=1)).eval()
    with pytest.raises(
        DepthwiseError, match="second is called 2 times by the dense network and 3 times by the separated"
    ):
        separate_(model, images(8, channels=8), budget=0.3)
    assert isinstance(model.first, nn.Conv2d)
