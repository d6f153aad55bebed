"""A model as a network: exported by torch at two batch sizes and two image sizes, read, and compared.

    copy = model in evaluation mode
    one  = read(export(copy, batch 2, the sizes given))
    two  = read(export(copy, batch 5, larger images))
    where they are the same, and for one image of a size that nothing divides, the network takes any batch and any size
    where they are not: three = read(export(copy, batch 5, the sizes given))
        a number that is 2k in one and 5k in three is k times the batch; any other difference: the batch is fixed
        what then still differs from two is a size baked into the graph: other sizes need another capture

torch takes batches of 0 and 1 for special cases, so neither is captured with unless the batch is fixed.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ..backends.forks import Lock
from ..errors import DepthwiseError
from ..tracing import check_model, restored, uncollected, unlogged, without_stack_traces
from .graph import Argument, Batch, Graph, Node, Size, Spec, Tree, Value, values_in
from .network import Network, pruned, specs_of
from .operators import DTYPES, FORMATS, dtype_name, is_channels_last
from .reading import Reading, read
from .repeating import at, repeated
from .rules import axes_of

SMALL, LARGE = 2, 5
# torch.export keeps what it is at in globals.
_LOCK = Lock()
# Images larger by so many pixels along each dimension: by a multiple of what networks divide by, and by what leaves
# other remainders, where a padding to a multiple shows; of these the first that the model takes.
Growth = tuple[int, ...]
NONE: Growth = (0, 0, 0)
GROWTH: Growth = (64, 64, 64)
UNEVEN: tuple[Growth, ...] = tuple((step, 3 * step, 5 * step) for step in (37, 38, 36, 40, 48))


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of a call: its tensors in order, and where they stand among everything else."""

    tensors: tuple[Tensor, ...]
    takes: Tree

    def tree(self, tensors: tuple[Tensor, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments with these tensors."""
        named = dict(zip((f"input_{number}" for number in range(len(tensors))), tensors, strict=True))
        args, kwargs = self.takes.mapped(lambda leaf: named[leaf.name] if isinstance(leaf, Value) else leaf)
        return args, kwargs


def call_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """The call with these arguments; raises where one is of a kind that a graph cannot take."""
    found: list[Tensor] = []

    def tree(item: Any, place: str) -> Any:
        if isinstance(item, Tensor):
            if item.layout is not torch.strided or type(item) not in (Tensor, nn.Parameter):
                raise DepthwiseError(
                    f"{place} is a {type(item).__name__} of layout {item.layout}; plain tensors are taken"
                )
            found.append(item)
            return Value(f"input_{len(found) - 1}")
        if item is None or isinstance(item, bool | int | float | str):
            return item
        if isinstance(item, dict) and all(isinstance(key, str) for key in item):
            return Tree("dict", tuple(tree(item[key], f"{place}[{key!r}]") for key in item), tuple(item))
        if type(item) in (tuple, list):
            return Tree(type(item).__name__, tuple(tree(part, f"{place}[{i}]") for i, part in enumerate(item)))
        raise DepthwiseError(
            f"{place} is a {type(item).__name__}; a network takes tensors, numbers, strings, None, and tuples, lists "
            f"and dicts of these"
        )

    takes = Tree("tuple", (tree(args, "the input"), tree(kwargs, "the input")))
    return Call(tuple(found), takes)


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy of the model in evaluation mode, whose weights ask for no gradient."""
    check_model(model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device.type != "cpu":
            raise DepthwiseError(f"{name} is on {tensor.device}; optimize is for the CPU: call .cpu() first")
    try:
        copy = deepcopy(model)
    except Exception as error:  # the modules' own __deepcopy__ may raise anything
        raise DepthwiseError(f"the model cannot be copied: {type(error).__name__}: {error}") from error
    for module in copy.modules():
        module.training = False
    return copy.requires_grad_(requires_grad=False)


def capture(model: nn.Module, call: Call) -> Network:
    """The network that `model`, a frozen copy, is for calls like this one; one is captured at a time."""
    with _LOCK.mine, uncollected():
        return _captured(model, call)


def _captured(model: nn.Module, call: Call) -> Network:
    if not call.tensors:
        raise DepthwiseError(
            "optimize needs an example input: a tensor, a tuple of arguments, or a dict of them by name"
        )
    batch = next((tensor.shape[0] for tensor in call.tensors if tensor.dim()), None)
    if batch is None:
        return _of_one(model, call, "the inputs have no dimension for a batch")
    program = _exported(model, call, SMALL, NONE)
    if isinstance(program, str):
        return _of_one(model, call, program)
    one = read(program, call.takes)
    two = _repeated(model, call, program, LARGE, GROWTH)
    if not isinstance(two, Reading):
        two = _attempt(model, call, LARGE, GROWTH)
    is_regular = isinstance(two, Reading) and _irregular(one, two) is None
    # Where both are the same, no number in them is a batch or a size.
    is_same = isinstance(two, Reading) and one.nodes == two.nodes and one.gives == two.gives
    if isinstance(two, Reading) and is_regular and is_same and _other_constant(one, two) is None:
        is_sized, least = _alone(model, call, program, one)
        return _network(call, one, one.nodes, one.gives, two, is_sized=is_sized, least=least)
    another = _exported(model, call, LARGE, NONE)
    if isinstance(another, str):
        return _of_one(model, call, another)
    three = read(another, call.takes)
    why = _irregular(one, three)
    if why is not None:
        return _of_one(model, call, why)
    try:
        nodes, gives = _merged(one, three)
    except _DifferenceError as difference:
        return _of_one(model, call, str(difference))
    is_sized = isinstance(two, str) or not (
        is_regular
        and _is_at(nodes, gives, two)
        and _other_constant(one, two) is None
        and _is_so(model, call, another, three, LARGE, UNEVEN)
    )
    return _network(call, one, nodes, gives, three if isinstance(two, str) or is_sized else two, is_sized=is_sized)


def _alone(model: nn.Module, call: Call, program: ExportedProgram, one: Reading) -> tuple[bool, int]:
    """Whether sizes are baked into a program that has no batch in it, and the least batch that it is right for."""
    if _is_so(model, call, program, one, 1, UNEVEN):
        return False, 0
    least = 0 if _is_so(model, call, program, one, 1, (NONE,)) else SMALL
    return not _is_so(model, call, program, one, LARGE, UNEVEN), least


def _is_so(
    model: nn.Module, call: Call, program: ExportedProgram, expected: Reading, batch: int, growths: tuple[Growth, ...]
) -> bool:
    """Whether the model is what was read of its program at the first of other sizes that it takes, if there is one."""
    for growth in growths:
        try:
            found = _again(model, call, program, batch, growth)
        # What is refused there is not what was read.
        except DepthwiseError:
            return False
        if isinstance(found, Reading):
            return _is_like(expected, found)
    return True


def _is_like(one: Reading, other: Reading) -> bool:
    """Whether two readings are the same, and stay so at the sizes of either."""
    is_same = one.nodes == other.nodes and one.gives == other.gives and _other_constant(one, other) is None
    return is_same and _irregular(one, other) is None


def _irregular(one: Reading, other: Reading) -> str | None:
    """Why sizes are fixed: a dimension goes where it is one, or is cut into as many pieces as there happen to be."""
    for node, again in zip(one.nodes, other.nodes, strict=False):
        squeezes = node.operator.removeprefix("aten.").startswith("squeeze")
        cuts = node.operator == "split" and node.arguments == again.arguments
        if not squeezes and not cuts:
            continue
        shape, larger = (reading.shapes.get(node["self"].name, ()) for reading in (one, other))
        dims = axes_of(dict(node.arguments).get("dim"), len(shape))
        if len(shape) == len(larger) and any(shape[dim] != larger[dim] for dim in dims):
            what = "drops a dimension" if squeezes else "gives that many pieces"
            return f"{node.operator} in {node.source or 'the model'} {what} at some sizes alone"
    return None


def _least(node: Node, one: Reading, other: Reading) -> int:
    """The batch from which a slice of it is as long as both captures have it: the forward may have read how long."""
    if node.operator != "slice":
        return 0
    small, large = (reading.shapes[node["self"].name] for reading in (one, other))
    (dim,) = axes_of(node["dim"], len(small))
    images, rest = divmod(small[dim], SMALL)
    if rest or large[dim] != LARGE * images or any(isinstance(node[key], Batch) for key in ("start", "end")):
        return 0
    taken = slice(node["start"], node["end"], node["step"])
    lengths = [len(range(*taken.indices(images * batch))) for batch in range(LARGE + 1)]
    if lengths[SMALL] != lengths[LARGE]:
        return 0
    return next(batch for batch, length in enumerate(lengths) if length == lengths[LARGE])


def _of_one(model: nn.Module, call: Call, why: str) -> Network:
    """The network for the example's own batch and sizes alone."""
    found = _attempt(model, call, None, NONE)
    if isinstance(found, str):
        raise DepthwiseError(f"torch.export does not take the model with the example inputs: {found}")
    network = _network(call, found, found.nodes, found.gives, found, is_sized=True)
    batch = next((tensor.shape[0] for tensor in call.tensors if tensor.dim()), 1)
    inputs = tuple(replace(spec, shape=network.sizes[spec.name]) for spec in network.graph.inputs)
    return replace(network, graph=replace(network.graph, inputs=inputs), batch=batch, why_fixed=why)


def _network(
    call: Call, one: Reading, nodes: tuple[Node, ...], gives: Any, other: Reading, *, is_sized: bool, least: int = 0
) -> Network:
    specs = []
    batched = _batched(call.tensors)
    for name, tensor, is_batched in zip(one.inputs, call.tensors, batched, strict=True):
        rest: tuple[Size, ...] = tuple(one.shapes[name])
        specs.append(Spec(name, (Batch(), *rest[1:]) if is_batched else rest, dtype_name(tensor.dtype)))
    for spec in specs:
        if spec.dtype not in DTYPES:
            raise DepthwiseError(f"an input of dtype {spec.dtype} is not taken; known: {', '.join(DTYPES)}")
    graph = Graph(tuple(specs), specs_of(one.weights), nodes, call.takes, gives)
    sizes = {name: one.shapes[name] for name in one.inputs}
    seen = (one.shapes,) if other is one else (one.shapes, other.shapes)
    network = Network(
        graph,
        one.weights,
        None,
        sizes,
        is_sized,
        seen,
        one.dtypes,
        takes_last=any(map(is_channels_last, call.tensors)),
        gives_last=tuple(one.last[name] for name in values_in(gives)),
        least=max((_least(node, one, other) for node in nodes), default=0) or least,
    )
    return pruned(network)


def _again(model: nn.Module, call: Call, program: ExportedProgram, batch: int, growth: Growth) -> Reading | str:
    """The model read at other sizes, run again where it calls what is in the program, exported where it may not."""
    found = _repeated(model, call, program, batch, growth)
    return _attempt(model, call, batch, growth) if found is None else found


def _repeated(
    model: nn.Module, call: Call, program: ExportedProgram, batch: int, growth: Growth
) -> Reading | str | None:
    """The model read at other sizes, where it then calls what is in the program; or what it raises there."""
    values = repeated(model, program, *call.tree(_resized(call.tensors, batch, growth)))
    if values is None or isinstance(values, str):
        return values
    with at(values):
        return read(program, call.takes)


def _attempt(model: nn.Module, call: Call, batch: int | None, growth: Growth) -> Reading | str:
    """The model read with inputs of this batch, each image larger by `growth`; or why torch does not export it so."""
    program = _exported(model, call, batch, growth)
    return program if isinstance(program, str) else read(program, call.takes)


def _exported(model: nn.Module, call: Call, batch: int | None, growth: Growth) -> ExportedProgram | str:
    tensors = call.tensors if batch is None else _resized(call.tensors, batch, growth)
    args, kwargs = call.tree(tensors)
    try:
        with warnings.catch_warnings(), restored(model), torch.no_grad(), unlogged(), without_stack_traces():
            warnings.simplefilter("ignore")
            return torch.export.export(model, args, kwargs, strict=False)
    # The forward is the user's code.
    except Exception as error:  # noqa: BLE001
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0]}"


def _batched(tensors: tuple[Tensor, ...]) -> list[bool]:
    """Which inputs have the batch as their first dimension: those as long there as the first of all."""
    batch = next((tensor.shape[0] for tensor in tensors if tensor.dim()), None)
    return [tensor.dim() > 0 and tensor.shape[0] == batch for tensor in tensors]


def _resized(tensors: tuple[Tensor, ...], batch: int, growth: Growth) -> tuple[Tensor, ...]:
    return tuple(
        _at(tensor, batch, growth) if is_batched else tensor
        for tensor, is_batched in zip(tensors, _batched(tensors), strict=True)
    )


def _at(tensor: Tensor, batch: int, growth: Growth) -> Tensor:
    """A tensor like this one of another batch, and where it is an image, a sequence or a volume, a larger one."""
    sizes = [batch, *tensor.shape[1:]]
    if tensor.dim() in FORMATS or tensor.dim() == 3:
        sizes[2:] = [size + more for size, more in zip(sizes[2:], growth, strict=False)]
    if not any(growth) and tensor.shape[0]:
        made = tensor[:1].expand(sizes).clone()
    else:
        made = torch.zeros(sizes, dtype=tensor.dtype)
    return made.contiguous(memory_format=FORMATS[made.dim()]) if is_channels_last(tensor) else made


class _DifferenceError(Exception):
    """Two captures differ in more than multiples of the batch."""


def _merged(one: Reading, other: Reading) -> tuple[tuple[Node, ...], Any]:
    """What holds for every batch, of readings at SMALL and LARGE."""
    if len(one.nodes) != len(other.nodes):
        raise _DifferenceError("the model runs other operators for another batch")
    nodes = tuple(_same_node(a, b) for a, b in zip(one.nodes, other.nodes, strict=True))
    constant = _other_constant(one, other)
    if constant is not None:
        raise _DifferenceError(f"{constant}, a constant of the forward, depends on the batch")
    return nodes, _same(one.gives, other.gives, "what it returns")


def _other_constant(one: Reading, other: Reading) -> str | None:
    """A constant that two readings have with other numbers; what the forward makes of sizes is one."""
    for name in one.weights.keys() | other.weights.keys():
        a, b = one.weights.get(name), other.weights.get(name)
        if a is None or b is None or (a.data_ptr() != b.data_ptr() and not torch.equal(a, b)):
            return name
    return None


def _same_node(a: Node, b: Node) -> Node:
    if (a.name, a.operator) != (b.name, b.operator):
        raise _DifferenceError("the model runs other operators for another batch")
    where = f"{a.operator} in {a.source or 'the model'}"
    pairs = zip(a.arguments, b.arguments, strict=True)
    return replace(a, arguments=tuple((key, _same(x, y, f"{key} of {where}")) for (key, x), (_, y) in pairs))


def _same(a: Any, b: Any, where: str) -> Any:
    if type(a) is type(b) and a == b:
        return a
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return tuple(_same(x, y, where) for x, y in zip(a, b, strict=True))
    if isinstance(a, Tree) and isinstance(b, Tree) and (a.kind, a.keys) == (b.kind, b.keys):
        return Tree(a.kind, tuple(_same(x, y, where) for x, y in zip(a.items, b.items, strict=True)), a.keys)
    if type(a) is int and type(b) is int and a % SMALL == 0 and a // SMALL * LARGE == b:
        return Batch(a // SMALL)
    raise _DifferenceError(f"{where} depends on the batch: {a} for a batch of {SMALL}, {b} for {LARGE}")


def _is_at(nodes: tuple[Node, ...], gives: Any, other: Reading) -> bool:
    """Whether the merged nodes at batch LARGE are the other reading's."""
    if len(nodes) != len(other.nodes):
        return False
    for node, found in zip(nodes, other.nodes, strict=True):
        arguments = tuple((key, _filled(argument, LARGE)) for key, argument in node.arguments)
        if (node.name, node.operator, arguments) != (found.name, found.operator, found.arguments):
            return False
    return bool(gives == other.gives)


def _filled(argument: Argument, batch: int) -> Argument:
    if isinstance(argument, Batch):
        return argument.multiple * batch
    return tuple(_filled(item, batch) for item in argument) if isinstance(argument, tuple) else argument
