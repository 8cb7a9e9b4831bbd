"""What estimators ask of rows and arguments, each with one clear line for what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from torch import Tensor

from fastvi._sizes import as_integer, as_number, check_integer, shown


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
    check_integers(owner, n_samples=count)
    return check_integer(owner, "n_samples", count)


def check_integers(owner: str, least: int = 1, **options: object) -> None:
    """Refuse options that are no integers of at least ``least``.

    Raises
    ------
    ValueError
        The message names the option.
    """

    def is_right(value: object) -> bool:
        number = as_integer(value)
        return number is not None and number >= least

    _require(owner, options, is_right, f"an integer of {least} or more")


def check_choice(owner: str, name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is not one of some words; raises as `check_integers` does."""
    _require(
        owner, {name: value}, lambda value: isinstance(value, str) and value in choices, f"one of {', '.join(choices)}"
    )


def check_flags(owner: str, **options: object) -> None:
    """Refuse options that are no truth values; raises as `check_integers` does."""
    _require(owner, options, lambda value: isinstance(value, bool | np.bool_), "True or False")


def check_numbers(owner: str, **options: object) -> None:
    """Refuse options that are no finite numbers of 0 or more; raises as `check_integers` does."""
    _require(owner, options, _is_finite_and_not_negative, "a finite number of 0 or more")


def _require(owner: str, options: dict[str, object], is_right: Callable[[object], bool], expected: str) -> None:
    for name, value in options.items():
        if not is_right(value):
            raise ValueError(f"{owner}: {name} must be {expected}, got {in_one_line(value)}")


def _is_finite_and_not_negative(value: object) -> bool:
    try:
        number = as_number(value)
    except OverflowError:  # an integer beyond all floating-point numbers
        return False
    return number is not None and 0.0 <= number < math.inf


def in_one_line(value: object) -> str:
    """A value as its text or, where that is long, its type: the text of arrays has many lines."""
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else shown(value)[:80]
