"""Tables of numbers: csv files, and parquet files by pandas."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastvi._array_files import DataError
from fastvi.data.parts import Part, as_array, read_error

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

    Raises
    ------
    DataError
        If a cell is no number, or the lines differ in length: the message names the line and the column.
    """
    lines = _cells(path)
    has_names = not all(_is_number(cell) for cell in lines[0][1])
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


def read_labels(path: Path) -> npt.NDArray[Any]:
    """Read the labels of a csv file of one column, with a name above them or without, or of a parquet file of one.

    Labels that are words have no name above them unless that is ``label`` or ``labels``.

    Raises
    ------
    DataError
        If the file has other columns too, or cannot be read.
    """
    if path.suffix.lower() == ".parquet":
        part = read_parquet_part(path, None)
        values = np.asarray(part.values)
    else:
        lines = _cells(path)
        cells = np.array([row[0] for _, row in lines if len(row) == 1], dtype=np.str_)
        if len(cells) != len(lines):
            raise DataError(f"{path}: expected one column of labels, found lines of several cells")
        is_name = cells[0].strip().lower() in ("label", "labels")
        is_name = is_name or (
            not _is_number(cells[0]) and all(_is_number(cell) for cell in cells[1:]) and len(cells) > 1
        )
        values = _labels(cells[1:] if is_name else cells)
    return values


def read_parquet_part(path: Path, labels_from: str | None) -> Part:
    """Read a parquet file by pandas; ``labels_from`` names the column of the labels.

    Raises
    ------
    DataError
        If pandas is not installed, the file cannot be read, or a column holds something else than numbers.
    """
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
    names = [str(name) for name in frame.columns]
    label_place = _place(path, names, labels_from)
    labels = None
    if label_place is not None:
        column = frame.iloc[:, label_place]
        if bool(column.isna().any()):
            raise DataError(f"{path}: column {labels_from}: expected a label in each row, some have none")
        labels = as_array(f"{path}: column {labels_from}", column.to_numpy())
    kept = [place for place in range(len(names)) if place != label_place]
    if not kept:
        raise DataError(f"{path}: expected columns of numbers, found none")
    for place in kept:
        dtype = frame.dtypes.iloc[place]
        if not (pandas.api.types.is_numeric_dtype(dtype) or pandas.api.types.is_bool_dtype(dtype)):
            raise DataError(f"{path}: column {names[place]}: expected numbers, got {dtype}")
    values = frame.iloc[:, kept].to_numpy(dtype=np.float64, na_value=np.nan)
    return Part(values, labels, tuple(names[place] for place in kept))


def _cells(path: Path) -> list[tuple[int, list[str]]]:
    """The lines that are not empty, each with its number."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            file.seek(0)
            delimiter = max(_DELIMITERS, key=head.count)
            reader = csv.reader(file, delimiter=delimiter)
            lines = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise read_error(path, error, "a text of numbers, as csv files are") from error
    if not lines:
        raise DataError(f"{path}: expected lines of numbers, the file is empty")
    return lines


def _place(path: Path, names: list[str], labels_from: str | None) -> int | None:
    if labels_from is None:
        return None
    if names.count(labels_from) != 1:
        how_many = "two columns" if labels_from in names else "none"
        raise DataError(
            f"{path}: expected one column named {labels_from}, as `labels_from` says, found {how_many} among "
            f"{', '.join(names[:_NAMES_SHOWN])}"
        )
    if len(names) == 1:
        raise DataError(f"{path}: expected columns of numbers beside the labels, found none")
    return names.index(labels_from)


def _labels(cells: npt.NDArray[np.str_]) -> npt.NDArray[Any]:
    """Numbers where all are numbers, else words."""
    try:
        return cells.astype(np.float64)
    except ValueError:
        return np.char.strip(cells)


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
