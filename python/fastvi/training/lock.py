"""One process at a time writes a run folder: the kernel's lock on a file in it, which ends with the process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fastvi.training.errors import RunError, reason

LOCK_NAME = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_held: set[tuple[int, int, int]] = set()
"""Process, device and inode of the locks that this process holds: who holds one may take it again."""


@contextlib.contextmanager
def locked(folder: Path, tell: Callable[[str], None] = lambda _line: None) -> Iterator[None]:
    """Keep every other process from writing the run ``folder``.

    The lock is gone when the process is, however it ends; the file stays. Within the block the same process may take
    the lock again.

    Parameters
    ----------
    folder
        A folder that exists.
    tell
        Gets one line where the file system has no locks: the block runs all the same.

    Raises
    ------
    RunError
        If another process holds the lock, which the message names, or the file cannot be made.
    """
    path = folder / LOCK_NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {reason(error)}") from error
    try:
        key = _key(descriptor)
        if key in _held:
            yield
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _sign(descriptor)
        except BlockingIOError as error:
            raise RunError(f"{folder} is in use by {_holder(descriptor)}: wait for its end, or stop it") from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise RunError(f"{path} cannot be written: {reason(error)}") from error
            tell(f"the file system of {folder} has no locks: nothing keeps a second process from writing there")
        _held.add(key)
        try:
            yield
        finally:
            _held.discard(key)
    finally:
        os.close(descriptor)


def holder(folder: Path) -> str | None:
    """Return which other process holds the lock of ``folder``, in words, or None; nothing is written."""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # no lock file that could be held
        return None
    try:
        if _key(descriptor) in _held:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(descriptor)
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(descriptor)
    return None


def _key(descriptor: int) -> tuple[int, int, int]:
    status = os.fstat(descriptor)
    return os.getpid(), status.st_dev, status.st_ino


def _sign(descriptor: int) -> None:
    """Write into the lock's file who holds it."""
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        signature = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {signature['pid']} on {signature['host']} since {signature['since']}"
    except (ValueError, KeyError, TypeError):  # not written yet
        return "another process"
