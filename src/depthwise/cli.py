"""The command line; `depthwise --help` lists it. Exit codes: 0 done, 1 failed, 2 misused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn

from .errors import DepthwiseError
from .geometry import Padding
from .loading import load_model

# Results go to standard output; progress and errors do not mix with them.
stdout, stderr = Console(), Console(stderr=True)

app = typer.Typer(
    name="depthwise",
    help="Depthwise separable convolutions: what they cost, what runs them, what they deliver.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def parse_size(text: str) -> tuple[int, ...]:
    """(3, 224, 224) from "3x224x224"; one number is a tuple of one."""
    try:
        return tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not numbers joined by x, such as 3x224x224") from None


def parse_padding(text: str) -> Padding:
    """Padding from "1", "1x2", "same", "valid", or "3:0" for 3 before and none after."""
    if text in ("same", "valid"):
        return text
    try:
        ends = [tuple(int(amount) for amount in part.split(":")) for part in text.lower().split("x")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not 1, 1x2, 3:0 (before:after), same or valid") from None
    # One number is both ends.
    return tuple((*end, *end) if len(end) == 1 else end for end in ends) if ":" in text else parse_size(text)


Size = Annotated[Any, typer.Argument(metavar="SIZE", parser=parse_size, help="Input, channels first: 3x224x224.")]
PER_AXIS: dict[str, Any] = {"metavar": "N", "parser": parse_size}
Model = Annotated[str, typer.Argument(metavar="MODEL", help="timm:NAME or package.module:callable.")]
OptionalModel = Annotated[
    str | None, typer.Argument(metavar="MODEL", help="timm:NAME or package.module:callable.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Inputs = Annotated[
    list[Any] | None,
    typer.Option("--input", metavar="SIZE", parser=parse_size, help="Input without its batch; once for each input."),
]


@app.callback(invoke_without_command=True)
def options(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Depthwise separable convolutions: what they cost, what runs them, what they deliver."""
    if show_version:
        typer.echo(version("depthwise"))
        raise typer.Exit


@app.command()
def explain(
    size: Size,
    filters: Annotated[int, typer.Option(help="Output channels.")],
    kernel: Annotated[Any, typer.Option(help="Kernel size: 3, or 3x5.", **PER_AXIS)],
    stride: Annotated[Any, typer.Option(help="Stride: 2, or 2x1.", **PER_AXIS)] = "1",
    padding: Annotated[
        Any, typer.Option(metavar="P", parser=parse_padding, help="1, 1x2, 3:0 (before:after), same or valid.")
    ] = "0",
    dilation: Annotated[Any, typer.Option(help="Dilation: 2, or 2x1.", **PER_AXIS)] = "1",
    multiplier: Annotated[int, typer.Option(help="Depth multiplier: filters per input channel.")] = 1,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the picture.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page that needs no network.")] = None,
    as_json: Json = False,
) -> None:
    """Show the arithmetic of a convolution, dense and separable.

    [bold]Examples[/bold]

    depthwise explain 3x7x7 --filters 128 --kernel 3

    depthwise explain 32x112x112 --filters 64 --kernel 3 --stride 2 --padding same --html page.html
    """
    from .explain import explain as explained

    result = explained(size, filters, kernel, stride, padding, dilation, depth_multiplier=multiplier)
    typer.echo(json.dumps(result.to_dict(), indent=2) if as_json else result.text)
    _write(svg, result.svg)
    _write(html, result.html)


@app.command()
def count(model: Model, inputs: Inputs = None, as_json: Json = False) -> None:
    """Count what a model costs, operator by operator, without running it.

    [bold]Examples[/bold]

    depthwise count timm:mobilenetv2_100 --input 3x224x224

    depthwise count my_package.networks:build --input 3x64x64 --input 10 --json
    """
    from .count import count as counted

    sizes = _input_sizes(inputs)
    loaded = _load(model)
    with _working(f"counting {model}"):
        result = counted(loaded, sizes)
    typer.echo(json.dumps(result.to_dict(), indent=2) if as_json else result)


