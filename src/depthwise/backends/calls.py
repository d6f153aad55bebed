"""Calls seen before: the short way from a functional form to the code that runs it.

A call is like an earlier one where the same weights come, as they were, with an input of the same sizes and strides and
the same settings. What it was bound to holds no weights, and is shared by all calls of the same problem.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextvars import ContextVar
from operator import itemgetter
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from torch import Tensor, get_num_threads, is_grad_enabled
from torch._C._dynamo.guards import TensorGuards
from torch.autograd import forward_ad

from . import weights
from .forks import Lock
from .tensors import Tensors, dispatch_modes, needs_gradient
from .weights import NO_PRINTS, Identities, Prints, Snapshot

# Of a set of weights, the oldest go first, and inputs for each of them, those longest out of use do.
_MOST_SETTINGS = 16
_MOST_INPUTS = 64
# Problems of all calls, those longest out of use go first.
_MOST_BOUND = 2048

Made = TypeVar("Made")

# What tells a call beside its tensors: the identities of the window's arguments, then what else there is, by value. The
# caller writes it as one tuple: a quarter of a microsecond, half of what it takes by map.
Setting = tuple[Hashable, ...]


class Circumstances(NamedTuple):
    """What a choice goes by beside the call: the backend asked for, and who is told of every choice."""

    asked: str | None = None
    observe: Callable[[Any], object] | None = None


ORDINARY = Circumstances()
# One variable for both, as it is looked at in every call.
circumstances: ContextVar[Circumstances] = ContextVar("depthwise_circumstances", default=ORDINARY)


class Bound(Protocol):
    """A problem with the code that runs it: no weights, and no numbers of a call."""

    def run(self, x: Tensor, residual: Tensor | None, pack: Any, prints: int) -> Tensor | None:
        """The result for tensors like the problem's.

        prints: the address of those of what `pack` was made of. None where these are not there any more, or where there
        is nothing behind a pointer: nothing was done then.
        """


class OfOne:
    """A bound call for an input and a residual without a batch dimension."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound

    def run(self, x: Tensor, residual: Tensor | None, pack: Any, prints: int) -> Tensor | None:
        added = None if residual is None else residual.unsqueeze(0)
        out = self.bound.run(x.unsqueeze(0), added, pack, prints)
        return None if out is None else out.squeeze(0)


class Prepared(NamedTuple):
    """What runs a call: its bound problem, its weights as packed, and the state of them that this was made of.

    snapshot: None where nothing of the weights may be kept
    recorded: the pack is the weights themselves, as where autograd records the call
    """

    bound: Bound
    pack: Any
    snapshot: Snapshot | None = None
    recorded: bool = False

    def run(self, x: Tensor, residual: Tensor | None) -> Tensor | None:
        prints: Prints = NO_PRINTS if self.snapshot is None else self.snapshot.prints
        return self.bound.run(x, residual, self.pack, prints.address)


class Kept(NamedTuple):
    """What ran a call, and what input, weights and residual of one like it must be.

    reads, adds: of the input with all weights, and of the residual: torch's own guards, which tell the type, dtype,
                 sizes, strides and dispatch keys of a tensor, and with these every mode and transform of the calling
                 thread but the modes of a tracer and forward gradients
    """

    bound: Bound
    pack: Any
    threads: int
    reads: Callable[..., bool]
    adds: Callable[[Tensor | None], bool] | None


class Settings:
    """All that calls of a set of weights with one window say beside their inputs.

    window: held, since the identities in the key are its own as long as it lives
    kept:   the latest first
    """

    __slots__ = ("kept", "present", "window")

    def __init__(self, tensors: Tensors, window: tuple[object, ...]) -> None:
        self.present = _present(tensors)
        self.window = window
        self.kept: tuple[Kept, ...] = ()


