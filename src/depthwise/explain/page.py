"""The explanation as a page that stands alone: complete as it is, and interactive where its script runs."""

from __future__ import annotations

from base64 import b64encode
from html import escape

from ..geometry import Geometry
from ..page.document import document, source
from ..page.svg import number
from .arithmetic import headline
from .bundle import script
from .scenes import scenes
from .stage import WIDTH, Scene, Stage
from .times import Times
from .wording import COLUMNS, layer_words, lit, pixel_words, titles

# The scenes, and what leads to each.
NAMES = {"dense": "dense", "depthwise": "depthwise", "pointwise": "pointwise", "both": "side by side"}

LEAD = f"""A convolution slides a small {lit("kernel_size", "kernel")} over an image and writes down a weighted sum at
every place. An ordinary, <em>dense</em> one looks at {lit("in_channels", "all channels")} at once, and does so anew for
each of its {lit("out_channels", "filters")}. A <em>depthwise separable</em> one takes two cheaper steps: first each
channel is filtered by itself, then the channels are mixed, pixel by pixel."""


def svg(g: Geometry) -> str:
    """The four scenes as one picture with a style of its own."""
    drawn, heads = scenes(Stage.of(g)), list(titles(g).values())
    parts, y, wide = [], 0.0, 2 * WIDTH + 40
    for row in (0, 2):
        for column, (scene, title) in enumerate(zip(drawn[row : row + 2], heads[row : row + 2], strict=True)):
            at = f"translate({column * (WIDTH + 40)} {number(y)})"
            head = f'<text class="head" x="8" y="20">{title}</text>'
            parts.append(f'<g transform="{at}">{head}<g transform="translate(0 36)">{scene.content}</g></g>')
        y += max(scene.height for scene in drawn[row : row + 2]) + 60
    style = f"<style>{source('explain', 'web', 'picture.css')}</style>"
    about = f"<title>{headline(g)}: dense and depthwise separable</title><desc>{drawn[3].label}</desc>"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="picture" viewBox="0 0 {wide} {number(y)}" width="{wide}" '
        f'height="{number(y)}" role="img">{about}{style}<rect fill="var(--paper)" width="100%" height="100%"/>'
        f"{''.join(parts)}</svg>"
    )


def html(g: Geometry, note: str = "", times: Times | None = None) -> str:
    """The whole page."""
    stage = Stage.of(g)
    words = layer_words(g) | pixel_words(stage)
    read = f'<p class="note" data-own>{escape(note)}</p>' if note else ""
    body = f"""<header>
<h1>What a depthwise separable convolution does, and what it saves</h1>
<p>{LEAD}</p>
<h2 class="headline">{_out(words, "headline")}</h2>{read}
<dl class="cards">
<div><dt>dense</dt><dd><strong>{_out(words, "total_dense")}</strong> multiplications</dd></div>
<div><dt>separable</dt><dd><strong>{_out(words, "total_separable")}</strong> {_out(words, "total_steps")}</dd></div>
<div><dt>that is</dt><dd><strong>{_out(words, "share")}</strong> {_out(words, "verdict")}</dd></div>
</dl>
</header>
<nav class="steps" aria-label="scenes">{_links()}</nav>
<div class="layout">
<main>
{"".join(_section(index, scene, words) for index, scene in enumerate(scenes(stage)))}
{_code(words)}
{_counts(words, times)}
</main>
{source("explain", "web", "fields.html")}</div>
{source("explain", "web", "player.html")}"""
    css = source("explain", "web", "picture.css") + source("explain", "web", "page.css")
    return document(f"{headline(g)}: dense and separable", body, css=css, script=script(g))


def notebook(g: Geometry, page: str, picture: str) -> str:
    """The page in a frame; where a notebook that is not trusted drops the frame, picture and table stay."""
    image = b64encode(picture.encode()).decode()
    alternative = escape(f"{headline(g)}: {scenes(Stage.of(g))[3].label}")
    frame = (
        f'<iframe title="{escape(headline(g))}" sandbox="allow-scripts" srcdoc="{escape(page)}" '
        'style="width: 100%; height: 760px; border: 0"></iframe>'
    )
    still = (
        f'<img alt="{alternative}" src="data:image/svg+xml;base64,{image}" style="width: 100%">{_table(layer_words(g))}'
    )
    return (
        "<style>.depthwise-explain iframe + .depthwise-still { display: none }</style>"
        f'<div class="depthwise-explain">{frame}<div class="depthwise-still">{still}</div></div>'
    )


