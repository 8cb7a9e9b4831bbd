"""The error that a user of runs meets."""

from __future__ import annotations


class RunError(Exception):
    """A run folder is missing, damaged, in use, in the way, cannot be written, or does not fit what is asked of it."""


class NoCheckpointError(RunError):
    """A run has no checkpoint yet."""


class DivergenceError(RunError):
    """The bound, the loss or the parameters became infinite or NaN."""


def reason(error: OSError) -> str:
    """Return why the operating system refused, without the path that the message has named already."""
    return error.strerror or str(error)