def found(  # noqa: C901  the short way is one function: each call costs what a tensor's look does
    identities: Identities,
    setting: Setting,
    x: Tensor,
    residual: Tensor | None,
    tensors: Tensors,
    window: tuple[object, ...],
) -> Tensor | None:
    """The result, by what ran a call like this one; None where the call must be looked at anew.

    setting: tells whether there is a residual
    """
    snapshot = weights.sets.get(identities)
    if snapshot is None:
        return found_recorded(identities, setting, x, tensors) if is_grad_enabled() else None
    around = circumstances.get()
    if around is not ORDINARY:
        if around.observe is not None:
            return None
        setting = (*setting, around.asked)
    try:
        settings = snapshot.calls.get(setting) or _made_anew(snapshot, setting, window)
        # For tensors without strides torch's guards end the process.
        if settings is None or x.is_nested or (residual is not None and residual.is_nested):
            return None
    except (TypeError, AttributeError):  # a list has no hash; what is no tensor
        return None
    threads, present = get_num_threads(), settings.present(tensors)
    for kept in settings.kept:
        if kept.threads == threads and kept.reads(x, *present) and (kept.adds is None or kept.adds(residual)):
            break
    else:
        return None
    if dispatch_modes() or forward_ad._current_level >= 0:
        return None
    if is_grad_enabled() and needs_gradient((x, residual, *tensors)):
        return None if residual is not None else found_recorded(identities, setting, x, tensors)
    if not snapshot.is_current(tensors):
        return None
    if kept is not settings.kept[0]:
        settings.kept = (kept, *(other for other in settings.kept if other is not kept))
    out = kept.bound.run(x, residual, kept.pack, snapshot.prints.address)
    if out is None:
        weights.forget(identities)
    return out


def keep(
    setting: Setting,
    x: Tensor,
    residual: Tensor | None,
    tensors: Tensors,
    window: tuple[object, ...],
    prepared: Prepared,
) -> None:
    """Let `found` use what was prepared for calls like this one, as long as its weights stay as they were."""
    snapshot = prepared.snapshot
    if not is_plain_window(window):  # a list may change, a tensor too
        return
    if prepared.recorded and residual is None:
        _keep_recorded(setting, x, tensors, window, prepared.bound)
    if snapshot is None:
        return
    around = circumstances.get()
    if around is not ORDINARY:
        setting = (*setting, around.asked)
    settings = snapshot.calls.get(setting) or _made_anew(snapshot, setting, window)
    if settings is None:
        settings = Settings(tensors, window)
        by_value = _by_value(setting, window)
        snapshot.calls.update(dict.fromkeys([setting] if by_value is None else [setting, by_value], settings))
        for oldest in [*snapshot.calls][:-_MOST_SETTINGS]:
            snapshot.calls.pop(oldest, None)
    adds = None if residual is None else guard(residual)
    reads = guard(x, *settings.present(tensors))
    entry = Kept(prepared.bound, prepared.pack, get_num_threads(), reads, adds)
    settings.kept = (entry, *settings.kept[: _MOST_INPUTS - 1])


class Recorded:
    """What ran calls that read their weights afresh, with tensors of these identities in a setting, the latest first.

    Nothing of weights is in it, so that it is right for whichever tensors pass its guards.
    """

    __slots__ = ("kept", "present", "window")

    def __init__(self, tensors: Tensors, window: tuple[object, ...]) -> None:
        self.present = _present(tensors)
        self.window = window
        self.kept: tuple[tuple[Bound, int, Callable[..., bool]], ...] = ()


# Those that were seen first go first.
_recorded: dict[tuple[Identities, Setting], Recorded] = {}


def found_recorded(identities: Identities, setting: Setting, x: Tensor, tensors: Tensors) -> Tensor | None:
    """The result of a call that reads its weights afresh, like one before; None where it must be looked at anew."""
    try:
        known = _recorded.get((identities, setting))
        if known is None or x.is_nested or circumstances.get() is not ORDINARY:
            return None
    except (TypeError, AttributeError):  # a list has no hash; what is no tensor
        return None
    if dispatch_modes() or forward_ad._current_level >= 0:
        return None
    asked, present = get_num_threads(), known.present(tensors)
    for own, threads, reads in known.kept:
        if threads == asked and reads(x, *present):
            return own.run(x, None, tensors, NO_PRINTS.address)
    return None


