"""Files of runs, whole at every instant; and what all of fastvi writes files with, for the parts around runs."""

from __future__ import annotations

from pathlib import Path

from fastvi._files import PARTIAL_NAME, atomic_write, check_writable, remove_stale_partials, write_whole
from fastvi.training.errors import RunError, reason

__all__ = ["PARTIAL_NAME", "atomic_write", "check_writable", "remove_stale_partials", "write_run_file", "write_whole"]


def write_run_file(path: Path, content: bytes) -> None:
    """Write a file of a run, whole at every instant.

    Raises
    ------
    RunError
        If it cannot be written; an older file of this name is as it was.
    """
    try:
        with atomic_write(path) as file:
            file.write(content)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {reason(error)}") from error
