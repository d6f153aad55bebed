"""An optimized network as one safetensors file: its weights, and its graph as JSON in the file's metadata.

A file may come from anywhere. It holds no code: operators are names out of a list, and every field, argument and shape
is checked before anything runs. What is not as `save` writes it is a DepthwiseError.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from ..errors import DepthwiseError
from ..functional import activation_of
from .graph import Argument, Batch, Graph, Node, Value, values_in
from .network import Network, Shape
from .operators import CONSTANTS, DTYPES, KNOWN, OWN, dtype_name, signature
from .passes import PASSES
from .passes.layout import lay_out_weights
from .planning import shapes_of

FORMAT, VERSION = "depthwise.optimize", 1

# Beside the operators with rules, those of torch's that a file may name: functions of tensors that change nothing, read
# nothing else, and check their arguments.
ALLOWED = {
    *KNOWN,
    *OWN,
    *(
        f"aten.{name}"
        for name in (
            *(
                "abs.default",
                "adaptive_avg_pool1d.default",
                "adaptive_avg_pool3d.default",
                "adaptive_max_pool2d.default",
            ),
            *("addmm.default", "amax.default", "argmax.default", "avg_pool1d.default", "avg_pool3d.default"),
            *("baddbmm.default", "bitwise_not.default", "bmm.default", "celu.default", "clamp.default"),
            *("clamp_max.default", "clamp_min.default", "conv1d.default", "conv2d.default", "conv3d.default"),
            *("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input", "cos.default"),
            *("cumsum.default", "div.Scalar", "div.Tensor_mode", "einsum.default", "eq.Scalar", "erf.default"),
            *("exp.default", "floor.default", "ge.Scalar", "gt.Scalar", "instance_norm.default", "le.Scalar"),
            *("linalg_norm.default", "log.default", "log_softmax.int", "logical_not.default", "lt.Scalar"),
            *("masked_fill.Scalar", "matmul.default", "max.default", "max.dim", "max_pool1d.default"),
            *("max_pool3d.default", "maximum.default", "mean.default", "min.dim", "minimum.default", "mish.default"),
            *(
                "movedim.int",
                "mul.Scalar",
                "narrow.default",
                "neg.default",
                "ones.default",
                "ones_like.default",
                "pixel_shuffle.default",
            ),
            *("pixel_unshuffle.default", "pow.Scalar", "pow.Tensor_Scalar", "prelu.default", "reciprocal.default"),
            *("repeat.default", "roll.default", "round.default", "rsqrt.default", "rsub.Scalar", "selu.default"),
            *(
                "scaled_dot_product_attention.default",
                "sin.default",
                "softplus.default",
                "sqrt.default",
                "square.default",
            ),
            *(
                "squeeze.default",
                "sub.Scalar",
                "sum.default",
                "t.default",
                "tile.default",
                "to.device",
                "to.dtype",
                "topk.default",
            ),
            *(
                "tril.default",
                "triu.default",
                "upsample_bicubic2d.vec",
                "var.correction",
                "where.self",
                "zeros.default",
                "zeros_like.default",
            ),
        )
    ),
}
# Of one value, for the sizes that a file names: more is no network.
MOST_NUMBERS = 1 << 34
MOST_NESTING = 64


def load(path: str | Path) -> tuple[Network, dict[str, int]]:
    """The network in a file, and how many nodes each pass saved."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DepthwiseError(f"cannot read {path}: {error.strerror}") from error
    return from_bytes(content, str(path))


def save(path: str | Path, network: Network, saved: dict[str, int]) -> None:
    """Write a network to a file."""
    content = to_bytes(network, saved)
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise DepthwiseError(f"cannot write {path}: {error.strerror}") from error


