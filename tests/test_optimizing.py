"""The command `depthwise optimize`: what it prints, times and writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from depthwise import DepthwiseError, SeparableConv2d, cli, load_optimized
from depthwise.measure.turns import Effort
from depthwise.optimizing import _examples, compared, reach, run

QUICK = Effort(rounds=2, sample_seconds=0, limit_seconds=0)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = SeparableConv2d(3, 4, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": self.layer(x), "sum": y + 1}


def test_everything_it_does(tmp_path: Path) -> None:
    model, network, page = Two(), tmp_path / "net.safetensors", tmp_path / "net.html"
    result = run(model, [(3, 9, 9), (5,)], compare=True, save=network, page=page, effort=QUICK)
    assert result.report.convolutions == (2, 2)
    assert result.comparison is not None
    assert result.comparison.difference < 1e-5 < result.comparison.largest
    assert list(result.comparison.milliseconds) == ["as it is", "optimized"]
    assert result.lines()[0].startswith("batch 1, 1 threads: as it is ")
    assert result.files == (str(network), str(page))
    assert "What runs where" in page.read_text()
    x, y = torch.randn(2, 3, 8, 8), torch.randn(2, 5)
    torch.testing.assert_close(load_optimized(network)(x, y), model(x, y))
    content = json.loads(json.dumps(result.to_dict()))
    assert content["report"]["convolutions"] == {"ours": 2, "all": 2}
    assert content["comparison"]["difference"] == result.comparison.difference
    assert len(content["profile"]["timings"]) == len(result.report.layers)


def test_only_what_is_asked(tmp_path: Path) -> None:
    result = run(nn.Conv2d(3, 4, 3), [(3, 9, 9)])
    assert (result.comparison, result.profile, result.files, result.lines()) == (None, None, (), [])
    assert result.to_dict()["comparison"] is None
    for place in ({"save": tmp_path / "no" / "net"}, {"page": tmp_path / "no" / "page.html"}):
        with pytest.raises(DepthwiseError, match=r"cannot write .*: the folder .* does not exist"):
            run(nn.Identity(), [(3,)], **place)  # type: ignore[arg-type]


def test_a_wrong_network_shows() -> None:
    model = nn.Conv2d(3, 4, 3)
    found = run.__globals__["optimize"](nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 9, 9))
    assert compared(model, found, (torch.randn(1, 3, 9, 9),), QUICK).difference > 1e-2


def test_no_two_inputs_are_alike() -> None:
    first, second = _examples(((3, 9, 9), (3, 9, 9)))
    assert not torch.equal(first, second)
    assert torch.equal(_examples({"x": (3, 9, 9)})["x"], first)


def test_how_far_it_reaches() -> None:
    assert reach(nn.Conv2d(3, 4, 3), (3, 9, 9)).endswith("1 of 1 do.")
    assert reach(nn.ReLU(), (3,)).endswith("no convolutions; 1 of 1 operators on our kernels.")


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "made_for_optimize.py").write_text("from torch import nn\nnet = nn.Conv2d(3, 3, 3, groups=3)\n")
    monkeypatch.chdir(tmp_path)

    def depthwise(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["depthwise", "optimize", "made_for_optimize:net", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code in (0, None)
        return capsys.readouterr().out

    assert "1 of 1 convolutions on our kernels, 1 segment" in depthwise("--input", "3x9x9")
    content = json.loads(depthwise("--input", "3x9x9", "--json", "--save", "net.safetensors"))
    assert content["files"] == ["net.safetensors"]
    assert Path("net.safetensors").is_file()
