"""Files that change whole or not at all, whatever happens to the process that writes them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from tvmlayers.errors import SaveError

_TEMPORARY = re.compile(r"\.tvmlayers-[0-9a-f]{16}\.tmp")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends; not if the block raises.

    A symbolic link stays, and the file that it leads to is replaced. The permissions of a replaced
    file are kept. The content is on the disk before the name changes. What killed processes left
    half written in that folder is removed. OSError where the system refuses something.
    """
    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):
        raise OSError(errno.EINVAL, "it is no regular file", target)
    folder = os.path.dirname(target)
    _remove_stale(folder)
    temporary, descriptor = _create(folder)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(descriptor, os.stat(target).st_mode & 0o7777)
            os.fsync(descriptor)
            # While the lock is held: a file that is done must not be taken for a stale one.
            os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@contextmanager
def saving(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """`replacing` for a file that the caller named: SaveError where it cannot be written."""
    name = os.fspath(path)
    try:
        if b"\0" in os.fsencode(name):
            raise OSError(errno.EINVAL, "a name has no zero byte")
    except (OSError, UnicodeEncodeError) as error:
        raise _save_error(name, error) from error
    try:
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise _save_error(name, error) from error


def _save_error(name: str, error: OSError | UnicodeEncodeError) -> SaveError:
    reason = error.strerror if isinstance(error, OSError) else error
    made = SaveError(
        f"{name!r} cannot be written: {reason or error}; nothing was changed. Make room there, or "
        "name a file in a folder that can be written"
    )
    made.errno, made.filename = getattr(error, "errno", None), name
    return made


def _create(folder: str) -> tuple[str, int]:
    """(path, descriptor) of a new file that is locked as long as this process has it open."""
    while True:
        path = os.path.join(folder, f".tvmlayers-{secrets.token_hex(8)}.tmp")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        # Another save may have taken it for a stale one before it was locked.
        if _lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)


def _remove_stale(folder: str) -> None:
    """Remove temporary files that no living process has open; what cannot be removed stays."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for path in [entry.path for entry in entries if _TEMPORARY.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    if _lock(descriptor):
                        os.unlink(path)
                finally:
                    os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Whether the file is locked by us now; None on a file system without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
