"""Tables of numbers: csv files, and parquet files by pandas."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastvi._array_files import DataError
from fastvi.data.parts import NoLabelsError, Part, as_labels, read_error

_NAMES_SHOWN = 12
_DELIMITERS = ",;\t"


def read_csv_part(path: Path, labels_from: str | None) -> Part:
    """Read a csv file of numbers, with a line of names or without, whose cells commas, semicolons or tabs separate.

    Parameters
    ----------
    path
        The file.
    labels_from
        Name of the column that holds the labels, numbers or words; its number from 0 where the columns have no names.
        An empty cell is a missing label.

    Raises
    ------
    DataError
        If a cell is no number, or the lines differ in length: the message names the line and the column.
    """
    lines = _cells(path)
    has_names = _has_names(lines[0][1], labels_from)
    names = [cell.strip() for cell in lines[0][1]] if has_names else [str(place) for place in range(len(lines[0][1]))]
    rows = lines[1:] if has_names else lines
    if not rows:
        raise DataError(f"{path}: expected lines of numbers below the names, found none")
    for number, row in rows:
        if len(row) != len(names):
            raise DataError(f"{path}: line {number}: expected {len(names)} cells, got {len(row)}")
    label_place = _place(path, names, labels_from)
    cells = np.array([row for _, row in rows], dtype=np.str_)
    labels = None if label_place is None else _labels(cells[:, label_place])
    kept = [place for place in range(len(names)) if place != label_place]
    try:
        values = cells[:, kept].astype(np.float64)
    except ValueError as error:
        raise _wrong_cell(path, names, rows, kept) from error
    columns = tuple(names[place] for place in kept) if has_names else None
    return Part(values, labels, columns, lines=tuple(number for number, _ in rows))


def read_labels(path: Path, count: int) -> npt.NDArray[Any]:
    """Read the labels of a csv file of one column, with a name above them or without, or of a parquet file of one.

    Labels that are words have no name above them unless that is ``label`` or ``labels``. An empty line is a missing
    label, unless it is one of those at the end that are more than ``count`` labels.

    Raises
    ------
    DataError
        If the file has other columns too, or cannot be read.
    """
    if path.suffix.lower() == ".parquet":
        _, frame = _frame(path)
        if frame.shape[1] != 1:
            raise DataError(f"{path}: expected one column of labels, found {frame.shape[1]}")
        return as_labels(str(path), frame.iloc[:, 0])
    lines = _cells(path, with_empty=True)
    if any(len(row) > 1 for _, row in lines):
        raise DataError(f"{path}: expected one column of labels, found lines of several cells")
    cells = ["".join(row).strip() for _, row in lines]
    numbers = [_is_number(cell) for cell in cells[1:] if cell]
    is_name = cells[0].lower() in ("label", "labels")
    if is_name or (cells[0] and not _is_number(cells[0]) and numbers and all(numbers)):
        cells = cells[1:]
    while len(cells) > count and not cells[-1]:
        cells.pop()
    return _labels(np.array(cells, dtype=np.str_))


def read_parquet_part(path: Path, labels_from: str | None) -> Part:
    """Read a parquet file by pandas; ``labels_from`` names the column of the labels.

    Raises
    ------
    DataError
        If pandas is not installed, the file cannot be read, or a column holds something else than numbers.
    """
    pandas, frame = _frame(path)
    names = [str(name) for name in frame.columns]
    label_place = _place(path, names, labels_from)
    labels = None
    if label_place is not None:
        labels = as_labels(f"{path}: column {labels_from}", frame.iloc[:, label_place])
    kept = [place for place in range(len(names)) if place != label_place]
    if not kept:
        raise DataError(f"{path}: expected columns of numbers, found none")
    for place in kept:
        dtype = frame.dtypes.iloc[place]
        if not (pandas.api.types.is_numeric_dtype(dtype) or pandas.api.types.is_bool_dtype(dtype)):
            raise DataError(f"{path}: column {names[place]}: expected numbers, got {dtype}")
    values = frame.iloc[:, kept].to_numpy(dtype=np.float64, na_value=np.nan)
    return Part(values, labels, tuple(names[place] for place in kept))


def _frame(path: Path) -> tuple[Any, Any]:
    """Pandas, and the frame that it reads from a parquet file."""
    needs = f'{path}: parquet files are read by pandas with pyarrow: pip install "fastvi[pandas]"'
    try:
        pandas = importlib.import_module("pandas")
    except ImportError as error:
        raise DataError(needs) from error
    try:
        frame = pandas.read_parquet(path)
    except ImportError as error:
        raise DataError(needs) from error
    except Exception as error:  # pyarrow's own classes, which depend on its version
        raise read_error(path, error, "a parquet file") from error
    return pandas, frame


def _cells(path: Path, with_empty: bool = False) -> list[tuple[int, list[str]]]:
    """The lines, each with its number: those that are not empty, or all of them."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            file.seek(0)
            delimiter = max(_DELIMITERS, key=head.count)
            reader = csv.reader(file, delimiter=delimiter)
            lines = [(reader.line_num, row) for row in reader if row or with_empty]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise read_error(path, error, "a text of numbers, as csv files are") from error
    if not lines:
        raise DataError(f"{path}: expected lines of numbers, the file is empty")
    return lines


def _has_names(cells: list[str], labels_from: str | None) -> bool:
    """Whether the first line has the columns' names, and not a row, of which the label may be missing."""
    words = [place for place, cell in enumerate(cells) if not _is_number(cell)]
    if not words or len(cells) == 1 or any(cells[place].strip() for place in words):
        return bool(words)
    others = [cell.strip() for place, cell in enumerate(cells) if place not in words]
    return [str(place) for place in words] != [labels_from] or others == [str(place) for place in range(len(others))]


def _place(path: Path, names: list[str], labels_from: str | None) -> int | None:
    if labels_from is None:
        return None
    if names.count(labels_from) != 1:
        how_many, kind = ("two columns", DataError) if labels_from in names else ("none", NoLabelsError)
        raise kind(
            f"{path}: expected one column named {labels_from}, as `labels_from` says, found {how_many} among "
            f"{', '.join(names[:_NAMES_SHOWN])}"
        )
    if len(names) == 1:
        raise DataError(f"{path}: expected columns of numbers beside the labels, found none")
    return names.index(labels_from)


def _labels(cells: npt.NDArray[np.str_]) -> npt.NDArray[Any]:
    """Numbers where all cells are numbers or empty, which become NaN, else words."""
    cells = np.char.strip(cells)
    is_known: npt.NDArray[np.bool_] = cells != ""
    for kind in (np.int64, np.float64):  # whole numbers as such: float64 does not hold all of them
        try:
            numbers = cells[is_known].astype(kind)
        except (ValueError, OverflowError):
            continue
        if is_known.all():
            return np.asarray(numbers)
        labels = np.full(len(cells), np.nan)
        labels[is_known] = numbers
        return labels
    return cells


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _wrong_cell(path: Path, names: list[str], rows: list[tuple[int, list[str]]], kept: list[int]) -> DataError:
    for number, row in rows:
        for place in kept:
            if not _is_number(row[place]):
                got = repr(row[place][:40]) if row[place].strip() else "an empty cell"
                advice = "; a column of labels is named with `labels_from`" if row[place].strip() else ""
                return DataError(f"{path}: line {number}, column {names[place]}: expected a number, got {got}{advice}")
    return DataError(f"{path}: expected numbers in all cells")
