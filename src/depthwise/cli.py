"""The command line; `depthwise --help` lists it. Exit codes: 0 done, 1 failed, 2 misused."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from torch import nn
from typer.core import TyperGroup

from .arguments import inputs_given, parse_input, parse_padding, parse_size, plain_sizes
from .errors import DepthwiseError, said
from .files import check_writable, write_text
from .loading import is_untrained, load_model
from .version import __version__

if TYPE_CHECKING:
    from .bench.training.rows import TrainingResult

# Results go to standard output; progress and errors do not mix with them.
stdout, stderr = Console(), Console(stderr=True)


class Commands(TyperGroup):
    """The commands: code of a model's that would end the process without a word ends in an error."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SystemExit as error:
            raise DepthwiseError(f"the model's code ended the process: {said(error)}") from error


app = typer.Typer(
    name="depthwise",
    cls=Commands,
    help="Depthwise separable convolutions: what they cost, what runs them, what they deliver.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


Size = Annotated[Any, typer.Argument(metavar="SIZE", parser=parse_size, help="Input, channels first: 3x224x224.")]
PER_AXIS: dict[str, Any] = {"metavar": "N", "parser": parse_size}
MODEL_HELP = (
    "timm:NAME or package.module:callable, which is imported and called; the current folder is looked in first."
)
Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
OptionalModel = Annotated[str | None, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Inputs = Annotated[
    list[Any] | None,
    typer.Option(
        "--input",
        metavar="SIZE",
        parser=parse_input,
        help="Input without its batch; once for each; NAME=SIZE for a keyword, SIZE:int64 for another dtype.",
    ),
]


@app.callback(invoke_without_command=True)
def options(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Depthwise separable convolutions: what they cost, what runs them, what they deliver."""
    if show_version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def explain(
    size: Annotated[
        Any,
        typer.Argument(metavar="SIZE", parser=parse_size, help="Input, channels first: 3x224x224.", show_default=False),
    ] = None,
    filters: Annotated[int | None, typer.Option(help="Output channels.")] = None,
    kernel: Annotated[Any, typer.Option(help="Kernel size: 3, or 3x5.", **PER_AXIS)] = None,
    stride: Annotated[Any, typer.Option(help="Stride: 2, or 2x1.", **PER_AXIS)] = "1",
    padding: Annotated[
        Any, typer.Option(metavar="P", parser=parse_padding, help="1, 1x2, 3:0 (before:after), same or valid.")
    ] = "0",
    dilation: Annotated[Any, typer.Option(help="Dilation: 2, or 2x1.", **PER_AXIS)] = "1",
    multiplier: Annotated[int, typer.Option(help="Depth multiplier: filters per input channel.")] = 1,
    time: Annotated[
        bool, typer.Option("--time", help="Time it on this machine: dense, PyTorch's separable, ours.")
    ] = False,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the picture.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page that needs no network.")] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    as_json: Json = False,
) -> None:
    """Show the arithmetic of a convolution, dense and separable; without SIZE, of 3x7x7 and 128 filters of 3x3.

    [bold]Examples[/bold]

    depthwise explain --open

    depthwise explain 3x7x7 --filters 128 --kernel 3

    depthwise explain 32x112x112 --filters 64 --kernel 3 --stride 2 --padding same --time --html page.html
    """
    from .explain import explain as explained

    if size is None and filters is None and kernel is None:
        size, filters, kernel = (3, 7, 7), 128, (3,)
    for name, value in (("SIZE", size), ("--filters", filters), ("--kernel", kernel)):
        if value is None:
            raise typer.BadParameter(f"missing: {name}; SIZE, --filters and --kernel go together")
    if svg is not None and svg == html:
        raise typer.BadParameter(f"two results go to {svg}; give each a file of its own")
    for path in (svg, html):
        if path is not None:
            check_writable(path)
    result = explained(size, filters or 0, kernel, stride, padding, dilation, depth_multiplier=multiplier)
    if time:
        from .bench.layer import layer_times

        with _working("timing the layer"):
            result = replace(result, times=layer_times(result.geometry))
    typer.echo(json.dumps(result.to_dict(), indent=2) if as_json else result.text)
    _write(svg, result.svg)
    _write(html, result.html)
    if open_page:
        _open(html, result.html)


@app.command()
def count(
    model: Model,
    inputs: Inputs = None,
    backward: Annotated[
        bool, typer.Option("--backward", help="Count what a training step's gradients multiply too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Count what a model costs, operator by operator, without running it.

    [bold]Examples[/bold]

    depthwise count timm:mobilenetv2_100 --input 3x224x224

    depthwise count my_package.networks:build --input 3x64x64 --input 10 --json

    depthwise count my_package.networks:encoder --input tokens=128:int64 --backward
    """
    from .count import count as counted

    sizes = inputs_given(inputs)
    loaded = _load(model)
    with _working(f"counting {model}"):
        result = counted(loaded, sizes, backward=backward)
    typer.echo(json.dumps(result.to_dict(), indent=2) if as_json else result)


@app.command()
def doctor(model: OptionalModel = None, inputs: Inputs = None, as_json: Json = False) -> None:
    """Tell what runs here and why the rest does not; for a model, which backend runs each convolution.

    [bold]Examples[/bold]

    depthwise doctor

    depthwise doctor timm:mobilenetv2_100 --input 3x224x224
    """
    from .doctor import accelerated_line, machine_report, model_report, model_table
    from .optimizing import reach

    if model is None:
        report = machine_report()
        typer.echo(json.dumps(report.to_dict(), indent=2) if as_json else report)
        return
    sizes = inputs_given(inputs)
    loaded = _load(model)
    with _working(f"tracing {model}"):
        rows = model_report(loaded, sizes)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    with _working(f"optimizing {model}"):
        optimized = reach(loaded, sizes)
    typer.echo(f"{model_table(rows, accelerated_line(loaded))}\n{optimized}")


@app.command()
def separate(
    model: OptionalModel = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="package.module:attribute: samples, an iterable of batches, or what makes it."
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Trained weights for MODEL: a state dict, .safetensors or of torch.save."),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Share of the dense multiplications; 0.5 where not given.")
    ] = None,
    max_error: Annotated[
        float | None, typer.Option(help="Or: the greatest relative error of the network's output on the samples.")
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="package.module:callable: makes the model's input of a batch."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER", help="A layer, all within a module, or a pattern, to leave; repeatable."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Weights: .safetensors, .pt or .pth; the report goes beside them as .json."),
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page that needs no network.")] = None,
    as_json: Json = False,
) -> None:
    """Make a trained dense network depthwise separable, within a budget, and time it; the demo's where none is named.

    [bold]Examples[/bold]

    depthwise separate --budget 0.3

    depthwise separate my_package:load_model --calibration my_package:batches --budget 0.3

    depthwise separate timm:resnet18 --weights resnet18.safetensors --calibration my_package:batches

    depthwise separate my_package:load_model --calibration my_package:batches --out net.safetensors --report net.html
    """
    from .separating import DEMO, run

    if (model is None) != (calibration is None):
        raise typer.BadParameter("MODEL and --calibration go together; without both, the demo's are taken")
    if weights is not None and model is None:
        raise typer.BadParameter("--weights are those of MODEL; without one the demo's network is taken")
    if weights is None and model is not None and is_untrained(model):
        note = f"{model} has random weights; {model}?pretrained or --weights FILE gives it trained ones"
        stderr.print(f"[bold yellow]note:[/] {escape(note)}", highlight=False, soft_wrap=True)
    model, calibration = (model, calibration) if model and calibration else DEMO
    result = run(
        stderr,
        model,
        calibration,
        budget=budget,
        max_error=max_error,
        exclude=tuple(exclude or ()),
        adapter_name=adapter,
        out=out,
        page=report,
        weights=weights,
    )
    lines = [*result.first(), str(result.report), *result.lines()]
    typer.echo(json.dumps(result.to_dict(), indent=2) if as_json else "\n".join(lines))
    for path in result.files:
        stderr.print(f"wrote {escape(path)}", highlight=False, soft_wrap=True)


@app.command()
def optimize(
    model: Model,
    inputs: Inputs = None,
    compare: Annotated[bool, typer.Option("--compare", help="Time it beside the model as it is.")] = False,
    save: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the network: .safetensors.")] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with a profile that needs no network.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Freeze a network for inference, and tell what of it runs on kernels of ours, and why the rest does not.

    [bold]Examples[/bold]

    depthwise optimize timm:mobilenetv2_100 --input 3x224x224 --compare

    depthwise optimize my_package.networks:build --input 3x64x64 --save net.safetensors --report net.html
    """
    from .optimizing import run

    sizes = plain_sizes(inputs)
    loaded = _load(model)
    with _working(f"optimizing {model}"):
        result = run(loaded, sizes, compare=compare, save=save, page=report)
    typer.echo(json.dumps(result.to_dict(), indent=2) if as_json else "\n".join([str(result.report), *result.lines()]))
    for path in result.files:
        stderr.print(f"wrote {escape(path)}", highlight=False, soft_wrap=True)


@app.command()
def demo(
    report: Annotated[Path, typer.Option(metavar="FILE", help="Where the page goes.")] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """Train a small network on real digits, make it separable, and compare what was promised with what came.

    [bold]Examples[/bold]

    depthwise demo

    depthwise demo --report digits.html --json > digits.json
    """
    from .demo import run

    result = run(stderr if as_json else stdout, report)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))


@app.command()
def bench(
    plot: Annotated[Path, typer.Option(metavar="FILE", help="Where the roofline goes: .svg, .png or .pdf.")] = Path(
        "roofline.svg"
    ),
    no_plot: Annotated[bool, typer.Option("--no-plot", help="Draw nothing.")] = False,
    in_training: Annotated[
        bool, typer.Option("--training", help="Forward and backward, norms and steps of networks instead; no picture.")
    ] = False,
    through_compiler: Annotated[
        bool, typer.Option("--compile", help="With --training: PyTorch's ways through torch.compile too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure MobileNetV1's blocks against this machine's peak and against their promise.

    [bold]Examples[/bold]

    depthwise bench

    depthwise bench --plot roofline.png

    depthwise bench --training
    """
    from .bench import run

    console = stderr if as_json else stdout
    found = _training(console, compiled=through_compiler) if in_training else run(console, None if no_plot else plot)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))


