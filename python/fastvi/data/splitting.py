"""Which rows test: spread evenly over all, so that sorted data keep their mixture and each time is like the last."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from fastvi._array_files import DataError

USUAL_FRACTION = 0.1
_MOST_USUAL_ROWS = 10_000
_MOST_USUAL_VALUES = 2**24
"""Test rows are kept in memory: not more values than these where nobody asked for more."""


def evenly_spaced(count: int, total: int) -> Tensor:
    """Return ``count`` indices spread evenly over ``range(total)``, in increasing order.

    Examples
    --------
    >>> evenly_spaced(3, 9).tolist()
    [0, 3, 6]
    """
    return torch.arange(count) * total // count


def parse_split(given: float | str | Path | None) -> float | Path | None:
    """Return what a test split asks for: a fraction, a number of rows, the path of other rows, or None for the usual.

    Raises
    ------
    DataError
        For a fraction that is not between 0 and 1, or a number of rows that is not whole.

    Examples
    --------
    >>> parse_split("0.2"), parse_split("500"), parse_split("test.npz")
    (0.2, 500, PosixPath('test.npz'))
    """
    if given is None or isinstance(given, Path):
        return given
    if isinstance(given, str):
        text = given
        try:
            given = float(text) if not text.strip().isdigit() else int(text)
        except ValueError:
            if not text or "\0" in text:
                raise DataError(f"`test_split` must be a fraction, a count or a path, got {text!r}") from None
            return Path(text)
    if isinstance(given, bool) or not (0 < given < 1 or (1 <= given < math.inf and given == int(given))):
        raise DataError(
            f"`test_split` must be a fraction between 0 and 1, a number of rows from 1 on, or the path of the test "
            f"rows, got {given}"
        )
    return given if given < 1 else int(given)


def split_rows(name: str, total: int, width: int, split: float | None) -> tuple[Tensor, Tensor]:
    """Return the indices of the rows to train and to test, the latter spread evenly over all.

    Parameters
    ----------
    name
        Of the data, for messages.
    total, width
        N and D.
    split
        A fraction of the rows or their number; None: a tenth, but not more than 10,000 rows, nor 2^24 values.

    Raises
    ------
    DataError
        If no row is left to train or to test.

    Examples
    --------
    >>> train, test = split_rows("mine", 6, 4, 2)
    >>> train.tolist(), test.tolist()
    ([1, 2, 4, 5], [0, 3])
    """
    if split is None:
        count = min(round(USUAL_FRACTION * total), _MOST_USUAL_ROWS, _MOST_USUAL_VALUES // width)
        count = max(1, count)
    else:
        count = max(1, round(split * total)) if split < 1 else int(split)
    if count >= total:
        raise DataError(
            f"{name}: expected rows to train beside those to test, {count:,} of {total:,} rows are to test: "
            "choose another `test_split`"
        )
    is_test = torch.zeros(total, dtype=torch.bool)
    is_test[evenly_spaced(count, total)] = True
    return torch.nonzero(~is_test).squeeze(1), torch.nonzero(is_test).squeeze(1)
