"""The cache folder: private, and nothing that does not check out is ever loaded."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from depthwise import DepthwiseConv2d
from depthwise.backends.cpu import machine
from depthwise.backends.cpu.disk import private, store
from depthwise.doctor import machine_report

MACHINE = machine.neon()
CODE = b"\x7fELF and more" * 100

posix = pytest.mark.skipif(os.name != "posix", reason="owners and permission bits are POSIX's")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kernels"
    monkeypatch.setenv("DEPTHWISE_CACHE_DIR", str(path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
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


@pytest.mark.parametrize(("name", "value"), [("_LLVM", ("0.50.0", 1)), ("_SOURCE", "another digest")])
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
    "header alone": lambda data: data[: store.HEADER_BYTES],
    "cut short": lambda data: data[:-1],
    "too long": lambda data: data + b"\0",
    "foreign": lambda data: b"#!/bin/sh\n" * 100,
    "magic": flip(0),
    "digest": flip(len(store.MAGIC)),
    "signature": flip(len(store.MAGIC) + 32),
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
        monkeypatch.setattr(private, "is_own", lambda status: status.st_ino != path.stat().st_ino)
        monkeypatch.setattr(private, "_ROOT", -1)
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
    monkeypatch.setattr(private, "_ROOT", -1)
    monkeypatch.setattr(private, "is_own", lambda status: status.st_ino != folder.stat().st_ino)
    assert_nothing_is_kept("kernels belongs to another user")


@posix
def test_refused_below_a_folder_where_others_can_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = folder / "below" / "kernels"
    folder.mkdir()
    monkeypatch.setenv("DEPTHWISE_CACHE_DIR", str(below))
    folder.chmod(0o777)
    assert_nothing_is_kept(f"{folder} can be written by other users")
    assert not below.parent.exists()
    # Nobody moves what is another's there.
    folder.chmod(0o1777)
    store.write("key", MACHINE, CODE)
    assert store.read("key", MACHINE) == CODE
    assert stat.S_IMODE(below.parent.stat().st_mode) == 0o700
    below.chmod(0o1777)
    assert_nothing_is_kept(f"{below} can be written by other users")


@posix
@pytest.mark.parametrize(
    ("user", "group", "is_shared"),
    [
        (("me", 7, 70), ("me", 70, []), False),
        (("me", 7, 70), ("me", 70, ["me"]), False),
        (("me", 7, 70), ("me", 70, ["me", "you"]), True),
        (("me", 7, 70), ("staff", 70, []), True),
        (("me", 7, 71), ("me", 70, []), True),
        (("root", 0, 0), ("root", 0, []), True),
        (None, ("me", 70, []), True),
    ],
)
def test_a_group_of_this_user_alone_may_write_above_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, user: tuple[str, int, int] | None, group: Any, is_shared: bool
) -> None:
    below = folder / "kernels"
    folder.mkdir()
    folder.chmod(0o770)
    monkeypatch.setenv("DEPTHWISE_CACHE_DIR", str(below))
    monkeypatch.setattr(private, "_home", lambda: None)

    def of_user(uid: int) -> SimpleNamespace:
        if user is None:
            raise KeyError(uid)
        return SimpleNamespace(**dict(zip(("pw_name", "pw_uid", "pw_gid"), user, strict=True)))

    monkeypatch.setattr("pwd.getpwuid", of_user)
    names = ("gr_name", "gr_gid", "gr_mem")
    monkeypatch.setattr("grp.getgrgid", lambda gid: SimpleNamespace(**dict(zip(names, group, strict=True))))
    assert (store.refusal() is not None) == is_shared
    folder.chmod(0o707)
    assert_nothing_is_kept("can be written by other users")
    folder.chmod(0o700)
    assert store.refusal() is None
    below.chmod(0o770)
    assert_nothing_is_kept("can be written by other users")


@posix
def test_refused_below_a_folder_of_another_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    monkeypatch.setenv("DEPTHWISE_CACHE_DIR", str(folder / "kernels"))
    monkeypatch.setattr(private, "_ROOT", -1)
    monkeypatch.setattr(private, "is_own", lambda status: status.st_ino != folder.stat().st_ino)
    assert_nothing_is_kept(f"{folder} belongs to another user")


@posix
def test_links_above_the_folder_are_followed_once_and_for_all(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.setenv("DEPTHWISE_CACHE_DIR", str(tmp_path / "link" / "below"))
    assert store.usage() == store.Usage(folder / "below", 0, 0, None)
    folder.chmod(0o777)
    assert_nothing_is_kept(f"{folder} can be written by other users")


@posix
def test_nothing_above_the_users_home_is_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = folder / "home"
    home.mkdir(parents=True)
    folder.chmod(0o777)
    monkeypatch.setenv("DEPTHWISE_CACHE_DIR", str(home / "kernels"))
    assert_nothing_is_kept(f"{folder} can be written by other users")
    monkeypatch.setattr(private, "_home", lambda: home)
    assert store.refusal() is None
    home.chmod(0o707)
    assert_nothing_is_kept(f"{home} can be written by other users")


def unsigned(folder: Path, code: bytes) -> None:
    """What somebody without the key can write in place of the one entry."""
    path = entry(folder)
    digest = sha256(path.name.removesuffix(store.SUFFIX).encode() + code).digest()
    path.write_bytes(store.MAGIC + digest + digest + code)


def test_an_entry_without_this_users_signature_is_ignored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("key", MACHINE, CODE)
    unsigned(folder, CODE)
    assert store.read("key", MACHINE) is None
    store.write("key", MACHINE, CODE)
    assert store.read("key", MACHINE) == CODE
    monkeypatch.setenv("XDG_STATE_HOME", str(folder.parent / "another"))
    assert store.read("key", MACHINE) is None


@posix
@pytest.mark.parametrize(
    "kind", ["readable by the group", "linked", "symlink", "directory", "short", "of another user"]
)
def test_a_key_that_is_not_this_users_alone_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    store.write("key", MACHINE, CODE)
    key = tmp_path / "state" / "depthwise" / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    reason = "not a file that this user alone can read; remove it"
    if kind == "readable by the group":
        key.chmod(0o640)
    elif kind == "linked":
        os.link(key, tmp_path / "link")
    elif kind == "symlink":
        key.symlink_to(key.rename(tmp_path / "moved"))
        reason = "cannot be made or read"
    elif kind == "directory":
        key.unlink()
        key.mkdir()
        reason = "cannot be made or read"
    elif kind == "short":
        key.write_bytes(b"secret")
        reason = "does not hold a key; remove it"
    else:
        monkeypatch.setattr(private, "is_own", lambda status: status.st_ino != key.stat().st_ino)
    assert_nothing_is_kept(reason)


@posix
def test_a_key_where_others_can_write_is_refused(folder: Path, tmp_path: Path) -> None:
    store.write("key", MACHINE, CODE)
    (tmp_path / "state").chmod(0o777)
    assert_nothing_is_kept(f"{tmp_path / 'state'} can be written by other users")


def test_one_key_for_all_who_begin_at_once(folder: Path, tmp_path: Path) -> None:
    path, keys = tmp_path / "state" / "key", []
    threads = [threading.Thread(target=lambda: keys.append(private.key(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert private.key(path) == path.read_bytes()


@pytest.fixture
def roots(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an entry that are root's to this user, who has another key."""
    store.write("key", MACHINE, CODE)
    monkeypatch.setenv("XDG_STATE_HOME", str(folder.parent / "another"))
    theirs = {folder.stat().st_ino, entry(folder).stat().st_ino}
    monkeypatch.setattr(private, "_ROOT", folder.stat().st_uid)
    monkeypatch.setattr(private, "is_own", lambda status: status.st_ino not in theirs)
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    monkeypatch.setattr(private, "_home", lambda: None)
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder or not mode & os.W_OK)
    return folder