def _out(words: dict[str, str], key: str, name: str = "span") -> str:
    return f'<{name} data-out="{key}">{words[key]}</{name}>'


def _links() -> str:
    return "".join(
        f'<a href="#scene-{number}">{number}. {name}</a>' for number, name in enumerate(NAMES.values(), start=1)
    )


def titled_pictures(g: Geometry) -> list[tuple[str, str]]:
    """Each scene's title and its picture, to stand in a page that has the pictures' style."""
    drawn = zip(titles(g).values(), NAMES, scenes(Stage.of(g)), strict=True)
    return [(title, _picture(name, scene)) for title, name, scene in drawn]


def _picture(name: str, scene: Scene) -> str:
    return (
        f'<svg class="picture" data-scene="{name}" viewBox="0 0 {WIDTH} {number(scene.height)}" role="img" '
        f'aria-label="{scene.label}">{scene.content}</svg>'
    )


def _section(index: int, scene: Scene, words: dict[str, str]) -> str:
    name = list(NAMES)[index]
    picture = _picture(name, scene)
    prose = {
        "both": f'<p>{_out(words, "say_saved")}</p><p class="formula">{CLOSED}<br>= {_out(words, "closed")}</p>'
        f"<p>{_out(words, 'say_lost')}</p>",
    }.get(name) or f'<p>{_out(words, f"say_{name}")}</p><p class="formula">{_out(words, f"formula_{name}")}</p>'
    return f"""<section class="scene" id="scene-{index + 1}" aria-labelledby="title-{index + 1}">
<h2 id="title-{index + 1}" data-out="title_{name}">{words[f"title_{name}"]}</h2>
<div class="pair"><figure><div class="stage">{picture}</div>
<figcaption class="said">{_out(words, f"now_{name}")}</figcaption></figure>
<div>{prose}{'<p class="note">' + _out(words, "say_drawn") + "</p>" if index == 0 else ""}</div></div>
</section>
"""


CLOSED = (
    f"separable ÷ dense = {lit('depth_multiplier', 'depth_multiplier')}·<wbr>"
    f"(1/{lit('out_channels', 'out_channels')} + 1/{lit('kernel_size', 'kernel area')})"
)


def _code(words: dict[str, str]) -> str:
    blocks = (
        ("code_dense", "Dense, in PyTorch"),
        ("code_separable", "Depthwise separable, in PyTorch"),
        ("code_ours", "The same in one line, with depthwise"),
        ("code_command", "This page, from the command line"),
    )
    written = "".join(
        f'<div class="code"><h3>{title}</h3></div><pre tabindex="0" role="region" aria-label="{title}">'
        f'<code data-out="{key}">{words[key]}</code></pre>'
        for key, title in blocks
    )
    return f'<section id="code"><h2>Code to copy</h2>{written}</section>'


def _counts(words: dict[str, str], times: Times | None) -> str:
    return f"""<section id="counts"><h2>What it costs</h2>
<p>For one input; sizes are (channels, {_out(words, "axes")}). Bytes are those of float32 numbers, each input,
weight and output once; between the two steps the separable form writes and reads its intermediate.</p>
{_table(words)}
<h3>The size of the output</h3><ul data-out="sizes">{words["sizes"]}</ul></section>
{_times(times) if times else ""}"""


def _table(words: dict[str, str]) -> str:
    head = "".join(f'<th scope="col">{column}</th>' for column in ("step", *COLUMNS))
    return f'<table class="folds"><thead><tr>{head}</tr></thead><tbody data-out="rows">{words["rows"]}</tbody></table>'


def _times(times: Times) -> str:
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td data-label="microseconds">{cell}</td>'
        f'<td data-label="speed-up">{speedup}</td><td data-label="promise kept">{kept}</td></tr>'
        for name, cell, speedup, kept in times.rows()
    )
    return f"""<section id="times"><h2>Measured here: {escape(times.layer)}</h2>
<p>{escape(times.how)}. The arithmetic promises {times.promised}: promise kept is the measured speed-up over that.</p>
<table class="folds"><thead><tr><th scope="col">way</th><th scope="col">microseconds</th><th scope="col">speed-up</th>
<th scope="col">promise kept</th></tr></thead><tbody>{rows}</tbody></table>
<p class="note">{escape(times.machine)}</p></section>"""
