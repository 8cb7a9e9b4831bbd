"""Files that are whole at every instant, whatever kills the process that writes them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PARTIAL_NAME = re.compile(r"\.(?P<name>.+?)(\.[0-9a-f]{16})?\.partial")
"""Name of a file that is being written, after the file whose name it will take; 0.1.0 left out the hexadecimal part."""
_SECONDS_UNTIL_LOCKED = 60.0
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open ``path`` for writing so that it only ever holds its old content or the whole new one.

    The bytes go to a neighbour of a name that no other process has, reach the disk, and take the name in one step;
    after an exception inside the block the old file is untouched and the neighbour gone. What a killed process left is
    for `remove_stale_partials`.

    Raises
    ------
    OSError
        If the file cannot be written; it names ``path``.

    Examples
    --------
    >>> with atomic_write(Path("/tmp/greeting.txt")) as file:
    ...     _ = file.write(b"hello")
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        with partial.open("xb") as file:
            with contextlib.suppress(OSError):  # a file system without locks: nobody will take this file for stale
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the folder itself may be what is wrong
            partial.unlink(missing_ok=True)
        refusal = _refusal(error)
        if refusal is not None and refusal.filename in (None, str(partial)):
            raise _naming(path, refusal) from error
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too, must survive a power cut
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(folder)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file by `atomic_write`, at the end of a link where ``path`` is one; a device or a pipe is written to.

    Raises
    ------
    OSError
        If the file cannot be written; it names ``path``.
    """
    if path.exists() and not path.is_file():
        try:
            path.write_bytes(content)
        except OSError as error:
            raise _naming(path, error) from error
        return
    with atomic_write(_linked(path)) as file:
        file.write(content)


def check_writable(path: Path) -> None:
    """Find out, before the work whose result goes there, whether `write_whole` can write ``path``.

    Raises
    ------
    OSError
        If it cannot; it names ``path``.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    if path.exists() and not path.is_file():
        return  # a device or a pipe: what opens it may wait, or take it for the whole content
    with contextlib.suppress(_NothingToWriteError), atomic_write(_linked(path)):
        raise _NothingToWriteError


def remove_stale_partials(folder: Path, names: re.Pattern[str]) -> None:
    """Remove what processes that were killed while they wrote have left in ``folder``; live ones hold a lock on theirs.

    Parameters
    ----------
    folder
        Where to look.
    names
        The files that were being written.

    Raises
    ------
    OSError
        If the folder cannot be read or written.
    """
    for path in folder.iterdir():
        partial = PARTIAL_NAME.fullmatch(path.name)
        if not (partial and names.fullmatch(partial["name"])) or path.is_symlink() or not path.is_file():
            continue
        with contextlib.suppress(FileNotFoundError), path.open("rb+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # held, or on a file system without locks, where nothing tells the living from the dead
                continue
            status = os.fstat(file.fileno())
            # An empty one may be so new that its lock is yet to come.
            if status.st_size > 0 or time.time() - status.st_mtime > _SECONDS_UNTIL_LOCKED:
                path.unlink()


def _linked(path: Path) -> Path:
    return path.resolve() if path.is_symlink() else path


class _NothingToWriteError(Exception):
    """Ends `atomic_write` before it changes anything."""


def _refusal(error: BaseException) -> OSError | None:
    """Return the operating system's refusal, also where a RuntimeError of torch.save's came while it was handled."""
    while isinstance(error, RuntimeError) and error.__context__ is not None:
        error = error.__context__
    return error if isinstance(error, OSError) else None


def _naming(path: Path, error: OSError) -> OSError:
    """Return the same refusal about ``path``: errors in writing name no file, those of a neighbour an unknown one."""
    return error if error.errno is None else OSError(error.errno, error.strerror, str(path))
