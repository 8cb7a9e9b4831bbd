"""Arrays from npz, npy and pt files, and which of several in a file are the rows, the labels and the test rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastvi._array_files import DataError, npz_names, read_npz_numbers
from fastvi.data.parts import NoLabelsError, Part, as_array, read_error
from fastvi.data.streaming import NpyFile

_USUAL_NAMES = ("x_train", "train_images", "train_data", "train", "x", "images", "data", "features", "arr_0")
"""Names under which rows are looked for, in this order, large letters or small."""
_NAMES_SHOWN = 12


def read_npy(path: Path) -> npt.NDArray[Any]:
    """Read the array of an npy file.

    Raises
    ------
    DataError
        If it cannot be read, is damaged, or holds anything but numbers and words.
    """
    file = NpyFile.open(path)
    return file.read(np.arange(file.shape[0])) if file.shape else np.empty((), file.dtype)


def read_npz_part(path: Path, array: str | None, labels_from: str | None) -> Part:
    """Read rows from an npz archive, with labels and test rows where they are there; see `choose`."""
    return choose(path, npz_names(path), lambda name: read_npz_numbers(path, name), array, labels_from)


def read_pt_part(path: Path, array: str | None, labels_from: str | None) -> Part:
    """Read rows from a file that ``torch.save`` wrote: a tensor, a dictionary of them, or a pair (rows, labels).

    Nothing but tensors and plain containers is loaded (``weights_only=True``).

    Raises
    ------
    DataError
        If the file is of another kind or damaged.
    """
    expected = "a tensor, a dictionary of tensors, or a pair (rows, labels) as torch.save writes them"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch, on what damaged bytes make it meet
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the bytes lead the reader to: there is no list of it
        raise read_error(path, error, expected) from error
    if isinstance(content, Tensor):
        content = {"tensor": content}
    elif isinstance(content, Sequence) and len(content) == 2 and all(isinstance(part, Tensor) for part in content):
        rows, labels = content
        return Part(as_array(str(path), rows), as_array(str(path), labels))
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise DataError(f"{path}: expected {expected}, got {type(content).__name__}")
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    return choose(path, list(tensors), lambda name: as_array(f"{path}: {name}", tensors[name]), array, labels_from)


def choose(
    path: Path,
    names: Sequence[str],
    read: Callable[[str], npt.NDArray[Any]],
    array: str | None,
    labels_from: str | None,
) -> Part:
    """Return the rows called ``array``, with the labels called ``labels_from``, of a file with several arrays.

    Without ``array`` the rows are the only array that is not the labels, else the first with a usual name, such as
    ``x_train`` or ``images``. Where their name has "train" in it, the test rows are those with "test" in its place.

    Raises
    ------
    DataError
        If there is no such array; the message lists those that there are.
    """
    found = f"found {', '.join(sorted(names)[:_NAMES_SHOWN]) or 'no arrays'}"
    for option, name, kind in (("array", array, DataError), ("labels_from", labels_from, NoLabelsError)):
        if name is not None and name not in names:
            raise kind(f"{path}: expected an array named {name}, as `{option}` says, {found}")
    if array is None:
        others = [name for name in names if name != labels_from]
        by_name = {name.lower(): name for name in reversed(others)}
        usual = [by_name[name] for name in _USUAL_NAMES if name in by_name]
        if len(others) != 1 and not usual:
            raise DataError(f"{path}: expected one array of rows, {found}: name it with `array`")
        array = others[0] if len(others) == 1 else usual[0]

    def part(rows: str, labels: str | None, test: Part | None) -> Part:
        return Part(read(rows), None if labels is None else read(labels), test=test)

    test_name, test_labels = _test_name(array, names), _test_name(labels_from, names)
    test = None if test_name is None else part(test_name, test_labels, None)
    return part(array, labels_from, test)


def _test_name(name: str | None, names: Sequence[str]) -> str | None:
    """The array that holds of the test rows what ``name`` holds of the others."""
    if name is None or "train" not in name.lower():
        return None
    for train, test in (("train", "test"), ("TRAIN", "TEST"), ("Train", "Test")):
        if name.replace(train, test) != name and name.replace(train, test) in names:
            return name.replace(train, test)
    return None
