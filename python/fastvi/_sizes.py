"""Sizes, seeds and counts that the operations accept: checks that the NumPy and the PyTorch side share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MAX_SEED = 2**63
MAX_SAMPLES = 2**32 - 1
MAX_COLUMNS = 2**34
_MAX_SIZE = 2**62  # sums of two are still 64-bit integers


def check_size(operation: str, name: str, size: Any, integers: tuple[type, ...]) -> Any:
    """A non-negative integer, of one of the types that count as integers.

    Raises
    ------
    TypeError
        If ``size`` is no integer.
    ValueError
        If ``size`` is negative, or more than 2^62.
    """
    if isinstance(size, bool) or not isinstance(size, integers):
        raise TypeError(f"{operation}: {name} must be an integer, got {type(size).__name__}")
    integer: Any = size
    if integer < 0:
        raise ValueError(f"{operation}: {name} is {size}, expected a non-negative integer")
    if integer > _MAX_SIZE:
        raise ValueError(f"{operation}: {name} is {size}, expected at most 2^62")
    return integer


def check_shape(operation: str, name: str, shape: int | Sequence[int], integers: tuple[type, ...]) -> tuple[int, ...]:
    """A shape; an integer means one axis.

    Raises
    ------
    TypeError
        If ``shape`` is neither an integer nor a sequence of them.
    ValueError
        If a size is negative, or more than 2^62.
    """
    if isinstance(shape, integers):
        return (check_size(operation, name, shape, integers),)
    if not isinstance(shape, tuple | list):
        raise TypeError(f"{operation}: {name} must be an integer or a sequence of them, got {type(shape).__name__}")
    return tuple(check_size(operation, f"{name}[{axis}]", size, integers) for axis, size in enumerate(shape))


def check_counters(operation: str, samples: int, columns: int) -> None:
    """Reject what the generator's counter cannot tell apart.

    Raises
    ------
    ValueError
        If there are more samples or columns than the counter has numbers for.
    """
    if samples > MAX_SAMPLES:
        raise ValueError(f"{operation}: {samples} samples, expected at most {MAX_SAMPLES}")
    if columns > MAX_COLUMNS:
        raise ValueError(f"{operation}: the event has {columns} dimensions, expected at most {MAX_COLUMNS}")
