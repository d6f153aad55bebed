"""The demo: the split, the networks, the gate, the arithmetic of the promise, and a quick run with its page."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, replace
from html import escape, unescape
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from depthwise import DepthwiseError, SeparableConv2d, separate_
from depthwise.blocks import BlueprintConv2d
from depthwise.demo import run
from depthwise.demo.data import IMAGE_SIZE, Digits, load_digits
from depthwise.demo.epochs import epochs
from depthwise.demo.network import accuracy, dense_twin, small_cnn, trained
from depthwise.demo.plots import accuracy_plot, speedup_plot
from depthwise.demo.report import document
from depthwise.demo.results import EAGER, OPTIMIZED, OURS, DemoResult
from depthwise.demo.run import BUDGETS
from depthwise.demo.separation import Batches, separated, with_statistics_of
from depthwise.demo.table import answer, console_table, details, milliseconds
from depthwise.demo.timing import check_outputs, time_networks
from depthwise.measure.turns import Effort
from depthwise.separate import Separation
from tests.support.results import made_up_result

SHORT = Effort(rounds=2, sample_seconds=0, limit_seconds=1)


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits()


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoResult, str]:
    """A quick run: its result and what it printed."""
    printed = StringIO()
    path = tmp_path_factory.mktemp("demo") / "report.html"
    return run(Console(file=printed, width=100), path, quick=True), printed.getvalue()


@pytest.fixture(name="made_up")
def fixture_made_up() -> DemoResult:
    return made_up_result()


# The digits


def test_the_split_is_4000_and_1000_stratified(digits: Digits) -> None:
    assert digits.train_images.shape == (4000, *IMAGE_SIZE)
    assert digits.test_images.shape == (1000, *IMAGE_SIZE)
    assert digits.train_labels.bincount().tolist() == [400] * 10
    assert digits.test_labels.bincount().tolist() == [100] * 10


def test_the_pixels_go_from_0_to_1(digits: Digits) -> None:
    assert digits.train_images.dtype is torch.float32
    assert (digits.train_images.min().item(), digits.train_images.max().item()) == (0, 1)


def test_the_split_is_always_the_same(digits: Digits) -> None:
    again = load_digits()
    assert torch.equal(again.train_images, digits.train_images)
    assert torch.equal(again.test_labels, digits.test_labels)


def test_no_digit_is_both_trained_on_and_tested_with(digits: Digits) -> None:
    train, test = (
        {image.numpy().tobytes() for image in images} for images in (digits.train_images, digits.test_images)
    )
    assert not train & test


def test_a_missing_package_is_named_before_anything_is_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    printed = StringIO()
    expected = re.escape("the demo needs mlxtend: pip install 'depthwise[demo]'")
    with pytest.raises(DepthwiseError, match=expected):
        run(Console(file=printed), tmp_path / "report.html", quick=True)
    assert not printed.getvalue()


def test_a_missing_folder_is_named_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(DepthwiseError, match=r"cannot write .*gone.*report\.html: the folder .* does not exist"):
        run(Console(file=StringIO()), tmp_path / "gone" / "report.html", quick=True)


# The networks


@pytest.fixture(scope="module")
def dense(digits: Digits) -> nn.Sequential:
    return trained(digits.first(512), 1)


def separable(budget: float = 0.15) -> nn.Sequential:
    """A network that no data formed, separated by its weights alone."""
    model = small_cnn().eval()
    separate_(model, budget=budget, input_size=IMAGE_SIZE)
    return model


def test_training_is_reproducible_and_leaves_the_random_state(digits: Digits) -> None:
    few = digits.first(128)
    before = torch.get_rng_state()
    first, second = (trained(few, 1) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert not first.training
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_a_thousand_digits_teach_more_than_chance(digits: Digits) -> None:
    assert accuracy(trained(digits.first(1000), 3), digits.test_images, digits.test_labels) > 0.5


def test_the_dense_twin_computes_the_same(digits: Digits) -> None:
    model = separable()
    model.append(nn.Unflatten(1, (10, 1, 1)))
    model.append(BlueprintConv2d(10, 4, 1).eval())
    twin = dense_twin(model)
    changed = SeparableConv2d | BlueprintConv2d
    assert [sum(isinstance(module, changed) for module in each.modules()) for each in (model, twin)] == [4, 0]
    torch.testing.assert_close(twin(digits.test_images[:8]), model(digits.test_images[:8]), rtol=1e-4, atol=1e-5)


def test_a_separated_network_keeps_to_its_budget_and_leaves_the_dense_one(digits: Digits, dense: nn.Module) -> None:
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    layers: list[tuple[str, int, int]] = []
    steps: list[None] = []
    found = separated(dense, digits.first(512), 0.2, 64, lambda *step: layers.append(step), lambda: steps.append(None))
    assert found.report.share <= 0.2
    assert found.report.samples == 64
    assert len(steps) == 8
    assert layers[-1] == ("separate", 4, 4)
    assert found.accuracies.distilled == accuracy(found.network, digits.test_images, digits.test_labels)
    for name, value in dense.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_statistics_put_back_are_the_dense_networks(digits: Digits, dense: nn.Module) -> None:
    network = small_cnn().eval()
    back = with_statistics_of(dense, network)
    for name, buffer in dense.named_buffers():
        assert torch.equal(back.get_buffer(name), buffer), name
    assert not torch.equal(network.get_buffer("0.1.running_mean"), dense.get_buffer("0.1.running_mean"))
    for name, parameter in network.named_parameters():
        assert torch.equal(back.get_parameter(name), parameter), name


def test_an_epoch_has_every_image_once_and_the_same_order_again() -> None:
    images = torch.arange(130.0).reshape(130, 1, 1, 1)
    batches = Batches(images, lambda: None)
    assert [len(batch) for batch in batches] == [64, 64, 2]
    assert len(batches) == 3
    assert torch.equal(torch.cat(list(batches)).flatten().sort().values, images.flatten())
    assert torch.equal(torch.cat(list(Batches(images, lambda: None))), torch.cat(list(batches)))


# The gate and the timing


def test_the_gate_lets_rounding_pass() -> None:
    expected = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
    assert check_outputs("dense", (expected + 1e-6).float(), expected) < 1e-6


@pytest.mark.parametrize("wrong", [1.0, float("nan"), float("inf")])
def test_the_gate_fails_where_one_output_is_wrong(wrong: float) -> None:
    expected = torch.ones(10, dtype=torch.float64)
    actual = expected.float()
    actual[3] += wrong
    with pytest.raises(DepthwiseError, match=r"separable network's output is off by .* a wrong network is not timed"):
        check_outputs("separable", actual, expected)


def test_the_gate_fails_where_a_shape_is_wrong() -> None:
    expected = torch.ones(4, 10, dtype=torch.float64)
    with pytest.raises(DepthwiseError, match=r"dense network's output has shape \(10,\), not \(4, 10\)"):
        check_outputs("dense", torch.ones(10), expected)


def test_a_network_with_another_weight_is_not_timed() -> None:
    model = separable()
    reference = dense_twin(model)
    images = torch.rand(2, *IMAGE_SIZE)
    found = time_networks({"separable": model}, {"separable": reference}, images, SHORT)
    assert found["separable"].samples == 2
    # One tap of one filter of the second convolution.
    with torch.no_grad():
        model.get_parameter("2.0.depthwise.weight")[0, 0, 1, 1] += 1
    with pytest.raises(DepthwiseError, match=r"the separable \(contiguous\) network's output is off by"):
        time_networks({"separable": model}, {"separable": reference}, images, SHORT)


def test_steps_of_training_leave_the_networks_and_the_random_state(digits: Digits) -> None:
    model, teacher = separable(), small_cnn().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    for found in (epochs({"it": model}, digits.first(130), 1), epochs({"it": model}, digits.first(130), 1, teacher)):
        # Three steps an epoch, none of which takes a minute.
        assert all(0 < seconds < 180 for seconds in (found["it"].accelerated, found["it"].torch))
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


# The promise


def test_promise_kept_of_made_up_numbers(made_up: DemoResult) -> None:
    smaller = made_up.smallest
    assert (smaller.budget, made_up.share(smaller)) == (0.1, 0.125)
    assert [made_up.promised_speedup(each) for each in made_up.separable] == [2, 8]
    assert [made_up.measured_speedup(smaller, size) for size in (1, 64)] == [0.5, 4]
    assert [made_up.promise_kept(smaller, size) for size in (1, 64)] == [0.0625, 0.5]
    assert [made_up.promise_kept(smaller, size, OURS) for size in (1, 64)] == pytest.approx([1 / 24, 1 / 3])
    assert [made_up.promise_kept(smaller, size, EAGER) for size in (1, 64)] == [0.03125, 0.25]
    assert made_up.speedup_range(smaller, 64) == pytest.approx((1.9 / 0.6, 2.1 / 0.4))


def test_the_answer_comes_first(made_up: DemoResult) -> None:
    assert [line.cells for line in answer(made_up)] == [
        ("multiplications", "8,000,000", "4,000,000 = 50.0%", "1,000,000 = 12.5%"),
        ("ms an image, batch 1", "1.000", "2.000 = 200%", "2.000 = 200%"),
        ("ms an image, batch 64", "2.000", "0.500 = 25%", "0.500 = 25%"),
        ("test accuracy", "98.0%", "97.0%", "97.0%"),
        ("promise kept, batch 1", "", "0.25", "0.06"),
        ("promise kept, batch 64", "", "2.00", "0.50"),
        ("kept layer by layer, batch 1", "", "0.17", "0.04"),
        ("kept layer by layer, batch 64", "", "1.33", "0.33"),
        ("kept by PyTorch's, batch 1", "", "0.12", "0.03"),
        ("kept by PyTorch's, batch 64", "", "1.00", "0.25"),
        ("s an epoch, ours / torch's", "5.0 / 6.0", "2.0 / 4.0", "2.0 / 4.0"),
        ("s to distill, ours / torch's", "", "3.0 / 4.5", "3.0 / 4.5"),
    ]
    page = document(made_up)
    assert page.index("12.5%") < page.index("The idea") < page.index("plain SVD of the same cost")


def test_the_details_of_made_up_numbers(made_up: DemoResult) -> None:
    assert [line.cells for line in details(made_up)] == [
        ("parameters", "4,000", "1,000", "1,000"),
        ("accuracy, plain SVD of the same cost", "", "10.0%", "10.0%"),
        ("accuracy, fitted, norms as they were", "", "95.0%", "95.0%"),
        ("accuracy after separate_", "", "96.0%", "96.0%"),
        ("ms per image, batch 1", "0.800 (0.700–0.900)", "2.000 (1.900–2.100)", "2.000 (1.900–2.100)"),
        ("ms per image, batch 1, layer by layer", "", "3.000 (2.900–3.100)", "3.000 (2.900–3.100)"),
        ("ms per image, batch 1, PyTorch's", "1.000 (0.900–1.100)", "4.000 (3.900–4.100)", "4.000 (3.900–4.100)"),
        ("ms per image, batch 64", "1.500 (1.400–1.600)", "0.500 (0.400–0.600)", "0.500 (0.400–0.600)"),
        ("ms per image, batch 64, layer by layer", "", "0.750 (0.650–0.850)", "0.750 (0.650–0.850)"),
        ("ms per image, batch 64, PyTorch's", "2.000 (1.900–2.100)", "1.000 (0.900–1.100)", "1.000 (0.900–1.100)"),
        ("promised speed-up", "", "2.00×", "8.00×"),
        ("measured speed-up, batch 1", "", "0.50×", "0.50×"),
        ("measured speed-up, batch 1, layer by layer", "", "0.33×", "0.33×"),
        ("measured speed-up, batch 1, PyTorch's", "", "0.25×", "0.25×"),
        ("measured speed-up, batch 64", "", "4.00×", "4.00×"),
        ("measured speed-up, batch 64, layer by layer", "", "2.67×", "2.67×"),
        ("measured speed-up, batch 64, PyTorch's", "", "2.00×", "2.00×"),
    ]


def test_the_table_fits_80_columns(made_up: DemoResult) -> None:
    printed = StringIO()
    large = replace(made_up, dense=replace(made_up.dense, multiplications=14_744_448))
    Console(file=printed, width=80).print(console_table(large))
    table = printed.getvalue()
    for line in answer(large):
        assert any(
            text.startswith(line.measure) and text.rstrip().endswith(line.cells[-1]) for text in table.splitlines()
        )


def test_each_share_says_what_it_is_of(made_up: DemoResult) -> None:
    cards = document(made_up).split('class="cards"')[1].split("<h2")[0]
    assert "of the dense network's multiplications (of its convolutions'" in unescape(cards)
    assert "where 10% were allowed" in cards


def test_small_differences_of_accuracy_can_be_seen(made_up: DemoResult) -> None:
    smaller, better = made_up.smallest, replace(made_up.smallest.accuracies, distilled=0.975)
    chart = accuracy_plot(replace(made_up, separable=(smaller, replace(smaller, accuracies=better))))
    places = [float(x) for x in re.findall(r'<circle class="gain" cx="([\d.]+)"', chart)]
    # 97.0 and 97.5 %.
    assert places[3] - places[7] > 5


def test_no_whisker_lies_on_a_note(made_up: DemoResult) -> None:
    chart = speedup_plot(made_up)
    for high, note in re.findall(r'm0 -4H([\d.]+)m0 -4v8"/><text x="([\d.]+)"', chart):
        assert float(high) < float(note)


def test_the_page_escapes_what_the_machine_calls_itself(made_up: DemoResult) -> None:
    page = document(made_up)
    assert "a &lt;cpu&gt;" in page
    assert "a <cpu>" not in page


def test_the_same_result_is_the_same_page(made_up: DemoResult) -> None:
    assert document(made_up) == document(replace(made_up))


# A whole run


def test_a_quick_run_takes_every_step(quick: tuple[DemoResult, str]) -> None:
    result, printed = quick
    for step in (
        "86,400",
        "675 + 9,600 = 10,275",
        "11.9 %",
        "train the dense network",
        *(f"separate it, budget {budget:.0%}" for budget in BUDGETS),
        "distill it for one epoch",
        "batch 64",
        "promise kept",
    ):
        assert step in printed
    assert printed.rstrip().endswith(str(result.report_path))
    assert [each.report.share <= each.budget for each in result.separable] == [True, True]


def test_the_multiplications_of_the_layers_add_up(quick: tuple[DemoResult, str]) -> None:
    result, _ = quick
    for each in result.separable:
        assert sum(layer.dense for layer in each.layers) == result.dense.multiplications
        assert sum(layer.separable for layer in each.layers) == each.multiplications
        # 64 -> 64 channels, a 3x3 kernel, 14x14 pixels.
        third, multiplier = each.layers[2], each.report.layers[2].multiplier
        assert third.dense == 64 * 64 * 9 * 196
        assert (third.depthwise, third.pointwise) == (multiplier * 64 * 9 * 196, multiplier * 64 * 64 * 196)


def test_the_result_is_ready_for_json(quick: tuple[DemoResult, str]) -> None:
    result, _ = quick
    read = json.loads(json.dumps(result.to_dict()))
    assert read == result.to_dict()
    last = read["separable"][1]
    assert last["promises"]["optimized"]["64"]["promise_kept"] == result.promise_kept(result.separable[1], 64)
    assert Separation.from_dict(last["report"]) == result.separable[1].report
    assert read["dense"]["timings"]["1"]["milliseconds"] > 0


def test_the_page_loads_nothing_and_runs_nothing(quick: tuple[DemoResult, str]) -> None:
    page = quick[0].report_path.read_text(encoding="utf-8")
    assert "://" not in page
    assert not re.search(r"<(script|link|iframe|object)\b|@import|url\(", page)
    for address in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert address.startswith("#")


def test_the_page_holds_the_table_the_pictures_and_the_plots(quick: tuple[DemoResult, str]) -> None:
    result, _ = quick
    page = result.report_path.read_text(encoding="utf-8")
    for timings in (
        result.dense.timings,
        result.dense.optimized,
        *(each.on(where) for each in result.separable for where in (OPTIMIZED, OURS, EAGER)),
    ):
        for timing in timings.values():
            assert milliseconds(timing) in page
    for each in result.separable:
        assert f"{each.multiplications:,}" in page
        for share in asdict(each.accuracies).values():
            assert f"{share:.1%}" in page
        for size in result.batch_sizes:
            assert f"{result.promise_kept(each, size):.2f}" in page
    for fact in (result.machine.torch, result.date, *result.ran_on):
        assert escape(fact) in page
    # Three charts, the report's own plot, and the four scenes.
    assert page.count("<svg ") == 3 + 1 + 4
