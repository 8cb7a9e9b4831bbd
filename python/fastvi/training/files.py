"""Files that are whole at every instant, whatever kills the process that writes them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open ``path`` for writing so that it only ever holds its old content or the whole new one.

    The bytes go to a neighbour, reach the disk, and take the name in one step; after an exception inside the block the
    old file is untouched. The neighbour has a fixed name: what a killed process left is overwritten by the next.

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
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too, must survive a power cut
    finally:
        os.close(folder)
