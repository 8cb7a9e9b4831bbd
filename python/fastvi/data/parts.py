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

_LARGEST_LABEL = 2**63 - 1
_FIRST_ROUNDED = 2**53
"""From here on float64 does not hold every whole number, so that two labels may have become one."""


class NoLabelsError(DataError):
    """The labels that were asked for are not there."""


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
    the numbers of their order. A row without a label has -1: one whose label is NaN among numbers, an empty word, or
    -1, unless that stands beside one other number of 0 or more alone: then it is a class of its own.

    Raises
    ------
    DataError
        If the labels have more than one value a row, are no whole numbers, or are too large to be told apart.

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
    missing = [_without_label(part) for part in parts]
    pairs = list(zip(parts, missing, strict=True))
    if any(part.dtype.kind in "US" and not gone.all() for part, gone in pairs):  # beside words -1 is no class
        missing = [gone | (part == -1) if part.dtype.kind in "if" else gone for part, gone in pairs]
    unknown = np.concatenate(missing)
    found = [_known(name, part[~gone]) for part, gone in zip(parts, missing, strict=True)]
    found = [part for part in found if len(part)]  # labels that are all missing are of every kind
    kinds = {part.dtype.kind for part in found}
    if "U" in kinds:
        found = [part.astype(np.str_) if part.dtype.kind == "b" else part for part in found]
        if kinds - {"U", "b"}:
            got = ["words" if part.dtype.kind == "U" else "numbers" for part in found]
            raise DataError(f"{name}: expected labels of one kind, got {got[0]} to train and {got[1]} to test")
    known = np.concatenate(found) if found else np.empty(0, np.int64)
    if known.dtype.kind == "i" and len(known) and known.min() == -1 and len(np.unique(known[known >= 0])) != 1:
        unknown[~unknown] = known == -1
        known = known[known >= 0]
    names: tuple[str, ...] | None = None
    if known.dtype.kind in "Ub" or (len(known) and known.min() < 0):
        classes, known = np.unique(known, return_inverse=True)
        names = tuple(map(str, classes))
    numbers = np.full(len(unknown), -1, np.int64)
    numbers[~unknown] = known.reshape(-1)
    return numbers[: len(labels)], None if test_labels is None else numbers[len(labels) :], names


def _without_label(labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if labels.dtype.kind == "f":
        return np.asarray(np.isnan(labels))
    if labels.dtype.kind in "US":
        return np.asarray(np.char.strip(labels) == labels.dtype.type())
    return np.zeros(len(labels), bool)


def _known(name: str, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Labels without missing ones as int64, truth values or words."""
    if labels.dtype.kind == "S":
        return np.array([each.decode(errors="replace") for each in labels.tolist()], np.str_)
    if labels.dtype.kind in "Ub":
        return labels
    if labels.dtype.kind == "f":
        wrong = labels[~(np.isfinite(labels) & (labels == np.floor(labels)))]
        if len(wrong):
            raise DataError(f"{name}: expected labels that are whole numbers or words, got {wrong[0]:g}")
        large, limit = labels[np.abs(labels) >= _FIRST_ROUNDED], "less than 2^53 where they are floating point"
    else:
        large, limit = labels[labels > _LARGEST_LABEL], "less than 2^63"
    if len(large):
        raise DataError(f"{name}: expected labels {limit}, got {large[0].item()!r}")
    return labels.astype(np.int64)


def as_labels(name: str, values: Any) -> npt.NDArray[Any]:
    """Return labels as an array of numbers or words, in which NaN or an empty word stands for a missing label.

    None, NaN and pandas' NA are missing ones, among words, too.

    Raises
    ------
    DataError
        If they are neither numbers nor words.

    Examples
    --------
    >>> as_labels("mine", ["cat", None, "dog"])
    array(['cat', '', 'dog'], dtype='<U3')
    >>> as_labels("mine", [3, None])
    array([ 3., nan])
    """
    if isinstance(values, Tensor) or callable(getattr(values, "toarray", None)):
        return as_array(name, values)
    try:
        # Of a list as objects: NumPy would make a word of each number among words, and of NaN, too.
        array = np.array(values, dtype=object) if isinstance(values, list | tuple) else np.asarray(values)
    except (ValueError, TypeError) as error:  # lists of different lengths
        raise DataError(f"{name}: expected one label for each row, got {type(values).__name__} ({error})") from error
    if array.dtype.kind == "O" and array.ndim == 1:
        return _without_objects(name, array.tolist())
    if array.ndim == 1 and array.dtype.kind not in "biufUS":
        got = "Python objects" if array.dtype.kind == "O" else str(array.dtype)
        raise DataError(f"{name}: expected labels that are whole numbers or words, got {got}")
    return array


def _without_objects(name: str, values: list[Any]) -> npt.NDArray[Any]:
    missing = np.array([_is_missing(each) for each in values], bool)
    found = [each for each, is_gone in zip(values, missing.tolist(), strict=True) if not is_gone]
    if values and not found:
        return np.full(len(values), np.nan)
    known = np.asarray(found)
    if known.dtype.kind not in "biufUS" or known.ndim != 1:
        large = [each for each in found if isinstance(each, int) and each > _LARGEST_LABEL]
        got = str(large[0]) if large else f"Python objects such as {type(found[0]).__name__}"
        raise DataError(f"{name}: expected labels that are whole numbers less than 2^63 or words, got {got}")
    if not missing.any():
        return known
    if known.dtype.kind == "b":
        known = known.astype(np.str_)
    array = np.zeros(len(values), known.dtype) if known.dtype.kind in "US" else np.full(len(values), np.nan)
    array[~missing] = known
    return array


def _is_missing(value: Any) -> bool:
    if value is None:
        return True
    try:
        return bool(value != value)  # NaN alone
    except TypeError:  # of pandas' NA, which is neither equal to anything nor unequal
        return True
    except (ValueError, RuntimeError):  # of an array or a tensor of several
        return False


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
        got = str(array.dtype)
        if array.dtype.kind == "O":
            got = "None" if values is None else f"an object of type {type(values).__name__}"
            got = got if array.ndim == 0 else "Python objects"
        raise DataError(f"{name}: expected numbers (bool, integers or floating point), got {got}")
    return array


def not_finite(value: float, given: npt.NDArray[Any]) -> str:
    """Return the complaint about a value that is NaN or infinite, or became so as float32."""
    if given.dtype.kind == "f" and np.isfinite(given).all():
        largest = given.reshape(-1)[np.abs(given).argmax()]
        return f"expected numbers that float32 holds, up to {np.finfo(np.float32).max:.3g}, got {largest:.3g}"
    return f"expected a finite number, got {value}"


def read_error(path: Path, error: BaseException, expected: str = "") -> DataError:
    """Return the complaint about a file that a library cannot read, on one line."""
    words = " ".join(str(error).split())[:200] or type(error).__name__
    return DataError(f"{path}: {f'expected {expected}; ' if expected else ''}cannot be read ({words})")