def to_bytes(network: Network, saved: dict[str, int]) -> bytes:
    """A network as the content of a file."""
    foreign = sorted({node.operator for node in network.graph.nodes} - ALLOWED)
    if foreign:
        raise DepthwiseError(
            f"the network calls {', '.join(foreign)}, which a file cannot name; it can only be optimized where it runs"
        )
    content = {
        "graph": network.graph.to_json(),
        "batch": network.batch,
        "why_fixed": network.why_fixed,
        "is_sized": network.is_sized,
        "sizes": network.sizes,
        "takes_last": network.takes_last,
        "gives_last": network.gives_last,
        "least": network.least,
        "saved": saved,
    }
    metadata = {"format": FORMAT, "version": str(VERSION), "network": json.dumps(content, allow_nan=False)}
    weights = {name: tensor.contiguous() for name, tensor in network.weights.items()}
    away = [spec.name for spec in network.graph.weights if tuple(weights[spec.name].shape) != tuple(spec.shape)]
    if away:
        raise RuntimeError(f"written while packs hold weights: {', '.join(away)}")
    return safetensors.torch.save(weights, metadata)


def from_bytes(content: bytes, source: str = "the bytes") -> tuple[Network, dict[str, int]]:
    """The network in the content of a file."""
    metadata = _metadata(content, source)
    try:
        weights = safetensors.torch.load(content)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DepthwiseError(f"{source} is damaged: {error}") from error
    try:
        written = json.loads(metadata["network"])
        _check_nesting(written, 0)
        network, saved = _network(written, weights)
    except DepthwiseError as error:
        raise DepthwiseError(f"{source} is no network of this kind: {error}") from error
    except (ValueError, RecursionError) as error:
        raise DepthwiseError(f"{source} is damaged: its graph is not JSON: {error}") from error
    return lay_out_weights(network), saved


