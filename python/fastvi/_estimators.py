"""What estimators ask of rows and arguments, each with one clear line for what is wrong."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from fastvi._sizes import as_integer, as_number


def check_distances(owner: str, x: Tensor, squares: Tensor) -> None:
    """Refuse rows whose squared distance from a component is no finite number.

    Their probabilities would be differences of infinities, and their log-likelihood is below all numbers.

    Parameters
    ----------
    owner
        The estimator, which the message begins with.
    x
        Rows, (N, D), as they were given.
    squares
        Squared distances or log densities, in units of the components: (N,) or (N, K), in float64.

    Raises
    ------
    ValueError
        The message names the first such row, its largest value, and what overflows.
    """
    finite = squares.isfinite().reshape(len(squares), -1).all(1)
    if bool(finite.all()):
        return
    row = int((~finite).nonzero()[0, 0])
    raise ValueError(
        f"{owner}: row {row} of X, with a value of size {float(x[row].abs().max()):g}, is too far from the components: "
        f"its squared distance, in units of their covariances, overflows {str(squares.dtype).removeprefix('torch.')}"
    )


def check_draws(owner: str, count: object) -> int:
    """The number of draws, as int.

    Raises
    ------
    ValueError
        If it is no integer of 1 or more.
    """
    number = as_integer(count)
    if number is None or number < 1:
        raise ValueError(f"{owner}: n_samples must be an integer of 1 or more, got {count!r}")
    return number


def check_flags(owner: str, **options: object) -> None:
    """Refuse options that are no truth values.

    Raises
    ------
    ValueError
        The message names the option.
    """
    for name, value in options.items():
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"{owner}: {name} must be True or False, got {value!r}")


def check_numbers(owner: str, least: float = 0.0, **options: object) -> None:
    """Refuse options that are no numbers of at least ``least``; infinity is one.

    Raises
    ------
    ValueError
        The message names the option.
    """
    for name, value in options.items():
        try:
            number = as_number(value)
        except OverflowError:  # an integer beyond all floating-point numbers
            number = math.inf
        if number is None or not number >= least:
            raise ValueError(f"{owner}: {name} must be a number of {least:g} or more, got {value!r}")
