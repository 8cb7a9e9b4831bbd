"""Files that are whole at every instant, whatever kills the process that writes them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open ``path`` for writing so that it only ever holds its old content or the whole new one.

    The bytes go to a neighbour, reach the disk, and take the name in one step; after an exception inside the block the
    old file is untouched. The neighbour has a fixed name: what a killed process left is overwritten by the next.

    Raises
    ------
    OSError
        If the file cannot be written; it names ``path``.

    Examples
    --------
    >>> with atomic_write(Path("/tmp/greeting.txt")) as file:
    ...     _ = file.write(b"hello")
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
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