@posix
def test_what_root_filled_is_taken_where_a_setting_says_so(roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_nothing_is_kept(f"{roots} belongs to root; see DEPTHWISE_CACHE_TRUST")
    monkeypatch.setenv("DEPTHWISE_CACHE_TRUST", "root")
    assert store.read("key", MACHINE) == CODE
    store.write("other key", MACHINE, CODE)
    assert store.read("other key", MACHINE) is None
    assert store.usage().entries == 1
    assert store.summary() == f"kernels read from {roots}, others kept in memory only: {roots} cannot be written"
    assert store.clear().entries == 0
    entry(roots).write_bytes(entry(roots).read_bytes()[:-1] + b"?")
    assert store.read("key", MACHINE) is None


@posix
def test_what_root_filled_needs_no_key(roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTHWISE_CACHE_TRUST", "root")
    monkeypatch.setenv("XDG_STATE_HOME", str(entry(roots)))
    assert store.read("key", MACHINE) == CODE
    roots.chmod(0o777)
    assert_nothing_is_kept("can be written by other users")


def test_only_root_can_be_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTHWISE_CACHE_TRUST", "www-data")
    assert_nothing_is_kept("DEPTHWISE_CACHE_TRUST is root or empty; got 'www-data'")


def test_a_folder_that_became_read_only_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("key", MACHINE, CODE)
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    store.write("other key", MACHINE, CODE)
    assert (store.read("key", MACHINE), store.read("other key", MACHINE)) == (CODE, None)
    assert store.refusal() == f"{folder} cannot be written"


@pytest.mark.parametrize("failing", ["user_cache_path", "user_state_path"])
def test_refused_without_a_home(folder: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    def fail(*_: object, **__: object) -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(f"platformdirs.{failing}", fail)
    if failing == "user_cache_path":
        monkeypatch.delenv("DEPTHWISE_CACHE_DIR")
    assert_nothing_is_kept("this user has no home folder; HOME can name one")


def test_a_user_that_the_system_does_not_know_has_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    pwd = pytest.importorskip("pwd")

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert private._home() is None


@posix
def test_a_user_without_name_and_home_keeps_kernels_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("HOME", "DEPTHWISE_CACHE_DIR", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with torch.no_grad():
        assert DepthwiseConv2d(3, 3)(torch.ones(1, 3, 9, 9)).shape == (1, 3, 7, 7)
    assert_nothing_is_kept("")
    assert "kernels kept in memory only: " in str(machine_report())


def test_refused_where_it_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A test may run as root, who can write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert_nothing_is_kept("cannot be written")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert_nothing_is_kept("cannot be read; chmod -R a+rX by its owner would change that")


def test_refused_where_the_generator_has_no_source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_SOURCE", None)
    assert_nothing_is_kept("source of the code generator cannot be read")


def test_owners_and_modes_are_not_asked_where_there_are_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "_POSIX", False)
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
    monkeypatch.setattr(store, "LIMIT_BYTES", 10 * (len(CODE) + store.HEADER_BYTES))
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
    assert used == store.Usage(folder, 3, 3 * (len(CODE) + store.HEADER_BYTES), None)
    assert store.clear() == used
    assert store.usage() == store.Usage(folder, 0, 0, None)
    assert entry(folder).name == "notes.txt"


def test_clear_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    store.write("key", MACHINE, CODE)
    assert store.clear().entries == 1
    assert not folder.exists()
    assert not (tmp_path / "state" / "depthwise").exists()


def test_clear_of_what_cannot_be_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("key", MACHINE, CODE)

    def fail(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", fail)
    assert store.clear() == store.Usage(folder, 0, 0, None)
    assert store.usage().entries == 1


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
