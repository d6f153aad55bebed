"""Models by name, and what is said when one does not load."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from depthwise import DepthwiseError
from depthwise.loading import load_model
from tests.support.networks import timm_model

MODULE = """
from torch import nn
ready = nn.Linear(2, 3)
number = 7
class Zoo:
    small = nn.ReLU
def build():
    return nn.Linear(4, 5)
def text():
    return "not a model"
def broken():
    raise KeyError("weights")
def leaves():
    raise SystemExit(3)
def needs(width):
    return nn.Linear(width, width)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "made_here.py").write_text(MODULE)
    (tmp_path / "half_done.py").write_text("import not_installed_anywhere\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("made_here:ready", nn.Linear),
        ("made_here:build", nn.Linear),
        ("made_here:Zoo.small", nn.ReLU),
        ("torch.nn:Identity", nn.Identity),
    ],
)
def test_modules_of_the_current_folder_and_of_packages(name: str, kind: type) -> None:
    assert isinstance(load_model(name), kind)


def test_timm() -> None:
    timm_model("resnet18")
    assert type(load_model("timm:mobilenetv2_100")).__name__ == "EfficientNet"
    with pytest.raises(DepthwiseError, match=r"timm has no model 'mobilenet_9'; close: "):
        load_model("timm:mobilenet_9")
    with pytest.raises(DepthwiseError, match=r"timm has no model 'qqqqq'$"):
        load_model("timm:qqqqq")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet", "a model is timm:NAME or package.module:callable; got 'resnet'"),
        (".mm:build", "a model is timm:NAME or package.module:callable; got '.mm:build'"),
        ("made_here:leaves", "made_here:leaves raised SystemExit when called without arguments: 3"),
        (":build", "got ':build'"),
        ("not_there:build", "not_there:build does not load: ModuleNotFoundError: .*; pip install not_there, or run"),
        ("half_done:build", "half_done:build does not load: ModuleNotFoundError: No module named 'not_installed_any"),
        ("made_here:nothing", "made_here:nothing does not load: module 'made_here' has no attribute 'nothing'"),
        ("made_here:number", "made_here:number is of type int; expected a torch.nn.Module or a callable making one"),
        ("made_here:text", r"made_here:text\(\) made a str; expected a torch.nn.Module"),
        ("made_here:broken", "made_here:broken raised KeyError when called without arguments: 'weights'"),
        ("made_here:needs", "made_here:needs raised TypeError when called without arguments: .*width"),
    ],
)
def test_what_does_not_load(name: str, message: str) -> None:
    with pytest.raises(DepthwiseError, match=message):
        load_model(name)


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(DepthwiseError, match="timm:resnet18 does not load: ModuleNotFoundError"):
        load_model("timm:resnet18")


def test_a_torchvision_for_another_torch_is_told(folder: Path) -> None:
    (folder / "sees_no_nms.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    with pytest.raises(DepthwiseError, match="torchvision here was not built for the torch here: install the pair"):
        load_model("sees_no_nms:build")
