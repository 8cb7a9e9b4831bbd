"""What users of NumPy give in place of floating-point arrays: numbers, truth values, generators of seeds."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastvi._array_products import Array, is_array, narrow
from fastvi._sizes import MAX_SEED, as_number, check_number, check_seed


def with_numbers(operation: str, like: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[Any]:
    """The parameters, a number as an array of one element, which broadcasts, in the dtype of the first array.

    Parameters
    ----------
    operation
        For messages.
    like
        The arguments that are arrays, whose dtype is taken; what they are is for the kernels to check.
    parameters
        Those that may be numbers, and None.

    Raises
    ------
    TypeError, ValueError
        If all are numbers, so that nothing has a dtype, or an integer is beyond all floating-point numbers.
    """
    values = list(parameters.values())
    if all(value is None or is_array(value) for value in values):
        return values
    dtype = next((value.dtype for value in (*like.values(), *values) if is_array(value) and value.dtype != bool), None)
    found = []
    for name, value in parameters.items():
        if value is None or is_array(value) or not _is_number(value):
            found.append(value)
            continue
        if dtype is None:
            names = ", ".join([*like, *parameters])
            raise TypeError(f"{operation}: one of {names} must be a numpy.ndarray of floating-point numbers")
        wide = np.array([check_number(operation, name, value)])
        found.append(narrow(wide, dtype) if dtype.kind == "f" else wide)
    return found


def _is_number(value: object) -> bool:
    try:
        return as_number(value) is not None
    except OverflowError:
        return True


def seed_of(operation: str, seed: int | np.random.Generator | None) -> int:
    """A seed: one drawn from NumPy's generator, which moves on; for None one from the system's entropy.

    Raises
    ------
    TypeError, ValueError
        If it is neither, or out of [0, 2^63).
    """
    if seed is None:
        return secrets.randbelow(MAX_SEED)
    if isinstance(seed, np.random.Generator):
        return int(seed.integers(MAX_SEED, dtype=np.uint64))
    return check_seed(operation, seed, "an int, a numpy.random.Generator or None")


Number = Array | float
"""An array, or a number that stands for one of equal elements."""
Seed = int | np.random.Generator | None
