"""Sizes, seeds, counts and numbers that the operations accept: checks that the NumPy and the PyTorch side share.

An integer is an int or whatever ``operator.index`` takes for one, NumPy's integers among them; a number is an integer
or a real number by ``numbers.Real``, NumPy's among them. Truth values are neither, and so are arrays and tensors, those
without dimensions included.
"""

from __future__ import annotations

import numbers
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

MAX_SEED = 2**63
MAX_SAMPLES = 2**32 - 1
MAX_COLUMNS = 2**34
MAX_RANK = 64  # as csrc/operands/sizes.h has it
_MAX_SIZE = 2**62  # sums of two are still 64-bit integers


def as_integer(value: object) -> int | None:
    """An integer as int; None for anything else."""
    if type(value) is int:
        return value
    kind: Any = type(value)
    if isinstance(value, bool) or not hasattr(kind, "__index__") or hasattr(kind, "__len__"):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]  # whether it is one is what is asked
    except TypeError:  # NumPy's truth values and lengths of time have the method too
        return None


def as_number(value: object) -> float | None:
    """A number as float; None for anything else, OverflowError for an integer that no float can hold."""
    if isinstance(value, float) or (isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral)):
        return float(value)
    integer = as_integer(value)
    return None if integer is None else float(integer)


def shown(value: object) -> str:
    """A value and its type in one line; the type alone of arrays, whose text is long and may ask for freed memory."""
    kind = type(value).__name__
    has_parts = hasattr(type(value), "__len__") and not isinstance(value, str)
    return f"an object of type {kind}" if has_parts else f"{value!r} of type {kind}"


def check_integer(operation: str, name: str, value: object, expected: str = "an int") -> int:
    """An integer, as int.

    Raises
    ------
    TypeError
        If ``value`` is anything else; the message says what was ``expected``.
    """
    integer = as_integer(value)
    if integer is None:
        raise TypeError(f"{operation}: {name} must be {expected}, got {type(value).__name__}")
    return integer


def check_number(operation: str, name: str, value: object, expected: str = "a number") -> float:
    """A number, as float.

    Raises
    ------
    TypeError
        If ``value`` is anything else; the message says what was ``expected``.
    ValueError
        If it is an integer that no float can hold.
    """
    try:
        number = as_number(value)
    except OverflowError:
        raise ValueError(f"{operation}: {name} is an integer beyond all floating-point numbers") from None
    if number is None:
        raise TypeError(f"{operation}: {name} must be {expected}, got {type(value).__name__}")
    return number


def refuse_negative(operation: str, name: str, number: float) -> None:
    """Reject a number below zero or NaN.

    Raises
    ------
    ValueError
        If it is one.
    """
    if not number >= 0:
        raise ValueError(f"{operation}: {name} must be at least 0, got {number}")


def check_flag(operation: str, name: str, value: object) -> bool:
    """A truth value, NumPy's included, as bool.

    Raises
    ------
    TypeError
        If ``value`` is anything else.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{operation}: {name} must be a bool, got {type(value).__name__}")
    return bool(value)


def choose_axis(operation: str, dim: Any, axis: Any) -> Any:
    """The one of two names of an argument that was given, ``dim`` being 0 unless it was.

    Raises
    ------
    TypeError
        If both were.
    """
    if axis is None:
        return dim
    if not (type(dim) is int and dim == 0):
        raise TypeError(f"{operation}: dim and axis are two names of one argument, got both")
    return axis


def check_seed(operation: str, seed: object, expected: str) -> int:
    """A seed, as int.

    Raises
    ------
    TypeError
        If ``seed`` is no integer; the message says what was ``expected``.
    ValueError
        If it is out of [0, 2^63).
    """
    integer = check_integer(operation, "seed", seed, expected)
    if not 0 <= integer < MAX_SEED:
        raise ValueError(f"{operation}: seed is {integer}, expected a number in [0, 2^63)")
    return integer


def check_range(operation: str, name: str, size: Any) -> Any:
    """The size itself, an int or PyTorch's symbol of one.

    Raises
    ------
    ValueError
        If ``size`` is negative, or more than 2^62.
    """
    if size < 0:
        raise ValueError(f"{operation}: {name} is {size}, expected a non-negative integer")
    if size > _MAX_SIZE:
        raise ValueError(f"{operation}: {name} is {size}, expected at most 2^62")
    return size


def check_size(operation: str, name: str, size: object, expected: str = "an integer") -> int:
    """A non-negative integer, as int.

    Raises
    ------
    TypeError
        If ``size`` is no integer; the message says what was ``expected``.
    ValueError
        If ``size`` is negative, or more than 2^62.
    """
    integer: int = check_range(operation, name, check_integer(operation, name, size, expected))
    return integer


def check_rank(operation: str, name: str, rank: int) -> None:
    """Reject more dimensions than the kernels read.

    Raises
    ------
    ValueError
        If ``rank`` is more than 64.
    """
    if rank > MAX_RANK:
        raise ValueError(f"{operation}: {name} has {rank} dimensions, expected at most {MAX_RANK}")


def check_shape(
    operation: str, name: str, shape: object, check: Callable[[str, str, object, str], int] = check_size
) -> tuple[int, ...]:
    """A shape; an integer means one axis. ``check`` is what is asked of each size.

    Raises
    ------
    TypeError
        If ``shape`` is neither an integer nor a tuple or list of them.
    ValueError
        If a size is negative, or more than 2^62, or there are more than 64 of them.
    """
    if isinstance(shape, tuple | list):
        sizes = tuple([check(operation, f"{name}[{axis}]", size, "an integer") for axis, size in enumerate(shape)])
        check_rank(operation, name, len(sizes))
        return sizes
    return (check(operation, name, shape, "an integer or a sequence of them"),)


def refuse_signs(operation: str, name: str, bounds: tuple[float, float], positive: bool) -> None:
    """Reject values below zero, by the least and the largest, both NaN where there is any; zero too where ``positive``.

    Raises
    ------
    ValueError
        If there are any.
    """
    least, largest = bounds
    if least > 0.0 or (least == 0.0 and not positive):
        return
    found = "NaN among them" if least != least else f"values from {least:g} to {largest:g}"
    raise ValueError(f"{operation}: {name} must be {'positive' if positive else 'at least 0'}, got {found}")


def describe_range(bounds: tuple[float, float]) -> str:
    """Words for values that are not in [0, 1], by the least and the largest; both are NaN where there is any."""
    least, largest = bounds
    if least != least:
        return "NaN among them"
    hint = "; grey values from 0 to 255 are divided by 255 first" if 1.0 < largest <= 255.0 and least >= 0.0 else ""
    return f"values from {least:g} to {largest:g}{hint}"


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
