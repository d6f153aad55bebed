"""The command line as a user meets it: results, files, messages, exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_model
from torch.nn import Identity

from depthwise import DepthwiseError, cli, count, explain, separated_like
from depthwise.backends.cpu import inspection, machine
from depthwise.backends.cpu.disk import store
from depthwise.bench import run as bench_run
from depthwise.bench.cases import MOBILENET_V1
from depthwise.bench.training.rows import TrainingResult
from depthwise.blocks import MobileNetV1Block
from depthwise.demo.run import QUICK as QUICK_DEMO
from depthwise.doctor import machine_report
from depthwise.geometry import geometry
from depthwise.measure.turns import Effort
from depthwise.separate import Separation
from depthwise.separating import QUICK
from tests.support.dense import convolutional
from tests.support.networks import timm_model


class Ran:
    """What a command printed and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, " ".join(err.split())


class Command:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> Ran:
        self.monkeypatch.setattr(sys, "argv", ["depthwise", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = self.capsys.readouterr()
        code = ended.value.code
        return Ran(code if isinstance(code, int) else 0, captured.out, captured.err)


@pytest.fixture
def depthwise(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


EXPLAIN = ("explain", "3x7x7", "--filters", "128", "--kernel", "3")
MODEL = "depthwise.blocks:MobileNetV1Block"


def test_explain(depthwise: Command) -> None:
    ran = depthwise(*EXPLAIN)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == str(explain((3, 7, 7), 128, 3)) + "\n"


def test_explain_takes_every_option(depthwise: Command) -> None:
    options = ["--stride", "2x1", "--padding", "1:0x2", "--dilation", "1x2", "--multiplier", "2", "--json"]
    ran = depthwise("explain", "4x9x9", "--filters", "8", "--kernel", "3x2", *options)
    expected = explain((4, 9, 9), 8, (3, 2), (2, 1), ((1, 0), (2, 2)), (1, 2), depth_multiplier=2)
    assert json.loads(ran.out) == expected.to_dict()


def test_explain_writes_its_files(depthwise: Command, tmp_path: Path) -> None:
    svg, html = tmp_path / "picture.svg", tmp_path / "page.html"
    ran = depthwise(*EXPLAIN, "--svg", str(svg), "--html", str(html))
    assert ran.code == 0
    assert svg.read_text().startswith("<svg")
    assert "86,400" in html.read_text()
    assert f"wrote {svg}"[:20] in ran.err
    ran = depthwise(*EXPLAIN, "--svg", str(tmp_path / "no" / "picture.svg"))
    assert ran.code == 1
    assert "error: cannot write" in ran.err


def test_explain_without_a_layer_takes_the_articles(depthwise: Command) -> None:
    assert depthwise("explain").out == depthwise(*EXPLAIN).out


def test_explain_says_how_it_read_a_size(depthwise: Command) -> None:
    ran = depthwise("explain", "7x7x3", "--filters", "8", "--kernel", "3")
    assert "note: 7x7x3 was read as 7 channels of 7×3, channels first; for 3 channels write 3x7x7" in ran.out
    ran = depthwise("explain", "224x224x3", "--filters", "8", "--kernel", "5")
    assert "it was read as 3x224x224" in ran.out
    assert "A 5×5 convolution from 3 to 8 channels" in ran.out


def test_explain_opens_the_page(depthwise: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened: list[str] = []

    def open_(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr("webbrowser.open", open_)
    page = tmp_path / "page.html"
    assert depthwise("explain", "--open", "--html", str(page)).code == 0
    assert opened == [page.as_uri()]
    ran = depthwise("explain", "--open")
    assert (ran.code, opened[1].startswith("file:///"), opened[1].endswith("explain.html")) == (0, True, True)
    monkeypatch.setattr("webbrowser.open", lambda _: False)
    ran = depthwise("explain", "--open", "--html", str(page))
    assert ran.code == 1
    assert "error: no browser to open here; the page is" in ran.err


def test_explain_times_the_layer(depthwise: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("depthwise.bench.layer.FULL", Effort(rounds=2, sample_seconds=0, limit_seconds=0))
    page = tmp_path / "page.html"
    ran = depthwise(*EXPLAIN, "--time", "--json", "--html", str(page))
    times = json.loads(ran.out)["times"]
    assert set(times["ways"]) == {"dense, PyTorch", "separable, PyTorch", "separable, depthwise"}
    assert all(way["lower"] <= way["seconds"] <= way["upper"] for way in times["ways"].values())
    assert "Measured here: 3x3 3→128 @7x7" in page.read_text(encoding="utf-8")
    ran = depthwise("explain", "512x224x224", "--filters", "512", "--kernel", "3", "--time")
    assert ran.code == 1
    assert "dense, PyTorch: not timed: its" in ran.err
    assert "multiply-adds take too long; a smaller input shows the same" in ran.err


def test_count(depthwise: Command) -> None:
    timm_model("resnet18")
    ran = depthwise("count", "timm:mobilenetv2_100", "--input", "3x224x224")
    assert ran.code == 0
    assert "300,774,272 MACs" in ran.out


def test_count_json_and_several_inputs(depthwise: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "two.py").write_text(
        "import torch\nclass Sum(torch.nn.Module):\n    def forward(self, a, b):\n        return a + b\n"
    )
    monkeypatch.chdir(tmp_path)
    ran = depthwise("count", "two:Sum", "--input", "3x4x4", "--input", "4", "--json")
    assert json.loads(ran.out)["total"]["additions"] == 48


def test_inputs_by_keyword_and_of_another_kind(
    depthwise: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kinds.py").write_text(
        "import torch\nclass Table(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.table = torch.nn.Embedding(10, 4)\n        self.last = torch.nn.Linear(4, 2)\n"
        "    def forward(self, tokens, *, scale=None):\n        x = self.last(self.table(tokens))\n"
        "        return x if scale is None else x * scale\n"
    )
    monkeypatch.chdir(tmp_path)
    one = depthwise("count", "kinds:Table", "--input", "tokens=6:int64", "--backward", "--json")
    assert (one.code, json.loads(one.out)["total"]["macs"]) == (0, 6 * 8)
    # The weights of the last layer, and what leads back to the table.
    assert json.loads(one.out)["backward"]["macs"] == 2 * 6 * 8
    two = depthwise("count", "kinds:Table", "--input", "tokens=6:int64", "--input", "scale=6x2", "--json")
    assert json.loads(two.out)["total"]["multiplications"] == 6 * 8 + 12
    assert (
        "training step: 144 multiplications"
        in depthwise("count", "kinds:Table", "--input", "6:int64", "--backward").out
    )
    assert depthwise("doctor", "kinds:Table", "--input", "6:int64").code == 0
    for wrong in (("tokens=6:int64", "6x2"), ("tokens=6:int64", "tokens=6:int64")):
        ran = depthwise("count", "kinds:Table", *(word for each in wrong for word in ("--input", each)))
        assert ran.code == 2
        assert "give every input a keyword of its own, or none" in ran.err.replace("│ ", "")


@pytest.mark.parametrize("text", ["=3x9", "a b=3x9", "3x9:int7", "3x9:", "x=", "3:int64:int64"])
def test_inputs_that_are_none(depthwise: Command, text: str) -> None:
    ran = depthwise("count", "torch.nn:Identity", "--input", text)
    assert ran.code == 2
    assert "is not" in ran.err


def test_doctor(depthwise: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "eager    runs: PyTorch's own operators" in depthwise("doctor").out
    assert json.loads(depthwise("doctor", "--json").out)["backends"][0]["runs"] is True
    (tmp_path / "mine.py").write_text(
        "from depthwise.blocks import MobileNetV1Block\ndef net():\n    return MobileNetV1Block(3, 8)\n"
    )
    monkeypatch.chdir(tmp_path)
    found = depthwise("doctor", "mine:net", "--input", "3x9x9").out
    assert "separable  SeparableConv2d  cpu" in found
    assert found.splitlines()[-1].startswith("Through depthwise.optimize(model, example_inputs), which merges what it")
    rows = json.loads(depthwise("doctor", "mine:net", "--input", "3x9x9", "--json").out)
    assert [(row["kind"], row["backend"]) for row in rows] == [("SeparableConv2d", "cpu")]
    counted = json.loads(depthwise("count", "mine:net", "--input", "3x9x9", "--json").out)
    assert counted == json.loads(json.dumps(count(MobileNetV1Block(3, 8), (3, 9, 9)).to_dict()))


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module that has a network, and batches for it."""
    (tmp_path / "trained.py").write_text(
        "import torch\nfrom tests.support.dense import convolutional, images\n"
        "torch.manual_seed(5)\nnet = convolutional()\n"
        "def batches():\n    return images(32).split(16)\n"
        "def listed():\n    return list(batches())\n"
        "def named():\n    return [{'pixels': x} for x in batches()]\n"
        "def pixels(batch):\n    return batch['pixels']\n"
        "def labelled():\n    return [(x, torch.arange(len(x))) for x in batches()]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "trained", raising=False)
    monkeypatch.setattr("depthwise.separating.EFFORT", QUICK)
    return tmp_path


def test_separate(depthwise: Command, trained: Path) -> None:
    files = ("--out", "net.safetensors", "--report", "page.html")
    ran = depthwise("separate", "trained:net", "--calibration", "trained:listed", "--budget", "0.4", *files)
    assert ran.code == 0, ran.err
    assert re.search(r"\d of 3 convolutions separated: [\d,]+ of [\d,]+ multiplications per sample", ran.out)
    assert re.search(r"parameters: [\d,]+ before, [\d,]+ after", ran.out)
    assert re.search(r"dense [\d.]+ ms, separable on PyTorch's operators [\d.]+ ms, separable [\d.]+ ms", ran.out)
    assert "wrote net.safetensors wrote net.json wrote page.html" in ran.err
    assert "separable on PyTorch&#x27;s operators" in (trained / "page.html").read_text()
    report = Separation.load(trained / "net.json")
    assert report.share <= 0.4
    loaded = separated_like(convolutional(), report)
    load_model(loaded, trained / "net.safetensors")


def test_separate_json_and_excluded_layers(depthwise: Command, trained: Path) -> None:
    options = ("--max-error", "0.5", "--exclude", "0", "--out", "net.pt", "--json")
    ran = depthwise("separate", "trained:net", "--calibration", "trained:listed", *options)
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert result["report"]["layers"][0]["reason"] == "excluded by where="
    assert result["files"] == ["net.pt", "net.json"]
    assert result["batch"] == 16
    assert (trained / "net.pt").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
@pytest.mark.parametrize("options", [("--out", "full.pt"), ("--report", "full.pt")])
def test_a_disk_that_is_full_is_told(depthwise: Command, trained: Path, options: tuple[str, str]) -> None:
    (trained / "full.pt").symlink_to("/dev/full")
    ran = depthwise("separate", "trained:net", "--calibration", "trained:listed", "--budget", "0.4", *options)
    assert ran.code == 1
    assert "error: cannot write full.pt: " in ran.err


def test_separate_with_weights_from_a_file(depthwise: Command, trained: Path) -> None:
    torch.save(
        {"state_dict": {key: value * 0 for key, value in convolutional().state_dict().items()}}, trained / "w.pt"
    )
    options = ("--budget", "0.4", "--weights", "w.pt", "--out", "net.pt")
    ran = depthwise("separate", "trained:net", "--calibration", "trained:listed", *options)
    assert ran.code == 0, ran.err
    assert "random weights" not in ran.err
    assert all(value.abs().sum() == 0 for key, value in torch.load(trained / "net.pt").items() if key.endswith("bias"))
    ran = depthwise("separate", "trained:net", "--calibration", "trained:listed", "--weights", "none.pt")
    assert (ran.code, ran.err) == (1, "error: cannot read none.pt: No such file or directory")


def test_separate_says_that_weights_are_random(depthwise: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depthwise.separating.load_model", lambda name, weights: Identity())
    ran = depthwise("separate", "timm:resnet18", "--calibration", "math:pi")
    assert "note: timm:resnet18 has random weights; timm:resnet18?pretrained or --weights FILE gives" in ran.err
    for options in (("timm:resnet18?pretrained",), ("timm:resnet18", "--weights", "w.pt")):
        assert "random" not in depthwise("separate", *options, "--calibration", "math:pi").err


def test_separate_without_names_takes_the_demos(depthwise: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depthwise.separating.EFFORT", QUICK)
    monkeypatch.setattr("depthwise.demo.defaults.FULL", QUICK_DEMO)
    ran = depthwise("separate", "--json")
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert [layer["name"] for layer in result["report"]["layers"]] == ["0.0", "2.0", "3.0", "5.0"]
    assert result["report"]["samples"] == QUICK_DEMO.calibration_size


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("--report", "page.html"), "error: cannot write page.html: it is a folder"),
        (("--out", "folder.pt"), "error: cannot write folder.pt: it is a folder"),
        (("--out", "beside.pt"), "error: cannot write beside.json: it is a folder"),
        (("--out", "net.pt", "--report", "net.json"), "error: net.json is where the report beside the weights goes"),
        (("--out", "/proc/net.pt"), "error: cannot write /proc/net.pt: "),
    ],
)
def test_what_cannot_be_written_is_told_before_any_work(
    depthwise: Command, trained: Path, files: tuple[str, ...], message: str
) -> None:
    for folder in ("page.html", "folder.pt", "beside.json"):
        (trained / folder).mkdir()
    before = sorted(trained.iterdir())
    ran = depthwise("separate", "no.such:model", "--calibration", "no.such:data", *files)
    assert ran.code == 1
    assert message in ran.err
    assert sorted(trained.iterdir()) == before


def test_separate_says_first_where_it_is_slower(
    depthwise: Command, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "slower here than the dense network: 12.30 ms for a batch of 16, 10.83 dense"
    line = ("separate", "trained:net", "--calibration", "trained:listed", "--report", "page.html")
    for separable, slower in ((12.3, True), (9.0, False)):
        monkeypatch.setattr("depthwise.separating._times", lambda *_, now=separable: {"dense": 10.83, "separable": now})
        monkeypatch.delitem(sys.modules, "trained", raising=False)
        ran = depthwise(*line)
        assert ran.code == 0, ran.err
        assert ran.out.startswith(words) is slower
        page = (trained / "page.html").read_text()
        assert (words in page) is slower
        assert not slower or page.index(words) < page.index("of the network stay")


def test_separate_with_an_adapter(depthwise: Command, trained: Path) -> None:
    line = ("separate", "trained:net", "--calibration", "trained:named", "--json")
    ran = depthwise(*line, "--adapter", "trained:pixels", "--exclude", "0", "--exclude", "*6")
    assert ran.code == 0, ran.err
    reasons = [layer["reason"] for layer in json.loads(ran.out)["report"]["layers"]]
    assert reasons[0] == reasons[2] == "excluded by where="
    assert "error: --adapter math:pi is something to call; got 3.14" in depthwise(*line, "--adapter", "math:pi").err
    assert "error: --exclude 'x' means no convolution of the model" in depthwise(*line, "--exclude", "x").err


def test_separate_takes_labelled_batches_and_says_that_it_drops_the_labels(depthwise: Command, trained: Path) -> None:
    ran = depthwise("separate", "trained:net", "--calibration", "trained:labelled", "--json")
    assert ran.code == 0, ran.err
    assert ran.err.count("note: of each calibration batch the first element is the input") == 1
    assert json.loads(ran.out)["report"]["samples"] == 32


INSPECT = ("inspect", "24x14x14", "--kernel", "3", "--padding", "1")


def test_inspect(depthwise: Command) -> None:
    g = geometry((24, 14, 14), 3, padding=1, out_channels=40)
    for show in ("plan", "ir", "assembly"):
        ran = depthwise(*INSPECT, "--filters", "40", "--isa", "neon", "--show", show)
        assert (ran.code, ran.err) == (0, "")
        assert ran.out == getattr(inspection.inspect(g, isa="neon"), show) + "\n"
    assert depthwise(*INSPECT, "--isa", "neon").out.startswith("dw_f32_k3x3_s1x1x1_d1x1x1_c24m1_linear")


def test_inspect_takes_every_option(depthwise: Command) -> None:
    options = ["--stride", "2x1", "--padding", "1:0x2", "--dilation", "1x2", "--multiplier", "2", "--contiguous"]
    ran = depthwise("inspect", "4x9x9", "--kernel", "3x2", "--isa", "neon", *options)
    g = geometry((4, 9, 9), (3, 2), (2, 1), ((1, 0), (2, 2)), (1, 2), depth_multiplier=2)
    assert ran.out == inspection.inspect(g, layout="contiguous", isa="neon").plan + "\n"


def test_cache(depthwise: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "kernels"
    monkeypatch.setenv("DEPTHWISE_CACHE_DIR", str(folder))
    neon = machine.neon()
    for key in ("one", "two"):
        store.write(key, neon, b"x" * 2**19)
    assert depthwise("cache").out == f"{folder}: 2 kernels, 1.0 MiB kept\n"
    usage = json.loads(depthwise("cache", "--json").out)
    assert (usage["folder"], usage["entries"], usage["refusal"]) == (str(folder), 2, None)
    assert usage["bytes"] > 2**20
    assert depthwise("cache", "--clear").out == f"{folder}: 2 kernels, 1.0 MiB removed\n"
    assert depthwise("cache").out == f"{folder}: 0 kernels, 0.0 MiB kept\n"
    assert store.read("one", neon) is None


def test_the_help_of_cache_names_the_limit(depthwise: Command) -> None:
    assert f"At most {store.LIMIT_BYTES // 2**20} MiB" in " ".join(depthwise("cache", "--help").out.split())


@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="needs links")
def test_a_cache_that_is_refused_is_told(depthwise: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "kernels").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("DEPTHWISE_CACHE_DIR", str(tmp_path / "kernels"))
    ran = depthwise("cache")
    assert ran.code == 0
    assert f"kernels kept in memory only: {store.refusal()}" in ran.out
    assert store.refusal() is not None


@pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")
def test_bench(depthwise: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depthwise.bench.run", partial(bench_run, quick=True))
    # The submodule is hidden by its function of the same name.
    monkeypatch.setattr(sys.modules["depthwise.bench.run"], "MOBILENET_V1", MOBILENET_V1[-1:])
    plot = tmp_path / "roofline.svg"
    ran = depthwise("bench", "--plot", str(plot), "--json")
    assert ran.code == 0
    assert len(json.loads(ran.out)["rows"]) == 1
    assert "<svg" in plot.read_text()
    monkeypatch.chdir(tmp_path / "..")
    ran = depthwise("bench", "--no-plot")
    assert ran.code == 0
    assert "promise" in ran.out
    assert "roofline:" not in ran.out


def test_bench_of_training(depthwise: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def run(_: Console, build: Any, **options: Any) -> TrainingResult:
        asked.append((build, options))
        return TrainingResult((), options.get("absent", ()), machine_report(), "today")

    monkeypatch.setattr("depthwise.bench.training.run", run)
    monkeypatch.setattr("depthwise.cli.load_model", lambda name: name)
    ran = depthwise("bench", "--training", "--compile", "--json")
    assert json.loads(ran.out)["training"] == []
    build, options = asked.pop()
    assert (build("x"), options) == ("timm:x", {"compiled": True})

    def missing(name: str) -> None:
        raise DepthwiseError(f"{name} does not load")

    monkeypatch.setattr("depthwise.cli.load_model", missing)
    assert depthwise("bench", "--training").code == 0
    assert asked == [
        (None, {"absent": ("no steps of whole networks: timm:mobilenetv1_100 does not load",), "compiled": False})
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((*INSPECT, "--show", "object"), 2, "'object' is not plan, ir or assembly"),
        ((*INSPECT, "--isa", "sse2"), 1, "error: isa is one of avx2, neon, or None for this machine; got 'sse2'"),
        ((*INSPECT, "--stride", "0"), 1, "error: stride"),
        (("inspect", "24x14x14"), 2, "Missing option '--kernel'"),
        (("inspect", "--kernel", "3"), 2, "Missing argument 'SIZE'"),
        (("bench", "--plot", "roofline.txt"), 1, "error: the plot goes to a file ending in"),
        (
            ("bench", "--plot", "no/such/folder.svg"),
            1,
            "error: cannot write no/such/folder.svg: the folder no/such does not exist",
        ),
        (("cache", "--size"), 2, "No such option: --size"),
        (("explain", "3xAx7", "--filters", "8", "--kernel", "3"), 2, "'3xAx7' is not numbers joined by x"),
        ((*EXPLAIN, "--padding", "much"), 2, "'much' is not 1, 1x2, 3:0 (before:after), same or valid"),
        (("explain", "3x7x7", "--kernel", "3"), 2, "missing: --filters; SIZE, --filters and --kernel go together"),
        ((*EXPLAIN[:-1], "9"), 1, "error: the kernel covers 9 pixels along the height"),
        (("explain", "7", "--filters", "8", "--kernel", "3"), 1, "error: input_size is (channels, *spatial)"),
        (("count", MODEL), 2, "needs the model's input, such as --input 3x224x224"),
        (("doctor", MODEL), 2, "needs the model's input"),
        (("count", "resnet", "--input", "3"), 1, "error: a model is timm:NAME or package.module:callable"),
        (
            ("count", "torch.nn:Conv3d", "--input", "3"),
            1,
            "error: torch.nn:Conv3d failed when called without arguments: TypeError",
        ),
        (("count", "depthwise.demo:nothing", "--input", "3"), 1, "has no attribute 'nothing'"),
        (("separate", MODEL), 2, "MODEL and --calibration go together"),
        (("separate", "--weights", "w.pt"), 2, "--weights are those of MODEL; without one the demo's network is taken"),
        (("separate", "--calibration", "math:pi"), 2, "without both, the demo's are taken"),
        (
            ("separate", "torch.nn:Identity", "--calibration", "images"),
            1,
            "error: a name is package.module:attribute; got 'images'",
        ),
        (
            ("separate", MODEL, "--calibration", "math:pi"),
            1,
            "error: depthwise.blocks:MobileNetV1Block failed when called without arguments: TypeError",
        ),
        (
            ("separate", "torch.nn:Identity", "--calibration", "math:pi"),
            1,
            "error: calibration is a tensor, a batch or an iterable of batches; got float",
        ),
        (
            ("separate", "torch.nn:Identity", "--calibration", "torch:relu"),
            1,
            "error: torch:relu failed when called without arguments: TypeError",
        ),
        (
            ("separate", MODEL, "--calibration", "math:pi", "--out", "weights.txt"),
            1,
            "error: the weights go to a file ending in .safetensors, .pt or .pth; got weights.txt",
        ),
        (
            ("separate", MODEL, "--calibration", "math:pi", "--report", "no/such/folder.html"),
            1,
            "error: cannot write no/such/folder.html: the folder no/such does not exist",
        ),
        (("nothing",), 2, "No such command 'nothing'"),
    ],
)
def test_messages_and_exit_codes(depthwise: Command, arguments: tuple[str, ...], code: int, message: str) -> None:
    ran = depthwise(*arguments)
    assert ran.code == code
    assert message in ran.err.replace("│ ", "")
    assert "Traceback" not in ran.err


# Each of them ended in a traceback, in words that are not ours, or after all the work.
ODD: list[tuple[str, int, str]] = [
    ("count torch.nn:Identity --input 3x9999999999x9999999999", 1, "more elements than a tensor"),
    (
        "count torch.nn:Identity --input 3x99999999999999999999x3",
        1,
        "error: input_size must be at most 9223",
    ),
    ("doctor torch.nn:Identity --input 9223372036854775807", 1, "more elements than a tensor"),
    ("count torch.nn:Identity --input 3x4000000000x4000000000:int64", 1, "more elements than a tensor"),
    ("count torch.nn:Identity --input 0:int64", 1, "error: input_size must be at least 1; got 0"),
    ("count torch.nn:Identity --input 3×9×9", 2, "is not numbers joined by x"),
    ("count torch.nn:Identity --input 1_0", 2, "is not numbers joined by x"),
    ("count torch.nn:Identity --input ３", 2, "is not numbers joined by x"),
    ("optimize torch.nn:Identity --input 3x99999999999999999999x3", 1, "error: input_size must be at most 9"),
    ("optimize torch.nn:Identity --input 3x4000000000x4000000000", 1, "more elements than a tensor"),
    ("optimize torch.nn:Identity --input 0x3", 1, "error: input_size must be at least 1; got 0"),
    ("optimize leaving:Model --input 3", 1, "error: the model's code ended the process: SystemExit: 3"),
    ("separate leaving:Model --calibration leaving:samples", 1, "SystemExit: 3"),
    ("count leaving:Model --input 3", 1, "error: the model (Model) failed; the model's input was (1, 3), batch first"),
    ("count leaving:lazy --input 3", 1, "error: leaving:lazy does not load: RuntimeError: one two"),
    ("inspect 64x56x56 --kernel 99999999999999999999999", 1, "error: kernel_size must be at most 9223"),
    (
        "inspect 99999999999999999999999x56x56 --kernel 3",
        1,
        "more elements than a tensor",
    ),
    ("inspect 64x4000000000x4000000000 --kernel 3", 1, "the input would have the sizes (1, 64, 4000000000"),
    ("inspect 64x56x56 --kernel 3 --filters 9223372036854775807", 1, "the output would have the sizes (1, 9223"),
    ("inspect 64x56x56 --kernel 3 --multiplier 9223372036854775807", 1, "error: the depthwise step's output"),
    ("inspect 64x56x56 --kernel 3 --padding 9223372036854775807", 1, "error: the depthwise step's output"),
    ("inspect 64x56x56 --kernel 3 --padding same --stride 9223372036854775807", 1, "error: a step of the stride"),
    (
        "inspect 64x56x56 --kernel 3 --padding 2000000000 --dilation 2000000000",
        1,
        "more elements than a tensor can have",
    ),
    (
        "inspect 1000000000x1 --kernel 1 --filters 9000000000",
        1,
        "the weight would have the sizes (1000000000, 9000000000)",
    ),
    ("explain 3x7x7 --filters 9 --kernel 3 --html .", 1, "error: cannot write .: it is a folder"),
    (
        "explain 3x7x7 --filters 9 --kernel 3 --svg /dev/full",
        1,
        "error: cannot write /dev/full: No space left on device",
    ),
    ("explain 3x7x7 --filters 9 --kernel 3 --svg no/x.svg", 1, "error: cannot write no/x.svg: the folder no does not"),
    (
        "explain 3x7x7 --filters 9 --kernel 3 --svg a.html --html a.html",
        2,
        "two results go to a.html; give each",
    ),
    ("demo --report .", 1, "error: cannot write .: it is a folder"),
    ("separate torch.nn:Identity --calibration math:pi --report .", 1, "error: cannot write .: it is a folder"),
    ("separate torch.nn:Identity --calibration math:pi --out no/x.pt", 1, "error: cannot write no/x.pt: the folder no"),
    ("count \udcff:net --input 3", 1, "does not load: ModuleNotFoundError"),
    ("inspect 64x56x56 --kernel 3 --isa \udcff", 1, "error: isa is one of"),
]


@pytest.mark.parametrize(("line", "code", "message"), ODD, ids=[ascii(line) for line, *_ in ODD])
def test_odd_command_lines(
    depthwise: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, code: int, message: str
) -> None:
    (tmp_path / "leaving.py").write_text(
        "import torch\nclass Model(torch.nn.Module):\n    def forward(self, x):\n        raise SystemExit(3)\n"
        "def samples():\n    return torch.zeros(8, 3)\n"
        "def __getattr__(name):\n    raise RuntimeError('one\\ntwo')\n"
    )
    monkeypatch.chdir(tmp_path)
    ran = depthwise(*line.split())
    assert ran.code == code
    assert message in ran.err.replace("│ ", "")
    assert "Traceback" not in ran.err
    assert {path.name for path in tmp_path.iterdir()} <= {"leaving.py", "__pycache__"}


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 38 bytes.")]
)
def test_a_memory_that_is_full_is_told(
    depthwise: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli, "load_model", fail)
    ran = depthwise("count", "torch.nn:Identity", "--input", "3")
    assert ran.code == 1
    assert ran.err.startswith(f"error: not enough memory: {type(error).__name__}")


def test_a_fault_of_ours_keeps_its_traceback(depthwise: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(cli, "load_model", fail)
    with pytest.raises(RuntimeError, match=r"^ours$"):
        depthwise("count", "torch.nn:Identity", "--input", "3")


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        line.replace("depthwise", f"{sys.executable} -m depthwise", 1),
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_result_that_cannot_be_written_is_told() -> None:
    done = shell(f"depthwise {' '.join(EXPLAIN)} > /dev/full")
    assert (done.returncode, done.stderr) == (1, "error: cannot write the result: No space left on device\n")
    done = shell(f"depthwise {' '.join(EXPLAIN)} --svg /dev/full")
    assert (done.returncode, done.stderr) == (1, "error: cannot write /dev/full: No space left on device\n")


@pytest.mark.skipif(os.name != "posix", reason="needs a shell with pipes")
def test_a_reader_that_has_enough_is_no_error() -> None:
    assert shell(f"depthwise {' '.join(EXPLAIN)} | true").stderr == ""


def test_what_the_terminal_has_no_letters_for_is_escaped(tmp_path: Path) -> None:
    done = shell(f"depthwise {' '.join(EXPLAIN)}", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "= 10,275" in done.stdout


def test_brackets_in_a_message_are_kept(depthwise: Command) -> None:
    assert (
        "error: a model is timm:NAME or package.module:callable; got '[bold]x'"
        in depthwise("count", "[bold]x", "--input", "3").err
    )


@pytest.mark.parametrize("command", ["explain", "count", "doctor", "separate", "demo", "bench", "inspect"])
def test_every_help_has_an_example(depthwise: Command, command: str) -> None:
    ran = depthwise(command, "--help")
    assert ran.code == 0
    assert f"depthwise {command}" in ran.out.partition("Examples")[2]


def test_no_arguments_shows_the_commands(depthwise: Command) -> None:
    assert "explain" in depthwise().out


@pytest.mark.parametrize("command", [["-m", "depthwise"], ["-c", "from depthwise.cli import main; main()"]])
def test_both_ways_to_start_it(command: list[str]) -> None:
    done = subprocess.run([sys.executable, *command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == "0.1.0\n"
