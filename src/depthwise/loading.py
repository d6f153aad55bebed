"""A model from its name on the command line: `timm:mobilenetv2_100` or `package.module:callable`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from .errors import DepthwiseError


def load_model(name: str) -> nn.Module:
    """The model called `name`, with random weights where it is built here.

    name: "timm:NAME" for a model of timm, or "package.module:attribute" for a torch.nn.Module, or for a class or
          function that makes one when called without arguments; modules of the current folder are found

    >>> load_model("torch.nn:Identity")
    Identity()
    """
    place, colon, attribute = name.partition(":")
    if not (place and colon and attribute) or place.startswith("."):
        raise DepthwiseError(f"a model is timm:NAME or package.module:callable; got {name!r}")
    if place == "timm":
        return _timm_model(attribute)
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
    return _attribute(_imported(place, name), attribute, name)


def called(make: Callable[[], Any], name: str) -> Any:
    """What `make`, loaded as `name`, gives."""
    # The user's code may raise anything, here and when it is imported.
    try:
        return make()
    except (Exception, SystemExit) as error:
        raise DepthwiseError(f"{name} raised {type(error).__name__} when called without arguments: {error}") from error


def _timm_model(name: str) -> nn.Module:
    timm = _imported("timm", f"timm:{name}")
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        hint = f"; close: {', '.join(close)}" if close else ""
        raise DepthwiseError(f"timm has no model {name!r}{hint}")
    model: nn.Module = timm.create_model(name, pretrained=False)
    return model


def _imported(module: str, name: str) -> Any:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        top = module.partition(".")[0]
        advice = ""
        if isinstance(error, ModuleNotFoundError) and error.name == top:
            advice = f"; pip install {top}, or run this from its folder"
        elif "torchvision::" in str(error):
            advice = "; the torchvision here was not built for the torch here: install the pair that belongs together"
        raise DepthwiseError(f"{name} does not load: {type(error).__name__}: {error}{advice}") from error
    finally:
        sys.path.remove(folder)


def _attribute(module: Any, path: str, name: str) -> Any:
    found = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise DepthwiseError(f"{name} does not load: {error}") from error
    return found
