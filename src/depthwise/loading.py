"""A model from its name on the command line: `timm:mobilenetv2_100` or `package.module:callable`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeGuard

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .errors import DepthwiseError, said


def load_model(name: str, weights: Path | None = None) -> nn.Module:
    """The model called `name`, with random weights where it is built here and nothing else is said.

    name:    "timm:NAME" for a model of timm, "timm:NAME?pretrained" with the weights that timm has for it; or
             "package.module:attribute" for a torch.nn.Module, or for a class or function that makes one when called
             without arguments; modules of the current folder are found, but timm never is one of them
    weights: a file with a state dict for it, as torch.save or safetensors write it

    >>> load_model("torch.nn:Identity")
    Identity()
    """
    model = _built(name)
    if weights is not None:
        _load_weights(model, name, weights)
    return model


def is_untrained(name: str) -> bool:
    """Whether a model of this name comes with random weights for sure.

    >>> is_untrained("timm:resnet18"), is_untrained("timm:resnet18?pretrained"), is_untrained("mine:model")
    (True, False, False)
    """
    return name.startswith("timm:") and not name.endswith(PRETRAINED)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a file; nothing else in it is looked at, and no code of it runs."""
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    except OSError as error:
        raise DepthwiseError(f"cannot read {path}: {error.strerror or said(error)}") from error
    # A file that is something else may fail anywhere.
    except Exception as error:
        raise DepthwiseError(f"{path} is no file of weights alone: {_HOW}; {type(error).__name__}") from error
    # Trainers save more beside it.
    inner = [content] if not isinstance(content, dict) else [content, *(content.get(key) for key in _PLACES)]
    found = next((each for each in inner if _is_state_dict(each)), None)
    if found is None:
        raise DepthwiseError(f"{path} holds no state dict: {_HOW}")
    return {str(key).removeprefix("module."): value for key, value in found.items()}


PRETRAINED = "?pretrained"
_PLACES = ("state_dict", "model_state_dict", "model")
_HOW = "expected what torch.save(model.state_dict(), ...) or safetensors write"


def _read_safetensors(path: Path) -> Any:
    path.open("rb").close()
    return load_file(path)


def _read_pickle(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _is_state_dict(value: object) -> TypeGuard[dict[str, Tensor]]:
    return isinstance(value, dict) and bool(value) and all(isinstance(each, Tensor) for each in value.values())


def _load_weights(model: nn.Module, name: str, path: Path) -> None:
    state = read_weights(path)
    # Missing keys, other shapes, and what hooks of the user's modules raise.
    try:
        model.load_state_dict(state)
    except Exception as error:
        raise DepthwiseError(f"the weights in {path} do not fit {name}: {shorten(said(error), 600)}") from error


def _built(name: str) -> nn.Module:
    place, colon, attribute = name.partition(":")
    if not (place and colon and attribute) or place.startswith("."):
        raise DepthwiseError(f"a model is timm:NAME or package.module:callable; got {name!r}")
    if place == "timm":
        with _without_current_folder():
            return _timm_model(attribute)
    with _with_current_folder():
        found = _attribute(_imported(place, name), attribute, name)
        if isinstance(found, nn.Module):
            return found
        if not callable(found):
            raise DepthwiseError(
                f"{name} is of type {type(found).__name__}; expected a torch.nn.Module or a callable making one"
            )
        model = called(found, name)
    if not isinstance(model, nn.Module):
        raise DepthwiseError(f"{name}() made a {type(model).__name__}; expected a torch.nn.Module")
    return model


def load_object(name: str) -> Any:
    """Whatever is called "package.module:attribute"; modules of the current folder are found.

    >>> load_object("math:pi")
    3.141592653589793
    """
    place, colon, attribute = name.partition(":")
    if not (place and colon and attribute) or place.startswith("."):
        raise DepthwiseError(f"a name is package.module:attribute; got {name!r}")
    with _with_current_folder():
        return _attribute(_imported(place, name), attribute, name)


def called(make: Callable[[], Any], name: str) -> Any:
    """What `make`, loaded as `name`, gives."""
    # The user's code may raise anything, here and when it is imported.
    try:
        return make()
    except (Exception, SystemExit) as error:
        raise DepthwiseError(f"{name} failed when called without arguments: {said(error)}") from error


def _timm_model(asked: str) -> nn.Module:
    name, _, option = asked.partition("?")
    if asked not in (name, name + PRETRAINED):
        raise DepthwiseError(f"a model of timm is timm:NAME or timm:NAME{PRETRAINED}; got 'timm:{asked}'")
    timm = _imported("timm", f"timm:{name}")
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        hint = f"; close: {', '.join(close)}" if close else ""
        raise DepthwiseError(f"timm has no model {name!r}{hint}")
    # A name may have a tag that timm does not know, or a part that is not installed; weights come from the network.
    try:
        model: nn.Module = timm.create_model(name, pretrained=bool(option))
    except Exception as error:
        raise DepthwiseError(f"timm:{asked} does not load: {said(error)}") from error
    return model


def _imported(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        top = module.partition(".")[0]
        advice = ""
        if isinstance(error, ModuleNotFoundError) and error.name == top and top.isidentifier():
            advice = f"; pip install {top}" + ("" if top == "timm" else ", or run this from its folder")
        elif "torchvision::" in str(error):
            advice = "; the torchvision here was not built for the torch here: install the pair that belongs together"
        raise DepthwiseError(f"{name} does not load: {said(error)}{advice}") from error


@contextmanager
def _with_current_folder() -> Iterator[None]:
    """Find modules of the current folder, before all others, as Python does for a script there."""
    here = _current_folder()
    with _path([*([] if here is None else [here]), *sys.path]):
        yield


@contextmanager
def _without_current_folder() -> Iterator[None]:
    """Find no module of the current folder, though `python -m` or PYTHONPATH would."""
    here = _current_folder()
    with _path([place for place in sys.path if place and os.path.realpath(place) != here]):
        yield


@contextmanager
def _path(places: list[str]) -> Iterator[None]:
    before = list(sys.path)
    sys.path[:] = places
    try:
        yield
    finally:
        # What an import added itself stays.
        sys.path[:] = [*before, *(place for place in sys.path if place not in {*before, *places})]


def _current_folder() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return None


def _attribute(module: Any, path: str, name: str) -> Any:
    found = module
    for part in path.split("."):
        # A module may compute its attributes, and fail as it likes.
        try:
            found = getattr(found, part)
        except Exception as error:
            raise DepthwiseError(f"{name} does not load: {said(error)}") from error
    return found
