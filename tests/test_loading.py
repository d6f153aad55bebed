"""Models by name, and what is said when one does not load."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from depthwise import DepthwiseError
from depthwise.loading import load_model, load_object
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
def __getattr__(name):
    if name == "lazy":
        raise RuntimeError("first line\\nsecond line")
    raise AttributeError(f"module 'made_here' has no attribute {name!r}")
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
        ("made_here:leaves", "made_here:leaves failed when called without arguments: SystemExit: 3"),
        (":build", "got ':build'"),
        ("not_there:build", "not_there:build does not load: ModuleNotFoundError: .*; pip install not_there, or run"),
        ("half_done:build", "half_done:build does not load: ModuleNotFoundError: No module named 'not_installed_any"),
        (
            "made_here:nothing",
            "made_here:nothing does not load: AttributeError: module 'made_here' has no attribute 'nothing'",
        ),
        ("made_here:lazy", "made_here:lazy does not load: RuntimeError: first line second line"),
        ("m ade:here", "m ade:here does not load: ModuleNotFoundError: No module named 'm ade'$"),
        ("\udcff:build", "does not load: ModuleNotFoundError"),
        ("made_here:number", "made_here:number is of type int; expected a torch.nn.Module or a callable making one"),
        ("made_here:text", r"made_here:text\(\) made a str; expected a torch.nn.Module"),
        ("made_here:broken", "made_here:broken failed when called without arguments: KeyError: 'weights'"),
        ("made_here:needs", "made_here:needs failed when called without arguments: TypeError: .*width"),
    ],
)
def test_what_does_not_load(name: str, message: str) -> None:
    with pytest.raises(DepthwiseError, match=message):
        load_model(name)


TIMM = """
from torch import nn
def is_model(name):
    return name.startswith("res")
def list_models(pattern):
    return ["resnet18"]
def create_model(name, pretrained):
    if pretrained:
        return nn.ReLU()
    if "." in name:
        raise RuntimeError(f"Invalid pretrained tag ({name})")
    return nn.Identity()
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A timm that is installed, and a folder beside it."""
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "timm.py").write_text(TIMM)
    (tmp_path / "here").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "here"
    sys.modules.pop("timm", None)


@pytest.mark.parametrize("place", ["", ".", "full"])
def test_timm_is_never_of_the_current_folder(stand_in: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    (stand_in / "timm.py").write_text("raise SystemExit('code of the current folder ran')\n")
    # As `python -m` and PYTHONPATH put it there.
    monkeypatch.setattr(sys, "path", [str(stand_in) if place == "full" else place, *sys.path])
    before = list(sys.path)
    assert isinstance(load_model("timm:resnet18"), nn.Identity)
    assert sys.path == before
    sys.modules.pop("timm")
    with pytest.raises(DepthwiseError, match="code of the current folder ran"):
        load_object("timm:anything")


@pytest.mark.usefixtures("stand_in")
def test_what_timm_says_is_told_in_one_line() -> None:
    with pytest.raises(DepthwiseError, match=r"timm:resnet18\.none does not load: RuntimeError: Invalid"):
        load_model("timm:resnet18.none")
    with pytest.raises(DepthwiseError, match=r"timm has no model 'vgg'; close: resnet18"):
        load_model("timm:vgg")


@pytest.mark.usefixtures("stand_in")
def test_timm_with_its_weights() -> None:
    assert isinstance(load_model("timm:resnet18?pretrained"), nn.ReLU)
    for wrong in ("resnet18?", "resnet18?pretrain", "resnet18?pretrained?pretrained"):
        with pytest.raises(DepthwiseError, match=r"a model of timm is timm:NAME or timm:NAME\?pretrained; got"):
            load_model(f"timm:{wrong}")


def wrapped(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What trainers save, by what they call it."""
    parallel = {f"module.{key}": value for key, value in state.items()}
    return {
        "plain": state,
        "state_dict": {"state_dict": state, "epoch": 3},
        "model": {"model": state, "optimizer": {"lr": 0.1}},
        "model_state_dict": {"model_state_dict": state},
        "of DataParallel": parallel,
    }


@pytest.mark.parametrize("kind", list(wrapped({})))
def test_weights_of_torch_save(folder: Path, kind: str) -> None:
    state = nn.Linear(4, 5).state_dict()
    torch.save(wrapped(state)[kind], folder / "weights.pt")
    model = load_model("made_here:build", folder / "weights.pt")
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_weights_of_safetensors(folder: Path) -> None:
    state = nn.Linear(4, 5).state_dict()
    save_file(state, folder / "weights.safetensors")
    model = load_model("made_here:build", folder / "weights.safetensors")
    assert torch.equal(model.state_dict()["weight"], state["weight"])


class Runs:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('code in a file ran')",)


NOT_READ, NO_STATE, NO_FIT = (
    "is no file of weights alone: expected",
    "holds no state dict: expected",
    "do not fit made_here",
)
WRONG: list[tuple[str, Any, str]] = [
    *((suffix, b"", NOT_READ) for suffix in (".pt", ".safetensors")),
    *((suffix, b"#!/bin/sh\n" * 100, NOT_READ) for suffix in (".pt", ".safetensors")),
    (".pt", b"PK\x03\x04" + bytes(100), NOT_READ),
    (".pt", b"\x80\x02" + bytes(100), NOT_READ),
    (".pt", Runs(), NOT_READ),
    (".pt", [1, 2], NO_STATE),
    (".pt", {"epoch": 3}, NO_STATE),
    (".pt", {"state_dict": {"weight": 3}}, NO_STATE),
    *((suffix, {"weight": torch.zeros(3, 3)}, f"{NO_FIT}.*size mismatch") for suffix in (".pt", ".safetensors")),
    (".pt", {"other": torch.zeros(3)}, f"{NO_FIT}.*Missing key"),
]


@pytest.mark.parametrize(("suffix", "content", "message"), WRONG)
def test_weights_that_are_none(folder: Path, suffix: str, content: Any, message: str) -> None:
    path = folder / f"weights{suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif suffix == ".pt":
        torch.save(content, path)
    else:
        save_file(content, path)
    with pytest.raises(DepthwiseError, match=message) as told:
        load_model("made_here:build", path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["none.pt", "none.safetensors", "."])
def test_weights_that_are_not_there(folder: Path, name: str) -> None:
    with pytest.raises(DepthwiseError, match=r"cannot read .*: (No such file or directory|Is a directory)"):
        load_model("made_here:build", folder / name)


def test_where_the_current_folder_is_gone(stand_in: Path) -> None:
    stand_in.rmdir()
    assert isinstance(load_model("torch.nn:Identity"), nn.Identity)
    assert isinstance(load_model("timm:resnet18"), nn.Identity)


def test_what_an_import_adds_to_the_path_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "adds.py").write_text("import sys\nsys.path.insert(0, '/added/by/adds')\nnumber = 3\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    assert load_object("adds:number") == 3
    assert sys.path == [*before, "/added/by/adds"]


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(DepthwiseError, match="timm:resnet18 does not load: ModuleNotFoundError"):
        load_model("timm:resnet18")


def test_a_torchvision_for_another_torch_is_told(folder: Path) -> None:
    (folder / "sees_no_nms.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    with pytest.raises(DepthwiseError, match="torchvision here was not built for the torch here: install the pair"):
        load_model("sees_no_nms:build")