def _training(console: Console, *, compiled: bool) -> TrainingResult:
    from .bench import training

    def build(network: str) -> nn.Module:
        return load_model(f"timm:{network}")

    # Asked now, not after minutes.
    try:
        build(training.networks.NETWORKS[0].network)
    except DepthwiseError as error:
        return training.run(console, None, absent=(f"no steps of whole networks: {error}",), compiled=compiled)
    return training.run(console, build, compiled=compiled)


@app.command()
def inspect(
    size: Size,
    kernel: Annotated[Any, typer.Option(help="Kernel size: 3, or 3x5.", **PER_AXIS)],
    filters: Annotated[
        int | None, typer.Option(help="Output channels; none for a depthwise convolution alone.")
    ] = None,
    stride: Annotated[Any, typer.Option(help="Stride: 2, or 2x1.", **PER_AXIS)] = "1",
    padding: Annotated[
        Any, typer.Option(metavar="P", parser=parse_padding, help="1, 1x2, 3:0 (before:after), same or valid.")
    ] = "0",
    dilation: Annotated[Any, typer.Option(help="Dilation: 2, or 2x1.", **PER_AXIS)] = "1",
    multiplier: Annotated[int, typer.Option(help="Depth multiplier: filters per input channel.")] = 1,
    contiguous: Annotated[bool, typer.Option("--contiguous", help="One plane per channel, not channels last.")] = False,
    isa: Annotated[str | None, typer.Option(help="avx2 or neon; this machine's own where not given.")] = None,
    show: Annotated[str, typer.Option(help="plan, ir or assembly.")] = "plan",
) -> None:
    """Print what the CPU backend generates for a convolution.

    [bold]Examples[/bold]

    depthwise inspect 64x56x56 --kernel 3 --padding 1 --filters 128

    depthwise inspect 64x56x56 --kernel 3 --padding 1 --isa neon --show assembly
    """
    from .backends.cpu.inspection import inspect as inspected
    from .geometry import geometry

    if show not in ("plan", "ir", "assembly"):
        raise typer.BadParameter(f"{show!r} is not plan, ir or assembly", param_hint="--show")
    g = geometry(size, kernel, stride, padding, dilation, depth_multiplier=multiplier, out_channels=filters)
    result = inspected(g, layout="contiguous" if contiguous else "channels_last", isa=isa)
    typer.echo(getattr(result, show))


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove every kernel, and the key.")] = False,
    as_json: Json = False,
) -> None:
    """Tell where compiled kernels are kept and what they weigh, or remove them.

    At most 256 MiB are kept, the oldest go first. DEPTHWISE_CACHE_DIR names another folder, or is off; --clear removes
    the key that kernels are signed with too, as is wanted before uninstalling.
    """
    from .backends.cpu.disk import store

    usage = store.clear() if clear else store.usage()
    if as_json:
        typer.echo(json.dumps(asdict(usage), indent=2, default=str))
        return
    kept = "removed" if clear else "kept"
    typer.echo(f"{usage.folder or 'no folder'}: {usage.entries} kernels, {usage.bytes / 2**20:.1f} MiB {kept}")
    if usage.refusal is not None:
        typer.echo(store.summary())


