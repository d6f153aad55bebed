"""The page around a report: one file that loads nothing from anywhere."""

from __future__ import annotations

from html import escape
from importlib.resources import files


def document(title: str, body: str, *, css: str = "", script: str = "") -> str:
    """A whole page with the style of all reports, `css` of its own, and a script where it has one."""
    run = f'<script type="module">\n{script}</script>\n' if script else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{source("page", "report.css")}{css}</style>
</head>
<body>
{body}
{run}</body>
</html>
"""


def source(room: str, *path: str) -> str:
    """The text of a file that lies in the package, beside the code of `room`."""
    return files("depthwise").joinpath(room, *path).read_text(encoding="utf-8")