@app.command()
def doctor(model: OptionalModel = None, inputs: Inputs = None, as_json: Json = False) -> None:
    """Tell what runs here and why the rest does not; for a model, which backend runs each convolution.

    [bold]Examples[/bold]

    depthwise doctor

    depthwise doctor timm:mobilenetv2_100 --input 3x224x224
    """
    from .doctor import machine_report, model_report

    if model is None:
        report = machine_report()
        typer.echo(json.dumps(report.to_dict(), indent=2) if as_json else report)
        return
    sizes = _input_sizes(inputs)
    loaded = _load(model)
    with _working(f"tracing {model}"):
        rows = model_report(loaded, sizes)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    table = Table("layer", "kind", "backend", "why", box=None, pad_edge=False)
    table.add_column("kernel", overflow="fold")
    for row in rows:
        table.add_row(escape(row.name) or "(the model)", row.kind, row.backend, escape(row.reason), row.kernel or "")
    # A file or a pipe has no width to wrap at.
    stdout.print(table, width=None if stdout.is_terminal else 200)


@app.command()
def separate(
    model: OptionalModel = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="package.module:attribute: samples, an iterable of batches, or what makes it."
        ),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Share of the dense multiplications; 0.5 where not given.")
    ] = None,
    max_error: Annotated[float | None, typer.Option(help="Or: the greatest relative error of each layer.")] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="LAYER", help="A layer, or all within a module, to leave; repeatable.")
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

    depthwise separate my_package:load_model --calibration my_package:batches --out net.safetensors --report net.html
    """
    from .separating import DEMO, run

    if (model is None) != (calibration is None):
        raise typer.BadParameter("MODEL and --calibration go together; without both, the demo's are taken")
    model, calibration = (model, calibration) if model and calibration else DEMO
    result = run(
        stderr,
        model,
        calibration,
        budget=budget,
        max_error=max_error,
        exclude=tuple(exclude or ()),
        out=out,
        page=report,
    )
    typer.echo(json.dumps(result.to_dict(), indent=2) if as_json else "\n".join([str(result.report), *result.lines()]))
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

    sizes = _input_sizes(inputs)
    loaded = _load(model)
    with _working(f"optimizing {model}"):
        every = sizes if isinstance(sizes[0], tuple) else (sizes,)
        result = run(loaded, every, compare=compare, save=save, page=report)
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
    as_json: Json = False,
) -> None:
    """Measure MobileNetV1's blocks against this machine's peak and against their promise.

    [bold]Examples[/bold]

    depthwise bench

    depthwise bench --plot roofline.png
    """
    from .bench import run

    result = run(stderr if as_json else stdout, None if no_plot else plot)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))


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
    clear: Annotated[bool, typer.Option("--clear", help="Remove every kernel.")] = False,
    as_json: Json = False,
) -> None:
    """Tell where compiled kernels are kept and what they weigh, or remove them."""
    from .backends.cpu import store

    usage = store.clear() if clear else store.usage()
    if as_json:
        typer.echo(json.dumps(asdict(usage), indent=2, default=str))
        return
    kept = "removed" if clear else "kept"
    typer.echo(f"{usage.folder or 'no folder'}: {usage.entries} kernels, {usage.bytes / 2**20:.1f} MiB {kept}")
    if usage.refusal is not None:
        typer.echo(f"nothing is kept on disk: {usage.refusal}")


def main() -> None:
    """Run the command line; a DepthwiseError is a message, not a traceback."""
    try:
        app()
    except DepthwiseError as error:
        stderr.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)


def _input_sizes(inputs: list[Any] | None) -> Any:
    if not inputs:
        raise typer.BadParameter("needs the model's input, such as --input 3x224x224", param_hint="--input")
    return inputs[0] if len(inputs) == 1 else tuple(inputs)


def _load(name: str) -> nn.Module:
    with _working(f"loading {name}"):
        return load_model(name)


@contextmanager
def _working(what: str) -> Iterator[None]:
    """Show on a terminal that something longer goes on."""
    with stderr.status(f"{escape(what)} ...") if stderr.is_terminal else nullcontext():
        yield


def _write(path: Path | None, content: str) -> None:
    if path is None:
        return
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise DepthwiseError(f"cannot write {path}: {error.strerror}") from error
    stderr.print(f"wrote {escape(str(path))}", highlight=False, soft_wrap=True)