def _metadata(content: bytes, source: str) -> dict[str, str]:
    """What the file says of itself."""
    try:
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length]) if length <= len(content) else None
    except (struct.error, ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise DepthwiseError(f"{source} is no safetensors file, or was cut short; give one that Optimized.save wrote")
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT or "network" not in metadata:
        raise DepthwiseError(f"{source} holds tensors and no optimized network; give a file that Optimized.save wrote")
    version = metadata.get("version", "")
    if not isinstance(version, str) or not version.isdecimal() or len(version) > 9:
        raise DepthwiseError(f"{source} is damaged: it names the version {str(version)[:20]!r}")
    if int(version) > VERSION:
        raise DepthwiseError(
            f"{source} has version {version}, and this depthwise reads up to {VERSION}; update depthwise"
        )
    if not isinstance(metadata["network"], str):
        raise DepthwiseError(f"{source} is damaged: its graph is not JSON")
    return metadata


def _check_nesting(item: Any, depth: int) -> None:
    if depth > MOST_NESTING:
        raise DepthwiseError(f"its graph is nested more than {MOST_NESTING} deep")
    for part in item.values() if isinstance(item, dict) else item if isinstance(item, list) else ():
        _check_nesting(part, depth + 1)


def _network(content: Any, weights: dict[str, Tensor]) -> tuple[Network, dict[str, int]]:
    fields = {"graph", "batch", "why_fixed", "is_sized", "sizes", "takes_last", "gives_last", "least", "saved"}
    if not isinstance(content, dict) or content.keys() != fields:
        raise DepthwiseError(f"a network is {', '.join(sorted(fields))}")
    graph = Graph.from_json(content["graph"])
    _check_weights(graph, weights)
    for node in graph.nodes:
        _check_node(node)
    _check_kind(content["why_fixed"], str, "why_fixed")
    for key in ("is_sized", "takes_last"):
        _check_kind(content[key], bool, key)
    gives_last, batch = content["gives_last"], content["batch"]
    returned = len(list(graph.returned()))
    if not _is_list_of(gives_last, bool) or len(gives_last) != returned:
        raise DepthwiseError(f"gives_last is {returned} of true and false")
    if batch is not None and not (_is_whole(batch) and batch >= 0):
        raise DepthwiseError(f"the batch is a whole number or null; got {str(batch)[:40]}")
    if not (_is_whole(content["least"]) and content["least"] >= 0):
        raise DepthwiseError(f"the least batch is a whole number; got {str(content['least'])[:40]}")
    network = Network(
        graph,
        weights,
        batch,
        _sizes(content["sizes"], graph, batch),
        content["is_sized"],
        why_fixed=content["why_fixed"],
        takes_last=content["takes_last"],
        gives_last=tuple(gives_last),
        least=content["least"],
    )
    _check_shapes(network)
    return network, _saved(content["saved"])


def _check_weights(graph: Graph, weights: dict[str, Tensor]) -> None:
    specs = {spec.name: spec for spec in graph.weights}
    if specs.keys() != weights.keys():
        raise DepthwiseError(
            f"the graph's weights are not the file's: {str(sorted(specs.keys() ^ weights.keys()))[:80]}"
        )
    for name, tensor in weights.items():
        found = (tuple(tensor.shape), dtype_name(tensor.dtype))
        if found != (specs[name].shape, specs[name].dtype):
            raise DepthwiseError(f"{name} is {found}, and the graph says {specs[name]}")
    for spec in graph.inputs:
        if spec.dtype not in DTYPES:
            raise DepthwiseError(f"{spec.name} has the dtype {spec.dtype[:40]!r}")
        if any(isinstance(size, Batch) and (at or size.multiple != 1) for at, size in enumerate(spec.shape)):
            raise DepthwiseError(f"{spec.name} has its batch elsewhere than first")


def _check_node(node: Node) -> None:
    if node.operator not in ALLOWED:
        raise DepthwiseError(f"{node.operator[:80]!r} is no operator that a file may name")
    kinds = signature(node.operator)
    if [key for key, _ in node.arguments] != list(kinds):
        raise DepthwiseError(f"{node.operator} takes {', '.join(kinds)}; {node.name!r} gives it others")
    for (key, argument), kind in zip(node.arguments, kinds.values(), strict=True):
        if not _is_of(argument, kind):
            raise DepthwiseError(f"{key} of {node.name!r} is of kind {kind}; got {str(argument)[:80]}")
    if kinds.get("padding") == "pairs":
        _check_window(node)


def _check_window(node: Node) -> None:
    rank = len(node["stride"])
    if rank not in (1, 2, 3) or len(node["dilation"]) != rank or len(node["padding"]) != rank:
        raise DepthwiseError(
            f"{node.name!r} has strides, paddings and dilations for 1, 2 or 3 dimensions, each as many"
        )


def _is_of(argument: Argument, kind: str) -> bool:
    """Whether an argument is of a kind as torch's schemas write them, or of one of ours."""
    if kind.startswith("Optional["):
        return argument is None or _is_of(argument, kind[9:-1])
    if kind.startswith("List["):
        # torch takes one for a list of equal ones.
        if not isinstance(argument, tuple):
            return kind != "List[Tensor]" and _is_of(argument, kind[5:-1]) and not isinstance(argument, Value)
        return all(_is_of(item, kind[5:-1]) for item in argument)
    if kind in OWN_KINDS:
        return OWN_KINDS[kind](argument)
    if kind == "int":
        # Dtypes, memory formats and layouts are numbers in torch's schemas.
        is_constant = isinstance(argument, str) and argument in CONSTANTS
        return _is_whole(argument) or isinstance(argument, Batch) or is_constant
    if kind in ("float", "number"):
        return isinstance(argument, int | float | Batch) and (kind == "number" or not isinstance(argument, bool))
    kinds: dict[str, type] = {"Tensor": Value, "bool": bool, "str": str}
    # An operand of arithmetic may be a number.
    is_number = kind == "Tensor" and isinstance(argument, int | float | Batch)
    return (
        is_number or (kind in kinds and isinstance(argument, kinds[kind])) or (kind == "Device" and argument == "cpu")
    )


def _is_activation(argument: Argument) -> bool:
    if not (isinstance(argument, tuple) and len(argument) == 2 and isinstance(argument[1], float)):
        return False
    name, slope = argument
    try:
        known = activation_of((name, slope)) if name in ("leaky_relu", "elu") else activation_of(name)  # type: ignore[arg-type]
    except DepthwiseError:
        return False
    return known == argument


def _is_step(argument: object) -> bool:
    return isinstance(argument, int) and not isinstance(argument, bool) and argument >= 1


def _is_amount(argument: object) -> bool:
    return isinstance(argument, int) and not isinstance(argument, bool) and argument >= 0


def _is_pair(argument: object) -> bool:
    return isinstance(argument, tuple) and len(argument) == 2 and all(map(_is_amount, argument))


# The kinds of arguments of our own operators.
OWN_KINDS: dict[str, Callable[[Argument], bool]] = {
    "value": lambda argument: isinstance(argument, Value),
    "step": _is_step,
    "steps": lambda argument: isinstance(argument, tuple) and all(map(_is_step, argument)),
    "pairs": lambda argument: isinstance(argument, tuple) and all(map(_is_pair, argument)),
    "activation": lambda argument: argument is None or _is_activation(argument),
}


def _sizes(content: Any, graph: Graph, batch: int | None) -> dict[str, Shape]:
    names = {spec.name for spec in graph.inputs}
    if not isinstance(content, dict) or content.keys() != names:
        raise DepthwiseError("sizes are those of the graph's inputs")
    found: dict[str, Shape] = {}
    for spec in graph.inputs:
        shape = content[spec.name]
        if not _is_list_of(shape, int) or len(shape) != len(spec.shape) or any(size < 0 for size in shape):
            raise DepthwiseError(f"the size of {spec.name} is {len(spec.shape)} whole numbers; got {str(shape)[:80]}")
        found[spec.name] = tuple(shape)
        first = shape[0] if shape else 0
        if spec.at(first) != tuple(shape):
            raise DepthwiseError(f"the size of {spec.name} is {shape}, which is not {spec}")
        if batch is not None and any(isinstance(size, Batch) for size in spec.shape):
            raise DepthwiseError(f"the batch is fixed, and {spec.name} has any")
    return found


def _check_shapes(network: Network) -> None:
    """Raise where the sizes do not fit the graph, or ask for more than any network does."""
    batches = [network.sizes[s.name][0] for s in network.graph.inputs if s.shape and isinstance(s.shape[0], Batch)]
    if len(set(batches)) > 1:
        raise DepthwiseError(f"the inputs are of different batches: {batches}")
    for name, tensor in network.weights.items():
        if tensor.device.type != "cpu":
            raise DepthwiseError(f"{name} is on {tensor.device}")
    shapes = shapes_of(network, network.sizes, batches[0] if batches else network.batch or 1)
    for name in shapes:
        for shape in _each(shapes[name]):
            if prod(shape) > MOST_NUMBERS:
                raise DepthwiseError(f"{name} would hold {prod(shape)} numbers")
    for name in values_in(network.graph.gives):
        if shapes[name] is not None and not all(isinstance(size, int) for size in shapes[name] or ()):
            raise DepthwiseError(f"the network gives {name}, which is several tensors")


def _each(shape: Any) -> list[tuple[int, ...]]:
    if shape is None:
        return []
    return [shape] if all(isinstance(size, int) for size in shape) else list(shape)


def _saved(content: Any) -> dict[str, int]:
    if (
        not isinstance(content, dict)
        or not content.keys() <= PASSES.keys()
        or not all(map(_is_whole, content.values()))
    ):
        raise DepthwiseError("saved is how many nodes each pass made unnecessary")
    return content


def _check_kind(value: Any, kind: type, name: str) -> None:
    if not isinstance(value, kind):
        raise DepthwiseError(f"{name} is a {kind.__name__}; got {str(value)[:80]}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_list_of(content: object, kind: type) -> bool:
    return isinstance(content, list) and all(type(item) is kind for item in content)
