"""The cache folder: private, and nothing that does not check out is ever loaded."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from depthwise.backends.cpu import machine
from depthwise.backends.cpu.run import store

MACHINE = machine.neon()
CODE = b"\x7fELF and more" * 100

posix = pytest.mark.skipif(os.name != "posix", reason="owners and permission bits are POSIX's")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kernels"
    monkeypatch.setenv("DEPTHWISE_CACHE_DIR", str(path))
    return path


def entry(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_what_was_written_is_read_under_its_key_and_machine_alone(folder: Path) -> None:
    assert store.read("key", MACHINE) is None
    store.write("key", MACHINE, CODE)
    assert store.read("key", MACHINE) == CODE
    assert store.read("other key", MACHINE) is None
    for other in (
        replace(MACHINE, features="+sve"),
        replace(MACHINE, cpu="cortex-a72"),
        replace(MACHINE, triple="aarch64"),
        replace(MACHINE, isa="sve"),
    ):
        assert store.read("key", other) is None


@pytest.mark.parametrize(("name", "value"), [("llvm_version_info", (1, 2, 3)), ("_SOURCE", "another digest")])
def test_another_llvm_or_another_generator_has_its_own_entries(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    store.write("key", MACHINE, CODE)
    monkeypatch.setattr(store, name, value)
    assert store.read("key", MACHINE) is None


def test_the_source_digest_changes_with_every_file(tmp_path: Path) -> None:
    assert store._source_digest(tmp_path) is None
    (tmp_path / "one.py").write_text("x = 1")
    digests = [store._source_digest(tmp_path)]
    (tmp_path / "one.py").write_text("x = 2")
    digests.append(store._source_digest(tmp_path))
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "two.py").write_text("")
    digests.append(store._source_digest(tmp_path))
    (tmp_path / "notes.txt").write_text("not code")
    assert store._source_digest(tmp_path) == digests[-1]
    assert len(set(digests)) == 3
    (tmp_path / "three.py").mkdir()
    assert store._source_digest(tmp_path) is None


@posix
def test_folder_and_entries_are_private(folder: Path) -> None:
    before = os.umask(0)
    try:
        store.write("key", MACHINE, CODE)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(entry(folder).stat().st_mode) == 0o600


def flip(position: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "header alone": lambda data: data[: len(store.MAGIC) + 32],
    "cut short": lambda data: data[:-1],
    "too long": lambda data: data + b"\0",
    "foreign": lambda data: b"#!/bin/sh\n" * 100,
    "magic": flip(0),
    "digest": flip(len(store.MAGIC)),
    "content": flip(-1 - len(CODE) // 2),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_entry_is_ignored_and_replaced(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    store.write("key", MACHINE, CODE)
    path = entry(folder)
    path.write_bytes(damage(path.read_bytes()))
    assert store.read("key", MACHINE) is None
    store.write("key", MACHINE, CODE)
    assert store.read("key", MACHINE) == CODE


def test_the_entry_of_another_key_is_ignored(folder: Path) -> None:
    store.write("key", MACHINE, CODE)
    path = entry(folder)
    data = path.read_bytes()
    path.unlink()
    store.write("other key", MACHINE, b"other code")
    entry(folder).write_bytes(data)
    assert store.read("other key", MACHINE) is None


@posix
@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo", "writable by all", "of another user"])
def test_what_is_no_file_of_this_users_alone_is_ignored(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    store.write("key", MACHINE, CODE)
    path = entry(folder)
    good = path.rename(tmp_path / "good")
    if kind == "symlink":
        path.symlink_to(good)
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "writable by all":
        good.rename(path).chmod(0o666)
    else:
        good.rename(path)
        monkeypatch.setattr(store, "_is_owned", lambda status: stat.S_ISDIR(status.st_mode))
    assert store.read("key", MACHINE) is None
    store.write("key", MACHINE, CODE)
    if kind in ("symlink", "fifo", "writable by all"):
        assert store.read("key", MACHINE) == CODE


def assert_nothing_is_kept(reason: str) -> None:
    assert reason in (store.refusal() or "")
    store.write("key", MACHINE, CODE)
    assert store.read("key", MACHINE) is None
    usage = store.usage()
    assert (usage.entries, usage.bytes) == (0, 0)
    assert reason in (usage.refusal or "")
    assert store.clear().entries == 0


@pytest.mark.parametrize(
    ("value", "reason"),
    [("", "DEPTHWISE_CACHE_DIR turns it off"), ("off", "turns it off"), ("kernels", "not an absolute path")],
)
def test_refused_by_name(monkeypatch: pytest.MonkeyPatch, value: str, reason: str) -> None:
    monkeypatch.setenv("DEPTHWISE_CACHE_DIR", value)
    assert_nothing_is_kept(reason)


def test_refused_where_a_file_is_in_the_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_text("")
    assert_nothing_is_kept("cannot be made")
    monkeypatch.setenv("DEPTHWISE_CACHE_DIR", str(folder / "below"))
    assert_nothing_is_kept("cannot be made")


@posix
def test_refused_as_a_symlink(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "real")
    assert_nothing_is_kept("is a symbolic link")
    assert not list((tmp_path / "real").iterdir())


@posix
@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_refused_where_others_can_write(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    assert_nothing_is_kept("can be written by other users")
    folder.chmod(0o755)
    assert store.refusal() is None


@posix
def test_refused_where_another_user_owns_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("key", MACHINE, CODE)
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    assert_nothing_is_kept("belongs to another user")


def test_refused_where_it_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A test may run as root, who can write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert_nothing_is_kept("cannot be written")


def test_refused_where_the_generator_has_no_source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_SOURCE", None)
    assert_nothing_is_kept("source of the code generator cannot be read")


def test_owners_and_modes_are_not_asked_where_there_are_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_POSIX", False)
    monkeypatch.delattr(os, "geteuid", raising=False)
    folder.mkdir()
    folder.chmod(0o777)
    store.write("key", MACHINE, CODE)
    assert store.read("key", MACHINE) == CODE


def test_without_the_variable_it_is_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DEPTHWISE_CACHE_DIR", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name, appauthor: tmp_path / name)
    assert store.usage().folder == tmp_path / "depthwise" / "kernels"


@pytest.mark.parametrize("step", ["tempfile.mkstemp", "pathlib.Path.replace"])
def test_a_disk_that_fails_is_no_error(folder: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*arguments: object, **names: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step, fail)
    store.write("key", MACHINE, CODE)
    assert not list(folder.iterdir())


def test_the_oldest_entries_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PRUNE_ONE_IN", 1)
    monkeypatch.setattr(store, "LIMIT_BYTES", 10 * (len(CODE) + len(store.MAGIC) + 32))
    for number in range(10):
        store.write(f"key {number}", MACHINE, CODE)
        newest = max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (1_000_000 + number, 1_000_000 + number))
    assert store.usage().entries == 10
    store.write("key 10", MACHINE, CODE)
    kept = [number for number in range(11) if store.read(f"key {number}", MACHINE) == CODE]
    assert kept == [4, 5, 6, 7, 8, 9, 10]


def test_what_interrupted_writers_left_goes_after_an_hour(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PRUNE_ONE_IN", 1)
    store.write("key", MACHINE, CODE)
    for name, age in (("old", 4000), ("new", 100)):
        path = folder / f"{name}{store.SUFFIX}.tmp"
        path.write_bytes(b"half")
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    store.write("other key", MACHINE, CODE)
    assert [path.name for path in folder.glob("*.tmp")] == [f"new{store.SUFFIX}.tmp"]


def test_usage_and_clear(folder: Path) -> None:
    for number in range(3):
        store.write(f"key {number}", MACHINE, CODE)
    (folder / "notes.txt").write_text("not ours")
    used = store.usage()
    assert used == store.Usage(folder, 3, 3 * (len(CODE) + len(store.MAGIC) + 32), None)
    assert store.clear() == used
    assert store.usage() == store.Usage(folder, 0, 0, None)
    assert entry(folder).name == "notes.txt"


def test_readers_see_whole_entries_while_others_write(folder: Path) -> None:
    contents = [bytes([letter]) * 50_000 for letter in b"ab"]
    store.write("key", MACHINE, contents[0])

    def keep_writing(content: bytes) -> None:
        for _ in range(25):
            store.write("key", MACHINE, content)

    writers = [threading.Thread(target=keep_writing, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert store.read("key", MACHINE) in contents
    assert store.usage().entries == 1
