"""Machine code kept on disk, in a folder of this user's alone, so that no process compiles what another one did.

An entry is one file: MAGIC, a digest over its identity and its content, and the content, an object file. Its identity
is whatever the content depends on: LLVM, the machine, the source of this package of generators, and the module's key. A
file that does not check out is never loaded; it counts as absent and is written anew.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import llvmlite
import platformdirs
from llvmlite.binding import llvm_version_info

from ..machine import Machine

MAGIC = b"depthwise kernel 1\n"
SUFFIX = ".depthwise-kernel"
LIMIT_BYTES = 256 * 2**20

# One write in so many looks at the folder's size.
PRUNE_ONE_IN = 32
_UNFINISHED = SUFFIX + ".tmp"
_ABANDONED_SECONDS = 3600

# Windows has neither owners nor permission bits of this kind, nor these flags; there a user's folders are private.
_POSIX = os.name == "posix"
# A FIFO in an entry's place would block without O_NONBLOCK.
_READ = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))


@dataclass(frozen=True, slots=True)
class Usage:
    """Entries of the cache folder and what they weigh; `refusal` says why nothing is kept, or is None."""

    folder: Path | None
    entries: int
    bytes: int
    refusal: str | None


def read(key: str, machine: Machine) -> bytes | None:
    """The object file kept for this key, or None."""
    folder = _usable_folder()
    if folder is None:
        return None
    identity = _identity(key, machine)
    try:
        data = _read_own(folder / (identity + SUFFIX))
    except OSError:
        return None
    size = len(MAGIC) + sha256().digest_size
    header, content = data[:size], data[size:]
    return content if header == _header(identity, content) else None


def write(key: str, machine: Machine, object_code: bytes) -> None:
    """Keep an object file for this key, where there is a place for it."""
    folder = _usable_folder()
    if folder is None:
        return
    identity = _identity(key, machine)
    # A full disk or a folder removed meanwhile: the cache does without.
    with suppress(OSError):
        _replace(folder / (identity + SUFFIX), _header(identity, object_code) + object_code)
        if int(identity[:8], 16) % PRUNE_ONE_IN == 0:
            _prune(folder)


def refusal() -> str | None:
    """Why nothing is kept on disk, or None where it is. Makes the folder where it is missing."""
    folder = _named_folder()
    if folder is None:
        return "DEPTHWISE_CACHE_DIR turns it off"
    if _SOURCE is None:
        return "the source of the code generator cannot be read"
    if not folder.is_absolute():
        return f"{folder} is not an absolute path"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        return f"{folder} cannot be made: {error.strerror}"
    if not stat.S_ISDIR(status.st_mode):
        return f"{folder} is a symbolic link"
    if not _is_owned(status):
        return f"{folder} belongs to another user"
    if not _is_private(status):
        return f"{folder} can be written by other users; chmod go-w would change that"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder} cannot be written"
    return None


def usage() -> Usage:
    """What is kept on disk now."""
    folder = _usable_folder()
    entries = [] if folder is None else _files(folder, SUFFIX)
    return Usage(_named_folder(), len(entries), sum(size for _, size, _ in entries), refusal())


def clear() -> Usage:
    """Remove every entry; what was removed."""
    before = usage()
    folder = _usable_folder()
    if folder is not None:
        for _, _, path in _files(folder, SUFFIX):
            path.unlink(missing_ok=True)
        _remove_abandoned(folder)
    return before


def _usable_folder() -> Path | None:
    return None if refusal() else _named_folder()


def _named_folder() -> Path | None:
    named = os.environ.get("DEPTHWISE_CACHE_DIR")
    if named is None:
        return platformdirs.user_cache_path("depthwise", appauthor=False) / "kernels"
    return None if named in ("", "off") else Path(named)


def _is_owned(status: os.stat_result) -> bool:
    return not _POSIX or status.st_uid == os.geteuid()


def _is_private(status: os.stat_result) -> bool:
    return not _POSIX or not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _source_digest(folder: Path) -> str | None:
    """A digest of the text of every module in a folder; None where there is no text, as in a zip file."""
    try:
        texts = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.py")}
    except OSError:
        return None
    lines = sorted(f"{name} {sha256(text).hexdigest()}" for name, text in texts.items())
    return sha256("\n".join(lines).encode()).hexdigest() if lines else None


# Read when the modules themselves are, so that a file edited later does not lend its digest to the code of before.
_SOURCE = _source_digest(Path(__file__).parents[1])


def _identity(key: str, machine: Machine) -> str:
    return sha256(repr((llvm_version_info, llvmlite.__version__, _SOURCE, machine, key)).encode()).hexdigest()


def _header(identity: str, content: bytes) -> bytes:
    return MAGIC + sha256(identity.encode() + content).digest()


def _read_own(path: Path) -> bytes:
    """The bytes of a regular file that only this user writes; nothing where it is something else."""
    with os.fdopen(os.open(path, _READ), "rb") as file:
        status = os.fstat(file.fileno())
        trusted = stat.S_ISREG(status.st_mode) and _is_owned(status) and _is_private(status)
        return file.read() if trusted else b""


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that every reader sees all of it or what was there before."""
    # mkstemp's mode is 0600.
    descriptor, name = tempfile.mkstemp(suffix=_UNFINISHED, dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _remove_abandoned(folder: Path) -> None:
    """Remove what interrupted writers left behind."""
    for modified, _, path in _files(folder, _UNFINISHED):
        if time.time() - modified > _ABANDONED_SECONDS:
            path.unlink(missing_ok=True)


def _prune(folder: Path) -> None:
    """Where the entries weigh more than the limit, remove the oldest until three quarters of it are left."""
    _remove_abandoned(folder)
    entries = _files(folder, SUFFIX)
    total = sum(size for _, size, _ in entries)
    if total <= LIMIT_BYTES:
        return
    for _, size, path in entries:
        path.unlink(missing_ok=True)
        total -= size
        if total <= LIMIT_BYTES * 3 // 4:
            return


def _files(folder: Path, suffix: str) -> list[tuple[float, int, Path]]:
    """When each file of this suffix was written, its bytes and its path, the oldest first."""
    files = []
    for path in folder.glob("*" + suffix):
        # Another process may have removed it since.
        with suppress(FileNotFoundError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                files.append((status.st_mtime, status.st_size, path))
    return sorted(files)
