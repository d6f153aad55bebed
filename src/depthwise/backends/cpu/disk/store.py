"""Machine code kept on disk, in a folder of this user's alone, so that no process compiles what another one did.

An entry is one file: MAGIC, a digest over its identity and its content, the same signed with this user's key, and the
content, an object file. Its identity is whatever the content depends on: LLVM, the machine, the source of this package
of generators, and the module's key. A file that does not check out is never loaded; it counts as absent and is written
anew.

The key lies apart from the entries, in the user's folder for such things, so that a file that somebody else brought
into the folder of entries is not loaded, whoever it seems to belong to. What root filled, as the builder of an image
does, is taken where DEPTHWISE_CACHE_TRUST=root says so: by its owner, without a signature.
"""

from __future__ import annotations

import hmac
import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import llvmlite
import platformdirs

from . import private
from .private import RefusedError

MAGIC = b"depthwise kernel 2\n"
SUFFIX = ".depthwise-kernel"
LIMIT_BYTES = 256 * 2**20

# One write in so many looks at the folder's size.
PRUNE_ONE_IN = 32
_UNFINISHED = SUFFIX + ".tmp"
_ABANDONED_SECONDS = 3600
_DIGEST_BYTES = sha256().digest_size
HEADER_BYTES = len(MAGIC) + 2 * _DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class Usage:
    """Entries of the cache folder and what they weigh; `refusal` says why nothing is added, or is None."""

    folder: Path | None
    entries: int
    bytes: int
    refusal: str | None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where entries are, and what tells them from others.

    key:          this user's; None where there is none and entries of root's alone are read
    trusts_root:  whether those are
    unwritable:   why nothing is added, or None
    """

    folder: Path
    key: bytes | None
    trusts_root: bool
    unwritable: str | None


def read(key: str, machine: object) -> bytes | None:
    """What was kept for this key and this machine, an object file or what its LLVM calls it; None where nothing was."""
    place = _place()
    if isinstance(place, str):
        return None
    identity = _identity(key, machine)
    try:
        data, own = private.read(place.folder / (identity + SUFFIX), may_be_roots=place.trusts_root)
    except OSError:
        return None
    content = data[HEADER_BYTES:]
    digest, signature = _marks(identity, content, place.key)
    if not data.startswith(MAGIC + digest):
        return None
    by_root = place.trusts_root and (not own or os.geteuid() == 0)
    signed = hmac.compare_digest(data[len(MAGIC) + _DIGEST_BYTES : HEADER_BYTES], signature) and place.key is not None
    return content if by_root or signed else None


def write(key: str, machine: object, object_code: bytes) -> None:
    """Keep an object file for this key, where there is a place for it."""
    place = _place()
    if isinstance(place, str) or place.unwritable:
        return
    identity = _identity(key, machine)
    marks = b"".join(_marks(identity, object_code, place.key))
    # A full disk or a folder removed meanwhile: the cache does without.
    with suppress(OSError):
        private.replace(place.folder / (identity + SUFFIX), MAGIC + marks + object_code)
        if int(identity[:8], 16) % PRUNE_ONE_IN == 0:
            _prune(place.folder)


def refusal() -> str | None:
    """Why nothing is added on disk, or None where it is. Makes the folder where it is missing."""
    place = _place()
    return place if isinstance(place, str) else place.unwritable


def summary() -> str:
    """Where kernels are kept, in a few words."""
    place = _place()
    if isinstance(place, str):
        return f"kernels kept in memory only: {place}"
    if place.unwritable:
        return f"kernels read from {place.folder}, others kept in memory only: {place.unwritable}"
    return f"kernels kept in {place.folder}"


def usage() -> Usage:
    """What is kept on disk now."""
    place = _place()
    if isinstance(place, str):
        return Usage(_named_or_none(), 0, 0, place)
    return _weighed(place, _files(place.folder, SUFFIX))


def clear() -> Usage:
    """Remove every entry, this user's key, and their folders where nothing else is in them; what was removed."""
    place = _place()
    if isinstance(place, str) or place.unwritable:
        return Usage(_named_or_none(), 0, 0, refusal())
    removed = []
    for entry in _files(place.folder, SUFFIX):
        # Another process may have removed it since, or a file system may be read-only in spite of its bits.
        with suppress(OSError):
            entry[-1].unlink()
            removed.append(entry)
    with suppress(OSError):
        _remove_abandoned(place.folder)
    with suppress(OSError, RefusedError):
        _key_path().unlink(missing_ok=True)
        _key_path().parent.rmdir()
    for folder in (place.folder, *([] if "DEPTHWISE_CACHE_DIR" in os.environ else [place.folder.parent])):
        with suppress(OSError):
            folder.rmdir()
    return _weighed(place, removed)


def _weighed(place: _Place, entries: list[tuple[float, int, Path]]) -> Usage:
    return Usage(place.folder, len(entries), sum(size for _, size, _ in entries), place.unwritable)


def _place() -> _Place | str:
    """The place, or why there is none."""
    try:
        if _SOURCE is None:
            return "the source of the code generator cannot be read"
        trusts_root = _trusts_root()
        folder = private.folder(_named_folder(), may_be_roots=trusts_root)
        unwritable = private.unwritable(folder)
        try:
            return _Place(folder, private.key(_key_path()), trusts_root, unwritable)
        except RefusedError as error:
            if not trusts_root:
                raise
            return _Place(folder, None, trusts_root, unwritable or str(error))
    except RefusedError as error:
        return str(error)


def _trusts_root() -> bool:
    named = os.environ.get("DEPTHWISE_CACHE_TRUST", "")
    if named not in ("", "root"):
        raise RefusedError(f"DEPTHWISE_CACHE_TRUST is root or empty; got {named!r}")
    return named == "root"


def _named_folder() -> Path:
    named = os.environ.get("DEPTHWISE_CACHE_DIR")
    if named in ("", "off"):
        raise RefusedError("DEPTHWISE_CACHE_DIR turns it off")
    if named is not None:
        return Path(named)
    try:
        return platformdirs.user_cache_path("depthwise", appauthor=False) / "kernels"
    except (RuntimeError, OSError, KeyError) as error:
        raise RefusedError(_HOMELESS) from error


def _named_or_none() -> Path | None:
    try:
        return _named_folder()
    except RefusedError:
        return None


def _key_path() -> Path:
    try:
        return platformdirs.user_state_path("depthwise", appauthor=False) / "key"
    except (RuntimeError, OSError, KeyError) as error:
        raise RefusedError(_HOMELESS) from error


_HOMELESS = "this user has no home folder; HOME can name one"


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


def _library_bytes() -> int:
    """Size of LLVM's library: which LLVM a version of llvmlite was built with, told without loading it."""
    files = Path(llvmlite.__file__).with_name("binding").glob("*llvmlite*")
    return sum(path.stat().st_size for path in files)


_LLVM = llvmlite.__version__, _library_bytes()


def _identity(key: str, machine: object) -> str:
    return sha256(repr((_LLVM, _SOURCE, machine, key)).encode()).hexdigest()


def _marks(identity: str, content: bytes, key: bytes | None) -> tuple[bytes, bytes]:
    """The digest of an entry, and its signature; without a key the digest stands for that."""
    marked = identity.encode() + content
    digest = sha256(marked).digest()
    return digest, digest if key is None else hmac.digest(key, marked, "sha256")


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
        with suppress(OSError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                files.append((status.st_mtime, status.st_size, path))
    return sorted(files)
