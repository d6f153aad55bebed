"""Memory of training steps, used again: never while something is in it, and no more than was in use at once."""

from __future__ import annotations

import gc
import io
import os
import pickle
import subprocess
import sys
import threading
from random import Random

import pytest
import torch
from torch import Tensor

from depthwise import accelerate_, functional, restore_
from depthwise.backends.cpu import machine
from depthwise.backends.cpu.run import leases, memory
from depthwise.backends.cpu.run.leases import LEAST_BYTES, Leases
from depthwise.backends.cpu.run.ranges import Range, Ranges

pytestmark = pytest.mark.skipif(not memory.MAPS, reason="memory is mapped on Linux alone")
MANY = LEAST_BYTES // 4
# What a block takes beside what is in it.
APART = 4096 + 5 * 64


def new(own: Leases, elements: int) -> Tensor:
    return own.new((elements,), (1,))


def test_memory_is_used_again_once_nothing_refers_to_it() -> None:
    own = Leases()
    first = own.new((2, MANY // 2), (1, 2))
    assert (first.shape, first.stride(), first.dtype, first.is_leaf) == ((2, MANY // 2), (1, 2), torch.float32, True)
    assert first.untyped_storage().nbytes() == LEAST_BYTES
    assert not first._is_view()
    address = first.data_ptr()
    assert address % 64 == 0
    assert (address - new(own, 2 * MANY).data_ptr()) % 4096
    row = first[1].fill_(3.0)
    del first
    assert new(own, MANY).data_ptr() != address
    array = row.detach().numpy()
    del row
    assert new(own, MANY).data_ptr() != address
    assert array[7] == 3.0
    del array
    both = [new(own, MANY), new(own, MANY)]
    assert address in [each.data_ptr() for each in both]
    both.clear()
    assert own.bytes == (0, 3 * LEAST_BYTES + 2 * APART)


def test_the_latest_of_one_size_comes_first() -> None:
    own = Leases()
    new(own, 16 * MANY)
    one, between, other = (new(own, MANY) for _ in range(3))
    _last = new(own, MANY)
    first, second = one.data_ptr(), other.data_ptr()
    del other
    new(own, 8 * MANY)
    del one
    held = [new(own, MANY), new(own, MANY)]
    assert [each.data_ptr() for each in held] == [first, second]
    assert between.data_ptr() not in (first, second)


def test_blocks_are_cut_from_larger_ones_and_become_one_again() -> None:
    own = Leases()
    large = new(own, 8 * MANY)
    address, used = large.data_ptr(), own.bytes[0]
    del large
    halves = [new(own, 3 * MANY), new(own, 3 * MANY)]
    assert halves[0].data_ptr() == address
    assert halves[1].data_ptr() == address + 3 * LEAST_BYTES + APART
    assert sum(own.bytes) == used
    halves.reverse()
    halves.clear()
    assert new(own, 8 * MANY).data_ptr() == address
    assert own.bytes == (0, used)


@pytest.mark.parametrize("seed", range(3))
def test_steps_alike_ask_the_system_for_hardly_anything(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Sizes and lives of a step's tensors: what a forward makes and a backward frees, and what lives shortly."""
    own, random, taken = Leases(), Random(seed), Leases._taken_cold
    cold: list[int] = []

    def counted(own: Leases, size: int) -> int:
        cold.append(size)
        return taken(own, size)

    monkeypatch.setattr(Leases, "_taken_cold", counted)
    sizes = [MANY * random.choice((1, 1, 2, 3, 4, 8, 12)) for _ in range(60)]

    def step() -> None:
        saved = []
        for size in sizes:
            saved.append(new(own, size))
            new(own, size)
        gradient = new(own, sizes[-1])
        while saved:
            gradient = new(own, saved.pop().numel())
        del gradient

    step()
    assert cold
    step()
    cold.clear()
    step()
    # What fits into none of the pieces that are free.
    assert sum(cold) <= 4 * 2 * sum(sizes) // 20


def test_a_limit_on_addresses_leaves_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = memory.mapped

    def limited(size: int) -> memory.Mapping:
        if size > 4 * LEAST_BYTES:
            raise OSError(12, "Cannot allocate memory")
        return mapped(size)

    monkeypatch.setattr(memory, "mapped", limited)
    own = Leases()
    assert new(own, 2 * MANY).fill_(1.0)[-1] == 1.0
    with pytest.raises(OSError, match="Cannot allocate"):
        new(own, 8 * MANY)


def test_no_more_is_kept_than_was_in_use_at_once() -> None:
    own, random = Leases(), Random(0)
    most, held = 0, []
    for _ in range(300):
        held.append(new(own, random.randrange(MANY, 9 * MANY)))
        if random.random() < 0.6:
            held.pop(random.randrange(len(held)))
        held = held[-6:]
        used, free = own.bytes
        most = max(most, used)
        # The last one may have been taken beyond what was in use before; what is free goes in whole pages.
        assert used + free <= (most + 10 * LEAST_BYTES) * 17 // 16
    held.clear()
    assert own.bytes[0] == 0
    own.release()
    assert own.bytes == (0, 0)


def test_what_was_in_use_long_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_LEASES", 8)
    own = Leases()
    held = [new(own, 3 * MANY + index) for index in range(6)]
    held.clear()
    assert own.bytes[1] > 17 * LEAST_BYTES
    for index in range(40):
        new(own, MANY + index % 2 * 8 * MANY)
    assert own.bytes[1] <= 11 * LEAST_BYTES


def test_threads_take_and_free_at_once() -> None:
    own, wrong = Leases(), []

    def work(number: int) -> None:
        random = Random(number)
        for turn in range(200):
            tensor = new(own, MANY + random.randrange(3) * 1024)
            value = float(1000 * number + turn)
            tensor[::4096] = value
            tensor[-1] = value
            if not (tensor[::4096] == value).all() or tensor[-1] != value:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert own.bytes[0] == 0


def test_a_signals_handler_may_come_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    own, mapped, inner = Leases(), memory.mapped, []

    def interrupted(size: int) -> memory.Mapping:
        inner.append(new(own, MANY).fill_(2.0))
        own.release()
        own.before_fork()
        own.after_fork()
        return mapped(size)

    monkeypatch.setattr(memory, "mapped", interrupted)
    kept = new(own, MANY).fill_(1.0)
    assert own.bytes == (kept.nbytes + APART, 0)
    assert inner[0].data_ptr() != kept.data_ptr()
    assert (inner[0] == 2.0).all()


def test_tensors_are_as_any_other() -> None:
    own = Leases()
    tensor = new(own, MANY).fill_(2.0)
    stream = io.BytesIO()
    torch.save(tensor, stream)
    stream.seek(0)
    assert torch.equal(torch.load(stream), tensor)
    assert torch.equal(pickle.loads(pickle.dumps(tensor)), tensor)
    address = tensor.data_ptr()
    tensor.share_memory_()
    assert tensor.data_ptr() != address
    assert new(own, MANY).fill_(5.0).data_ptr() == address
    assert (tensor == 2.0).all()
    grown = tensor.requires_grad_() * 3
    grown.sum().backward()
    assert tensor.grad is not None
    assert bool((tensor.grad == 3.0).all())
    with torch.inference_mode():
        assert new(own, MANY).is_inference()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_finds_nothing_free_and_may_go_on() -> None:
    kept = leases.new_image((MANY,), (1,)).fill_(4.0)
    leases.new_image((2 * MANY,), (1,))
    assert leases._leases.bytes[1] > 0
    child = os.fork()
    if child == 0:
        ok = leases._leases.bytes[1] == 0 and bool((kept == 4.0).all())
        other = leases.new_image((MANY,), (1,)).fill_(9.0)
        os._exit(0 if ok and other.data_ptr() != kept.data_ptr() and kept[0] == 4.0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (kept == 4.0).all()
    assert leases._leases.bytes[1] == 0


@pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")
def test_training_steps_use_it_and_inference_does_not() -> None:
    gc.collect()
    x, weight = torch.randn(1, 4, 300, 300), torch.randn(4, 1, 3, 3)
    leases.release()
    before = leases._leases.bytes
    with torch.no_grad():
        kept = functional.depthwise_conv2d(x, weight, padding=1)
    assert leases._leases.bytes == before
    y = functional.depthwise_conv2d(x, weight.requires_grad_(), padding=1)
    assert leases._leases.bytes[0] >= before[0] + kept.nbytes
    del y
    assert leases._leases.bytes[1] > 0
    model = torch.nn.Conv2d(4, 4, 1)
    accelerate_(model)
    restore_(model)
    assert leases._leases.bytes[1] == 0


@pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")
def test_large_gradients_of_weights_are_in_it_too() -> None:
    gc.collect()
    x, weight = torch.randn(1, 512, 2, 2).contiguous(memory_format=torch.channels_last), torch.randn(1024, 512, 1, 1)
    y = functional.pointwise_conv(2, x, weight.requires_grad_(), None)
    used = leases._leases.bytes[0]
    y.sum().backward()
    assert weight.grad is not None
    assert leases._leases.bytes[0] == used + weight.grad.nbytes + APART
    torch.testing.assert_close(weight.grad[:, :, 0, 0], x.sum((0, 2, 3)).expand(1024, 512))
    weight.grad = None
    assert leases._leases.bytes[0] == used


def test_small_ones_and_other_systems_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    before = leases._leases.bytes
    small = leases.new_image((MANY - 1,), (1,))
    monkeypatch.setattr(memory, "MAPS", False)
    large = leases.new_image((MANY,), (1,))
    assert leases._leases.bytes == before
    assert (small.numel(), large.numel()) == (MANY - 1, MANY)


def test_freed_at_the_end_of_a_process() -> None:
    script = """if True:
        import torch
        from depthwise.backends.cpu.run import leases
        import builtins
        builtins.kept = leases.new_image((1 << 20,), (1,))
        x = torch.ones(1 << 20, requires_grad=True)
        graph = (x * leases.new_image((1 << 20,), (1,)).fill_(1.0)).sum()
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("method", ["_insert", "_remove"])
def test_an_interrupt_in_the_midst_leaves_nothing_half_done(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    leases = Leases()
    size = (1, LEAST_BYTES // 4)
    kept = [leases.new(size, (size[1], 1)).fill_(number) for number in range(8)]
    del kept[::2]
    right = getattr(Ranges, method)

    def interrupted(self: Ranges, each: Range) -> None:
        right(self, each)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ranges, method, interrupted)
        with pytest.raises(KeyboardInterrupt):
            leases.new(size, (size[1], 1))
    kept += [leases.new(size, (size[1], 1)).fill_(number) for number in range(8, 24)]
    for tensor, number in zip(kept, [1, 3, 5, 7, *range(8, 24)], strict=True):
        assert torch.equal(tensor, torch.full(size, float(number)))
    del tensor, kept
    assert leases.bytes[0] == 0
