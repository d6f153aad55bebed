"""`depthwise bench` and the parts it shares with benchmarks/: the gate, the roofline, the rows, a quick run."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from io import StringIO
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest
import torch
from rich.console import Console
from torch import Tensor

from depthwise import DepthwiseError, backends
from depthwise.backends.base import Backend, Weights
from depthwise.backends.cpu import machine
from depthwise.backends.eager import EAGER
from depthwise.backends.problem import Problem
from depthwise.bench import BenchResult, run
from depthwise.bench.calls import Call, ours, torch_dense, torch_parts
from depthwise.bench.candidates import STANDARD, Candidate, has_dense, measure, prepared
from depthwise.bench.cases import LAYOUTS, MOBILENET_V1, Case, Tensors, laid_out, layer, tensors_of
from depthwise.bench.gate import STEEPEST, expected_of, fault
from depthwise.bench.layer import layer_times
from depthwise.bench.peaks import measured_peaks, refreshed, torch_threads
from depthwise.bench.roofline import Peaks, least_seconds, work_of
from depthwise.bench.rows import DENSE, OURS, TORCH, Failure, Row, Spread, Timing, mean
from depthwise.bench.table import console_table
from depthwise.measure.turns import Effort

SHORT = Effort(rounds=2, sample_seconds=0, limit_seconds=0)
PEAKS = Peaks(1, 100.0, 200.0, 50.0, 20.0, 16)
PEAKS_UNKNOWN = replace(PEAKS, fma_gflops=None)
BLOCK = layer("small", (8, 9, 9), 3, out=12, act="relu6", out_act="relu6")

SMALL = (
    BLOCK,
    layer("small", (8, 9, 9), 3, out=8, act="hardswish", residual=True),
    layer("small", (6, 9, 9), 3, out=4, stride=2, batch=3),
    layer("small", (6, 9, 9), 5, multiplier=2),
    layer("small", (5, 30), 4, padding=((3, 0),), act="silu"),
    layer("small", (5, 30), 7, out=5, dilation=2, act="silu", out_act="relu", residual=True),
    layer("small", (4, 5, 6, 7), 3, stride=(1, 2, 2), batch=2),
    layer("small", (4, 5, 6, 7), 3, out=4, act="gelu", out_act="relu", residual=True),
)


class Broken(Backend):
    """The right numbers but for one output."""

    name = "broken"
    summary = "one wrong output"

    def refusal(self, problem: Problem) -> str | None:
        return None

    def run(self, x: Tensor, weights: Weights, problem: Problem) -> Tensor:
        return spoiled(EAGER.run(x, weights, problem))


class Raising(Broken):
    name = "raising"

    def run(self, x: Tensor, weights: Weights, problem: Problem) -> Tensor:
        raise DepthwiseError("no code for [this] machine")


def spoiled(y: Tensor) -> Tensor:
    y.view(-1)[3] += 0.01
    return y


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """In the place of the kernels that measure the peak; its FMA peak rises at every look."""
    from depthwise.backends import cpu

    module = ModuleType("depthwise.backends.cpu.peak")
    looks = iter(range(100, 1000))
    vars(module).update(
        fma_gflops=lambda threads, seconds=0.2: threads * float(next(looks)),
        load_gbytes=lambda threads: threads * 200.0,
        store_gbytes=lambda threads: threads * 90.0,
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(cpu, "peak", module, raising=False)
    return module


def row(case: Case, seconds: dict[tuple[str, str], float], failures: tuple[Failure, ...] = ()) -> Row:
    """A made-up row on `PEAKS`."""
    work = work_of(case, PEAKS.vector_lanes)
    least = least_seconds(work, PEAKS)
    assert least is not None
    timings = tuple(Timing(*key, Spread(s, 0.9 * s, 1.1 * s, 30)) for key, s in seconds.items())
    return Row(case, 1, "eager", (), timings, failures, work, PEAKS.fma_gflops, *least)


# Cases


def test_mobilenet_v1_is_nine_blocks_that_it_has_thirteen_times() -> None:
    assert len({case.name for case in MOBILENET_V1}) == 9
    assert sum(case.count for case in MOBILENET_V1) == 13
    # MobileNets, table 1: 569 million multiply-adds, of which the dense stem and the classifier are 11.8 million.
    macs = sum(case.count * case.cost.separable.macs for case in MOBILENET_V1)
    assert macs + 3 * 9 * 32 * 112 * 112 + 1024 * 1000 == pytest.approx(569e6, rel=1e-3)


def test_a_name_holds_what_tells_layers_apart() -> None:
    assert layer("", (64, 112, 112), 3, out=128, stride=2, residual=True).name == "3x3 s2 64→128 @112x112 +residual"
    assert layer("", (256, 33, 33), 3, dilation=6, batch=8).name == "3x3 d6 256 @33x33 batch 8"
    assert layer("", (54, 13, 80, 80), 3, stride=(1, 2, 2)).name == "3x3x3 s1x2x2 54 @13x80x80"
    assert layer("", (64, 56, 56), 3, multiplier=2).name == "3x3 64 multiplier 2 @56x56"


def test_the_depthwise_step_has_a_bias_where_it_is_not_the_pointwise_one() -> None:
    bare, between, alone = (layer("", (4, 5, 5), 3, out=8), BLOCK, layer("", (4, 5, 5), 3))
    assert [case.has_depthwise_bias for case in (bare, between, alone)] == [False, True, True]
    assert tensors_of(bare).depthwise_bias is None
    assert tensors_of(alone).pointwise_bias is None


def test_tensors_are_random_and_the_same_each_time() -> None:
    first, second = tensors_of(BLOCK), tensors_of(BLOCK)
    assert torch.equal(first.x, second.x)
    assert first.x.count_nonzero() == first.x.numel()


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5, 6)])
def test_channels_last_in_every_rank(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    last, rows = laid_out(x, "channels_last"), laid_out(laid_out(x, "channels_last"), "contiguous")
    assert last.stride(1) == 1
    assert torch.equal(last, x)
    assert rows.is_contiguous()


# The gate


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("build", [ours, torch_parts])
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_every_candidate_passes(case: Case, build: type, layout: str) -> None:
    tensors = tensors_of(case)
    expected = expected_of(case, tensors)
    call = build(case, tensors, layout)
    # Again: nothing of the first call's work in place may show in the second.
    for _ in range(2):
        assert fault(call(), expected) is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_dense_convolution_has_the_same_shape_and_residual(layout: str) -> None:
    case = SMALL[1]
    tensors = tensors_of(case)
    out = torch_dense(case, tensors, layout)()
    without = torch_dense(case, replace(tensors, residual=None), layout)()
    assert out.shape == (case.batch, *case.geometry.output_size)
    assert tensors.residual is not None
    torch.testing.assert_close(out, without + tensors.residual)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_a_dropped_tap_does_not_pass(case: Case) -> None:
    tensors = tensors_of(case)
    expected = expected_of(case, tensors)
    weight = tensors.depthwise_weight.clone()
    weight.flatten(1)[0, -1] = 0
    assert fault(ours(case, replace(tensors, depthwise_weight=weight), "contiguous")(), expected) is not None


@pytest.mark.parametrize("wrong", [1e-4, float("nan"), float("inf")])
def test_one_wrong_output_does_not_pass(wrong: float) -> None:
    tensors = tensors_of(BLOCK)
    out = ours(BLOCK, tensors, "contiguous")()
    out.view(-1)[5] += wrong
    reason = fault(out, expected_of(BLOCK, tensors))
    assert reason is not None
    assert reason.startswith(f"1 of {out.numel()} outputs are wrong, the worst by ")


def test_a_wrong_shape_does_not_pass() -> None:
    tensors = tensors_of(BLOCK)
    reason = fault(tensors.x, expected_of(BLOCK, tensors))
    assert reason == "the output has shape (1, 8, 9, 9), not (1, 12, 9, 9)"


def test_no_activation_is_steeper_than_the_gate_thinks() -> None:
    x = torch.linspace(-20, 20, 100_001, dtype=torch.float64, requires_grad=True)
    for name, steepest in STEEPEST.items():
        (slope,) = torch.autograd.grad(backends.eager.activate(x, (name, 0.0)).sum(), x)
        assert slope.abs().max() <= steepest
        assert backends.eager.activate(torch.zeros(1), (name, 0.0)) == 0


# The roofline


def test_a_separable_case_is_counted_in_whole_vectors() -> None:
    work = work_of(layer("", (24, 10, 10), 3, out=40), vector_lanes=16)
    assert work.flops == 2 * 100 * (24 * 9 + 24 * 40)
    # 32 channels in the depthwise step, 48 out of the pointwise one, whose sums stay 24 long.
    assert work.least_flops == 2 * 100 * (32 * 9 + 24 * 48)
    assert work.bytes_moved == 4 * (100 * (24 + 40) + 24 * 9 + 24 * 40 + 40)


def test_a_batch_reads_its_weights_once() -> None:
    one, eight = (work_of(replace(BLOCK, batch=batch), 16) for batch in (1, 8))
    assert (eight.flops, eight.least_flops) == (8 * one.flops, 8 * one.least_flops)
    weights = 4 * (8 * 9 + 8 + 8 * 12 + 12)
    assert eight.bytes_moved - weights == 8 * (one.bytes_moved - weights)


def test_a_residual_is_read() -> None:
    case = layer("", (8, 9, 9), 3, out=8)
    more = work_of(replace(case, residual=True), 16).bytes_moved - work_of(case, 16).bytes_moved
    assert more == 4 * 8 * 81


@pytest.mark.parametrize(
    "window",
    [(3, 1, 1, 1), (5, 2, 2, 1), (3, 1, 6, 6), (7, 3, 0, 1), (31, 1, 15, 1), (4, 3, 2, 2), (3, 4, 0, 3), (2, 5, 1, 3)],
)
def test_a_depthwise_case_counts_the_taps_and_rows_inside(window: tuple[int, int, int, int]) -> None:
    k, stride, padding, dilation = window
    case = layer("", (2, 9, 11), k, stride=stride, padding=padding, dilation=dilation, multiplier=3)
    height, width = case.geometry.out_spatial
    rows = [y * stride + ky * dilation - padding for y, ky in product(range(height), range(k))]
    columns = [x * stride + kx * dilation - padding for x, kx in product(range(width), range(k))]
    inside_rows, inside_columns = [iy for iy in rows if 0 <= iy < 9], [ix for ix in columns if 0 <= ix < 11]
    work = work_of(case, 16)
    assert work.least_flops == 2 * 6 * len(inside_rows) * len(inside_columns)
    assert work.load_bytes == 4 * 2 * len(inside_rows) * len(set(inside_columns))
    assert work.store_bytes == 4 * 6 * height * width
    assert work.flops == 2 * 6 * height * width * k * k


@pytest.mark.parametrize(
    ("kernel_size", "peaks", "limit"),
    [(1, PEAKS, "stores"), (1, replace(PEAKS, store_gbytes=900.0), "loads"), (9, PEAKS, "arithmetic")],
)
def test_the_longest_limit_is_the_bound(kernel_size: int, peaks: Peaks, limit: str) -> None:
    work = work_of(layer("", (16, 400), kernel_size), 16)
    seconds = {
        "stores": work.store_bytes / 50e9,
        "loads": work.load_bytes / 200e9,
        "arithmetic": work.least_flops / 1e11,
    }
    found = least_seconds(work, peaks)
    assert found is not None
    assert found[1] == limit
    assert found[0] == pytest.approx(seconds[limit])


def test_bytes_beyond_l2_are_a_limit_where_they_are_more_than_it_holds() -> None:
    work = work_of(layer("", (64, 56, 56), 3, out=64), 16)
    slow = replace(PEAKS, beyond_gbytes=1.0)
    assert least_seconds(work, replace(slow, l2_bytes=work.bytes_moved)) == least_seconds(work, PEAKS)
    found = least_seconds(work, replace(slow, l2_bytes=work.bytes_moved - 1))
    assert found is not None
    assert found[1] == "beyond L2"
    assert found[0] == pytest.approx(work.bytes_moved / 1e9)
    fast = replace(slow, beyond_gbytes=1e6)
    assert least_seconds(work, fast) == least_seconds(work, PEAKS)


def test_without_measured_rates_a_load_goes_with_each_multiply_add_and_a_store_with_two() -> None:
    work = work_of(layer("", (16, 400), 1), 16)
    known = least_seconds(work, replace(PEAKS, load_gbytes=200.0, store_gbytes=100.0))
    assert least_seconds(work, replace(PEAKS, load_gbytes=None, store_gbytes=None)) == known
    assert least_seconds(work, replace(PEAKS, fma_gflops=None)) is None


# The peaks


@pytest.mark.usefixtures("stand_in")
def test_peaks_come_from_the_kernels() -> None:
    peaks = measured_peaks(2)
    assert (peaks.fma_gflops, peaks.load_gbytes, peaks.store_gbytes) == (200, 400, 180)
    assert peaks.memory_gbytes > 0
    host = machine.host()
    if host is not None:
        assert peaks.l2_bytes == 2 * host.l2_bytes
        assert peaks.beyond_gbytes is not None
        assert peaks.beyond_gbytes > 0
    assert peaks.reason is None
    assert refreshed(peaks).fma_gflops == 202


def test_a_machine_without_kernels_has_no_peak_and_says_so(stand_in: ModuleType) -> None:
    def refuse(threads: int, seconds: float = 0.2) -> float:
        raise DepthwiseError("this CPU has neither AVX2 nor NEON")

    vars(stand_in)["fma_gflops"] = refuse
    peaks = measured_peaks(1)
    assert peaks.fma_gflops is None
    assert peaks.reason == "no kernel measures the peak here: this CPU has neither AVX2 nor NEON"
    assert refreshed(peaks) is peaks


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


# Rows


def test_a_row_has_every_candidate_in_both_layouts() -> None:
    found = measure(prepared(BLOCK), STANDARD, replace(PEAKS, fma_gflops=None), SHORT)
    assert {(t.candidate, t.layout) for t in found.timings} == set(product((OURS, TORCH, DENSE), LAYOUTS))
    assert found.failures == ()
    assert found.ran_on
    assert (found.least_seconds, found.peak_fraction("contiguous")) == (None, None)
    assert json.loads(json.dumps(found.to_dict()))["ratios"]["contiguous"]["speedup"] == found.speedup("contiguous")


@pytest.mark.usefixtures("stand_in")
def test_the_higher_peak_around_the_turns_counts() -> None:
    found = measure(prepared(BLOCK), STANDARD, PEAKS, SHORT)
    assert found.fma_gflops == 101


@pytest.mark.parametrize("case", [BLOCK, SMALL[3]], ids=lambda case: case.operation)
def test_a_wrong_output_is_a_row_with_its_reason(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "BACKENDS", (Broken(), EAGER))
    found = measure(prepared(case), STANDARD, PEAKS_UNKNOWN, SHORT)
    assert [(f.candidate, f.layout) for f in found.failures] == [(OURS, layout) for layout in LAYOUTS]
    assert "1 of" in (found.failure_of_ours("contiguous") or "")
    assert found.ran_on == "broken"
    assert found.timing(OURS, "contiguous") is None
    assert (found.speedup("contiguous"), found.promise_kept("contiguous")) == (None, None)
    assert found.best(TORCH) is not None
    assert json.loads(json.dumps(found.to_dict()))["failures"][0]["candidate"] == OURS


def test_an_error_is_a_row_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "BACKENDS", (Raising(), EAGER))
    found = measure(prepared(BLOCK), STANDARD, PEAKS_UNKNOWN, SHORT)
    assert found.failure_of_ours("contiguous") == "DepthwiseError: no code for [this] machine"


def test_a_peer_that_is_wrong_is_not_timed() -> None:
    def zeros(case: Case, tensors: Tensors, layout: str, threads: int) -> object:
        return lambda: torch.zeros(case.batch, *case.geometry.output_size)

    peer = Candidate("zeros", zeros, layouts=("contiguous",))  # type: ignore[arg-type]
    found = measure(prepared(BLOCK), (*STANDARD, peer), PEAKS_UNKNOWN, SHORT)
    assert [failure.candidate for failure in found.failures] == ["zeros"]
    assert found.best("zeros") is None
    assert found.best(OURS) is not None


def test_a_long_dense_convolution_is_not_timed() -> None:
    assert has_dense(BLOCK)
    # 512 · 512 · 75 · 500 multiply-adds.
    assert not has_dense(layer("", (512, 500), 75, out=512))
    assert not has_dense(SMALL[3])


def test_a_layer_of_which_one_way_fails_is_not_shown_half(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Call:
        raise DepthwiseError("no kernel for it")

    ways = [Candidate(way.name, fails) if way.name == OURS else way for way in STANDARD]
    monkeypatch.setattr("depthwise.bench.layer.STANDARD", ways)
    monkeypatch.setattr("depthwise.bench.layer.FULL", SHORT)
    with pytest.raises(DepthwiseError, match=r"separable, depthwise: not timed: DepthwiseError: no kernel for it"):
        layer_times(BLOCK.geometry)


def test_ratios_of_made_up_times() -> None:
    times = {
        (OURS, "contiguous"): 4e-6,
        (OURS, "channels_last"): 2e-6,
        (TORCH, "contiguous"): 6e-6,
        (TORCH, "channels_last"): 8e-6,
        (DENSE, "contiguous"): 30e-6,
        (DENSE, "channels_last"): 20e-6,
    }
    made_up = row(BLOCK, times)
    assert made_up.best(TORCH) == made_up.timing(TORCH, "contiguous")
    assert (made_up.speedup("contiguous"), made_up.speedup("channels_last")) == pytest.approx((1.5, 3))
    cost = BLOCK.cost
    assert made_up.promise_kept("channels_last") == pytest.approx(
        10 * cost.separable.multiplications / cost.dense.multiplications
    )
    # 81 pixels, 8 · 9 + 8 · 12 multiply-adds each; the bound has 16 channels in both steps.
    assert made_up.gflops("channels_last") == pytest.approx(2 * 81 * 168 / 2e3)
    assert made_up.peak_fraction("channels_last") == pytest.approx(2 * 81 * 168 / 2e3 / 100)
    assert made_up.bound_fraction("contiguous") == pytest.approx(2 * 81 * (16 * 9 + 8 * 16) / 4e3 / 100)


def test_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3, 2, 4, 5)
    assert Spread.of([1.0, 3.0]).median == 2


def test_a_mean_hides_nothing() -> None:
    assert mean([2.0, 8.0]) == pytest.approx(4)
    assert mean([2.0, None]) is None
    assert mean([]) is None


# The short form


@pytest.fixture
def two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("depthwise.bench.run"), "MOBILENET_V1", (BLOCK, SMALL[1]))


@pytest.mark.usefixtures("two_blocks", "stand_in")
@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_quick_run_prints_a_table_and_draws_the_roofline(tmp_path: Path, suffix: str) -> None:
    printed = StringIO()
    path = tmp_path / f"roofline{suffix}"
    result = run(Console(file=printed, width=160), path, quick=True)
    assert [row.case for row in result.rows] == [BLOCK, SMALL[1]]
    for text in (BLOCK.name, "geometric mean", "promise kept", "FMA peak", str(path)):
        assert text in printed.getvalue()
    assert path.stat().st_size > 1000
    if suffix == ".svg":
        assert "3x3 8→12 @9x9" in path.read_text(encoding="utf-8")
    assert json.loads(json.dumps(result.to_dict()))["promise_kept"] == result.promise_kept
    assert result.peak_fraction == mean(row.peak_fraction("channels_last") for row in result.rows)


@pytest.mark.usefixtures("two_blocks")
def test_without_matplotlib_it_says_how_to_get_the_plot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.import_module("depthwise.bench.run"), "find_spec", lambda name: None)
    printed = StringIO()
    result = run(Console(file=printed, width=160), tmp_path / "roofline.svg", quick=True)
    assert result.plot is None
    assert not (tmp_path / "roofline.svg").exists()
    assert "no plot: it needs matplotlib: pip install 'depthwise[demo]'" in printed.getvalue()


def test_a_plot_that_cannot_be_written_is_named_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(DepthwiseError, match=r"the plot goes to a file ending in \.svg, \.png, \.pdf; got .*\.txt"):
        run(Console(file=StringIO()), tmp_path / "roofline.txt")
    with pytest.raises(DepthwiseError, match=r"cannot write .*gone.*: the folder .* does not exist"):
        run(Console(file=StringIO()), tmp_path / "gone" / "roofline.svg")


@pytest.mark.usefixtures("two_blocks")
def test_the_table_shows_why_a_block_was_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "BACKENDS", (Raising(), EAGER))
    printed = StringIO()
    console = Console(file=printed, width=200)
    result: BenchResult = run(console, None, quick=True)
    console.print(console_table(result))
    assert "not timed: DepthwiseError: no code for [this] machine" in " ".join(printed.getvalue().split())
    assert result.promise_kept is None