def main() -> None:
    """Run the command line; a DepthwiseError is a message, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        # What the terminal's encoding has not, or a name that is no text, is shown escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except DepthwiseError as error:
        _fail(str(error))
    except (MemoryError, RuntimeError) as error:
        # What torch says where a network's tensors do not fit.
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):
            raise
        _fail(f"not enough memory: {said(error)}")
    except OSError as error:
        # Nothing more goes to standard output, which Python would flush once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # A reader that has enough is no error to tell.
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        _fail(f"cannot write {error.filename or 'the result'}: {error.strerror}")


def _fail(message: str) -> NoReturn:
    stderr.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(1)


def _load(name: str) -> nn.Module:
    with _working(f"loading {name}"):
        return load_model(name)


@contextmanager
def _working(what: str) -> Iterator[None]:
    """Show on a terminal that something longer goes on."""
    with stderr.status(f"{escape(what)} ...") if stderr.is_terminal else nullcontext():
        yield


def _write(path: Path | None, content: str) -> None:
    if path is not None:
        write_text(path, content)
        stderr.print(f"wrote {escape(str(path))}", highlight=False, soft_wrap=True)


def _open(path: Path | None, content: str) -> None:
    """Show a page in the user's browser; where it was written to, or in a file that stays for the browser to read."""
    import tempfile
    import webbrowser

    if path is None:
        path = Path(tempfile.mkdtemp(prefix="depthwise-")) / "explain.html"
        _write(path, content)
    if not webbrowser.open(path.resolve().as_uri()):
        raise DepthwiseError(f"no browser to open here; the page is {path}")
