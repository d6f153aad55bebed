"""The page's script: the modules of web/ in one, so that nothing is loaded and nobody needs a build."""

from __future__ import annotations

import json
import re

from ..geometry import Geometry
from ..page.document import source
from .snippets import joined, pairs

# A module stands after those it imports.
MODULES = (
    "layer.js",
    "values.js",
    "cells.js",
    "stage.js",
    "comparison.js",
    "scenes.js",
    "wording.js",
    "player.js",
    "page.js",
)


def script(g: Geometry) -> str:
    """All modules, and the call that starts the page with the fields of `g`."""
    return f"{modules()}start({json.dumps(fields(g))});\n"


def modules() -> str:
    """All modules in one scope, in which nothing is called yet."""
    return "".join(_plain(source("explain", "web", name)) for name in MODULES)


def fields(g: Geometry) -> dict[str, str]:
    """What stands in the page's fields for `g`, as the command line takes it.

    >>> from depthwise.geometry import geometry
    >>> fields(geometry((3, 7, 7), 3, padding=1, out_channels=8))["padding"]
    '1'
    """
    even = all(before == after for before, after in g.padding)
    return {
        "channels": str(g.in_channels),
        "size": "x".join(map(str, g.input_size[1:])),
        "filters": str(g.output_size[0]),
        "kernel": joined(g.kernel_size),
        "stride": joined(g.stride),
        "padding": joined([before for before, _ in g.padding]) if even else pairs(g.padding),
        "dilation": joined(g.dilation),
        "multiplier": str(g.depth_multiplier),
    }


def _plain(module: str) -> str:
    """A module's code without imports, exports and types: all of it shares one scope."""
    without = re.sub(r"^import [^;]*;\n|/\*\*.*?\*/\s?", "", module, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^export ", "", without, flags=re.MULTILINE)
