"""What estimators ask of rows and arguments, each with one clear line for what is wrong."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from fastvi._sizes import as_integer, as_number


def check_reach(owner: str, x: Tensor, values: Tensor, places: Tensor | None = None) -> None:
    """Refuse rows whose log density overflows: they lie too far from the components.

    Their probabilities would be made of differences of infinities, and their log-likelihood is below all numbers.

    Parameters
    ----------
    owner
        The estimator, which the message begins with.
    x
        Rows, (N, D), as they were given.
    values
        What has to be finite: squared distances from the components, or log densities, (N,) or (N, K).
    places
        The numbers of the rows where ``x`` holds some of them, (N,).

    Raises
    ------
    ValueError
        The message names the first such row, its largest value, and what overflows.
    """
    wrong = ~values.isfinite().reshape(len(values), -1).all(1)
    if not bool(wrong.any()):
        return
    first = int(wrong.nonzero()[0, 0])
    row = first if places is None else int(places[first])
    raise ValueError(
        f"{owner}: row {row} of X is too far from the components, with a value of {float(x[first].abs().max()):g} in "
        f"size: its log density overflows {str(values.dtype).removeprefix('torch.')}"
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
