"""What a reader of files gives: rows, and beside them labels, names of columns, and test rows where a file has some."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fastvi._array_files import DataError
from fastvi.data.rows import RowSource


@dataclass(frozen=True)
class Part:
    """Rows as they were read.

    Attributes
    ----------
    values
        An array (N, ...) as it stands in the file, or a source of rows.
    labels
        One for each row, numbers or words; None where none were asked for.
    columns
        Names of the columns, where the file has some.
    test
        The test rows that lie in the same file.
    lines
        Line of the file that each row ends in, for messages; None where rows have no lines.
    """

    values: npt.NDArray[Any] | RowSource
    labels: npt.NDArray[Any] | None = None
    columns: tuple[str, ...] | None = None
    test: Part | None = None
    lines: tuple[int, ...] | None = None


def classes_of(
    name: str, labels: npt.NDArray[Any], test_labels: npt.NDArray[Any] | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None, tuple[str, ...] | None]:
    """Return the labels as whole numbers from 0, those of the test rows by the same rule, and the classes' names.

    Whole numbers of 0 or more stand for themselves and have no names; other whole numbers, words and truth values get
    the numbers of their order. A row without a label has -1: one whose label is -1 among two or more classes from 0 on
    (-1 beside one other number is a class of its own), NaN among numbers, or an empty word.

    Raises
    ------
    DataError
        If the labels have more than one value a row, or are no whole numbers.

    Examples
    --------
    >>> classes_of("mine", np.array(["dog", "cat", "dog"]), None)
    (array([1, 0, 1]), None, ('cat', 'dog'))
    >>> classes_of("mine", np.array([3.0, np.nan, 1.0]), None)
    (array([ 3, -1,  1]), None, None)
    """
    parts = [labels] if test_labels is None else [labels, test_labels]
    for part in parts:
        if part.ndim != 1:
            raise DataError(f"{name}: expected one label for each row, got labels of the shape {part.shape}")
        if part.dtype.kind not in "biufUS":
            raise DataError(f"{name}: expected labels that are whole numbers or words, got {part.dtype}")
    if len({part.dtype.kind in "US" for part in parts}) > 1:
        raise DataError(
            f"{name}: expected labels of one kind, got {parts[0].dtype} to train and {parts[1].dtype} to test"
        )
    whole = np.concatenate(parts)
    if whole.dtype.kind == "f":
        unknown = np.isnan(whole)
        wrong = whole[~unknown & ~(np.isfinite(whole) & (whole == np.floor(whole)))]
        if len(wrong):
            raise DataError(f"{name}: expected labels that are whole numbers or words, got {wrong[0]:g}")
    else:
        unknown = whole == whole.dtype.type() if whole.dtype.kind in "US" else np.zeros(len(whole), bool)
    known = whole[~unknown].astype(np.int64) if whole.dtype.kind == "f" else whole[~unknown]
    if known.dtype.kind == "i" and len(known) and known.min() == -1 and len(np.unique(known[known >= 0])) > 1:
        unknown, known = unknown | (whole == -1), known[known >= 0]
    names: tuple[str, ...] | None = None
    if known.dtype.kind in "USb" or (len(known) and known.min() < 0):
        found, known = np.unique(known, return_inverse=True)
        names = tuple(each.decode(errors="replace") if isinstance(each, bytes) else str(each) for each in found)
    numbers = np.full(len(whole), -1, np.int64)
    numbers[~unknown] = known.reshape(-1)
    return numbers[: len(labels)], None if test_labels is None else numbers[len(labels) :], names


def as_array(name: str, values: Any) -> npt.NDArray[Any]:
    """Return an array of numbers or words from whatever NumPy takes for one, a sparse matrix or a tensor.

    Raises
    ------
    DataError
        If it is none.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() and values.element_size() < 4 else values).numpy()
    elif callable(getattr(values, "toarray", None)):  # a sparse matrix of SciPy
        values = values.toarray()
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:  # lists of different lengths
        raise DataError(f"{name}: expected an array of numbers, got {type(values).__name__} ({error})") from error
    if array.dtype.kind == "O" and array.size and all(isinstance(each, str) for each in array.reshape(-1)):
        array = array.astype(str)
    if array.dtype.kind not in "biufUS":
        got = "Python objects" if array.dtype.kind == "O" else str(array.dtype)
        raise DataError(f"{name}: expected numbers (bool, integers or floating point), got {got}")
    return array


def read_error(path: Path, error: BaseException, expected: str = "") -> DataError:
    """Return the complaint about a file that a library cannot read, on one line."""
    words = " ".join(str(error).split())[:200] or type(error).__name__
    return DataError(f"{path}: {f'expected {expected}; ' if expected else ''}cannot be read ({words})")
