"""Folders and files that nobody but this user, and root, can change or put others in the place of.

Where a system has no owners and permission bits of this kind (Windows), a user's folders are taken to be private.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

KEY_BYTES = 32

_ROOT = 0
_POSIX = os.name == "posix"
# A FIFO in a file's place would block without O_NONBLOCK.
_READ = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))


class RefusedError(Exception):
    """Why a folder or file is not used."""


def folder(path: Path, *, may_be_roots: bool = False) -> Path:
    """A folder of this user's alone, made where it is missing, without symbolic links in its path.

    may_be_roots: it may belong to root instead
    """
    if not path.is_absolute():
        raise RefusedError(f"{path} is not an absolute path")
    try:
        if path.is_symlink():
            raise RefusedError(f"{path} is a symbolic link")
        real = Path(os.path.realpath(path))
        # Nothing is made where it would be refused; and asked again, for somebody may have been quicker.
        _check(real, may_be_roots)
        _make(real)
        _check(real, may_be_roots)
    except OSError as error:
        raise RefusedError(f"{path} cannot be made: {error.strerror}") from error
    return real


def unwritable(path: Path) -> str | None:
    """Why no file can be made in a folder, as far as the system tells beforehand; raises where none can be read."""
    if not os.access(path, os.R_OK | os.X_OK):
        raise RefusedError(f"{path} cannot be read; chmod -R a+rX by its owner would change that")
    return None if os.access(path, os.W_OK | os.X_OK) else f"{path} cannot be written"


def read(path: Path, *, may_be_roots: bool = False) -> tuple[bytes, bool]:
    """The bytes of a regular file that only this user can write, and whether it is this user's own, not root's.

    Nothing where it is something else; OSError where there is none.
    """
    with os.fdopen(os.open(path, _READ), "rb") as file:
        status = os.fstat(file.fileno())
        own = is_own(status)
        trusted = own or (may_be_roots and status.st_uid == _ROOT)
        return (file.read() if stat.S_ISREG(status.st_mode) and trusted and is_private(status) else b""), own


def replace(path: Path, data: bytes) -> None:
    """Write a file so that every reader sees all of it or what was there before; nobody else can read it."""
    # mkstemp's mode is 0600.
    descriptor, name = tempfile.mkstemp(suffix=path.suffix + ".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def key(path: Path) -> bytes:
    """The secret in a file that this user alone can read, made where there is none."""
    place = folder(path.parent) / path.name
    try:
        with suppress(FileNotFoundError):
            return _read_key(place)
        replace(place, secrets.token_bytes(KEY_BYTES))
        # Another process may have been last.
        return _read_key(place)
    except OSError as error:
        raise RefusedError(f"{place} cannot be made or read: {error.strerror}") from error


def is_own(status: os.stat_result) -> bool:
    return not _POSIX or status.st_uid == os.geteuid()


def is_private(status: os.stat_result) -> bool:
    """Whether nobody else can write it."""
    return not _POSIX or not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _read_key(place: Path) -> bytes:
    with os.fdopen(os.open(place, _READ), "rb") as file:
        status = os.fstat(file.fileno())
        # A second link would be a way to it from a folder that somebody else may write.
        alone = not _POSIX or (status.st_nlink == 1 and not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO))
        if not stat.S_ISREG(status.st_mode) or not is_own(status) or not alone:
            raise RefusedError(f"{place} is not a file that this user alone can read; remove it")
        secret = file.read()
    if len(secret) != KEY_BYTES:
        raise RefusedError(f"{place} does not hold a key; remove it")
    return secret


def _check(real: Path, may_be_roots: bool) -> None:
    """Raise where somebody else could change what lies in a folder, or put another one in its place.

    What OpenSSH's StrictModes asks: the folder and those above it, up to the user's home or else to the root, belong to
    this user or to root and nobody else can write them. In a sticky one, as /tmp is, nobody can move what is another's.
    A group of this user alone, as many systems give one to each user, is nobody else.
    """
    if not _POSIX:
        return
    home = _home()
    for place in (real, *real.parents):
        with suppress(FileNotFoundError):
            status = place.lstat()
            if place == real and not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(0, "it is not a folder")
            if not is_own(status) and (status.st_uid != _ROOT or (place == real and not may_be_roots)):
                owner = "root; see DEPTHWISE_CACHE_TRUST" if status.st_uid == _ROOT else "another user"
                raise RefusedError(f"{place} belongs to {owner}")
            shared = not is_private(status) and not status.st_mode & stat.S_ISVTX and not _is_of_own_group(status)
            if shared or (place == real and not is_private(status)):
                raise RefusedError(f"{place} can be written by other users; chmod go-w would change that")
        if place == home:
            return


def _is_of_own_group(status: os.stat_result) -> bool:
    """Whether the others that can write a folder are a group that has this user's name and no other member."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    # Root's group is that of users without a name in many containers.
    alone = user.pw_uid != _ROOT and group.gr_gid == user.pw_gid and set(group.gr_mem) <= {user.pw_name}
    return alone and group.gr_name == user.pw_name and not status.st_mode & stat.S_IWOTH


def _home() -> Path | None:
    """This user's home as the system knows it: whoever can change that has everything else of the user's too."""
    import pwd

    try:
        return Path(os.path.realpath(pwd.getpwuid(os.geteuid()).pw_dir))
    except KeyError:
        return None


def _make(real: Path) -> None:
    """Make a folder and those above it that are missing, for this user alone."""
    if not real.is_dir():
        _make(real.parent)
        with suppress(FileExistsError):
            real.mkdir(mode=0o700)