def _keep_recorded(setting: Setting, x: Tensor, tensors: Tensors, window: tuple[object, ...], bound: Bound) -> None:
    if circumstances.get() is not ORDINARY or any(x is tensor for tensor in tensors):
        return
    key = weights.identities_of(tensors), setting
    known = Recorded(tensors, window)
    with _lock.mine:
        # The identities in a setting are the window's as long as that lives: of an equal key it is the same.
        known = _recorded.setdefault(key, known)
        entry = bound, get_num_threads(), guard(x, *known.present(tensors))
        known.kept = (entry, *known.kept[: _MOST_INPUTS - 1])
        while len(_recorded) > _MOST_BOUND:
            del _recorded[next(iter(_recorded))]


class Seen(Generic[Made]):
    """What ran calls like earlier ones of layers that autograd records.

    Nothing of tensors is in an entry, so that it is right for whichever pass its guard. A guard takes no more tensors
    than it was made of, nor fewer, so a call is known by their number too.
    """

    _MOST_INPUTS = 16

    def __init__(self) -> None:
        # Those that were seen first go first.
        self._known: dict[tuple[int, Hashable], tuple[tuple[int, Callable[..., bool], Made], ...]] = {}

    def found(self, key: Hashable, tensors: Sequence[Tensor]) -> Made | None:
        """What ran a call of this key and of tensors like these, an image first, or None."""
        try:
            known = self._known.get((len(tensors), key))
        except TypeError:  # a list has no hash
            return None
        # Torch's guards end the process where a tensor has no strides.
        if known is None or tensors[0].is_nested or circumstances.get() is not ORDINARY:
            return None
        if dispatch_modes() or forward_ad._current_level >= 0:
            return None
        asked = get_num_threads()
        for threads, reads, made in known:
            if threads == asked and reads(*tensors):
                # Freed memory is looked at anew.
                return made if all(map(Tensor.data_ptr, tensors)) else None
        return None

    def keep(self, key: Hashable, tensors: Sequence[Tensor], made: Made) -> None:
        if circumstances.get() is not ORDINARY:
            return
        entry = get_num_threads(), guard(*tensors), made
        place = len(tensors), key
        self._known[place] = (entry, *self._known.get(place, ())[: self._MOST_INPUTS - 1])
        for oldest in [*self._known][:-_MOST_BOUND]:
            self._known.pop(oldest, None)


_bound: OrderedDict[Hashable, Any] = OrderedDict()
_lock = Lock()


def bound(key: Hashable, bind: Callable[[], Made]) -> Made:
    """What a problem is bound to, known by value; `key` says it, and all else that binding goes by."""
    with _lock.mine:
        if key in _bound:
            _bound.move_to_end(key)
            known: Made = _bound[key]
            return known
    made = bind()
    if made is None:
        return made
    with _lock.mine:
        _bound[key] = made
        while len(_bound) > _MOST_BOUND:
            _bound.popitem(last=False)
    return made


def is_plain_window(value: object) -> bool:
    """Whether a window's argument can be told by its value: True and 1.0 would pass for 1, and a list has no hash."""
    return type(value) in (int, str) or (isinstance(value, tuple) and all(map(is_plain_window, value)))


def _by_value(setting: Setting, window: tuple[object, ...]) -> Setting | None:
    """The setting by the window's values, where equal ones may be other objects, as tuples may."""
    if not any(isinstance(value, tuple) for value in window) or not is_plain_window(window):
        return None
    return (*window, *setting[len(window) :])


def _made_anew(snapshot: Snapshot, setting: Setting, window: tuple[object, ...]) -> Settings | None:
    """Settings kept of a call whose window had equal arguments."""
    by_value = _by_value(setting, window)
    return None if by_value is None else snapshot.calls.get(by_value)


def _present(tensors: Tensors) -> Callable[[Tensors], Sequence[Tensor]]:
    """What takes from tensors like these each that is there, once: torch's guards want no other."""
    first = {id(tensor): i for i, tensor in reversed([*enumerate(tensors)]) if tensor is not None}
    places = sorted(first.values())
    return itemgetter(*places) if len(places) > 1 else itemgetter(slice(places[0], places[0] + 1))


def guard(*tensors: Tensor) -> Callable[..., bool]:
    # torch's annotation leaves the tensors out.
    make: Any = TensorGuards
    sizes, strides = [list(tensor.shape) for tensor in tensors], [list(tensor.stride()) for tensor in tensors]
    return make(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides).check  # type: ignore[no-any-return]
