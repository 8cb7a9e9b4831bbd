"""Arrays in npy files that are larger than memory: rows are read from the disk when a batch asks for them."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastvi._array_files import NPY_MAX_START, DataError, check_plain, npy_layout
from fastvi.data.parts import not_finite
from fastvi.data.row_format import RowFormat, format_of
from fastvi.data.splitting import evenly_spaced

_DIGEST_BYTES = 32
_ROWS_IN_DIGEST = 256
_BYTES_AT_A_TIME = 2**24
"""Most that one call of the operating system reads."""


@dataclass(frozen=True)
class NpyFile:
    """One array of numbers in an npy file, of which rows are read.

    Reads go through the file and not through a map of it into memory: the pages of a map count as the process's own
    until the system needs them.
    """

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int

    @classmethod
    def open(cls, path: Path) -> NpyFile:
        """Read the header.

        Raises
        ------
        DataError
            If the file cannot be read, is no npy file of numbers, is cut short, or has its columns one after the other.
        """
        try:
            with path.open("rb") as file:
                head, size = file.read(NPY_MAX_START), os.fstat(file.fileno()).st_size
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({str(error)[:200]})") from error
        if size == 0:
            raise DataError(f"{path}: expected an array in NumPy's npy format, the file is empty")
        layout = npy_layout(path, "its content", head, size)
        check_plain(path, "its content", layout)
        dtype = np.dtype(layout.dtype)
        needed = math.prod(layout.shape) * dtype.itemsize
        if size - layout.start != needed:
            raise DataError(
                f"{path}: expected {needed:,} bytes of data for the shape {layout.shape}, got {size - layout.start:,}"
            )
        if layout.fortran_order and len(layout.shape) > 1:
            raise DataError(
                f"{path}: expected rows one after the other, and the file has columns (Fortran's order): "
                "save numpy.ascontiguousarray of it"
            )
        return cls(path, dtype, layout.shape, layout.start)

    def read(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return the rows ``indices`` in their order; neighbours are read at once.

        Raises
        ------
        DataError
            If the file went away or became shorter.
        """
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        order = np.argsort(indices, kind="stable")
        found = np.empty((len(indices), row_bytes), np.uint8)
        sorted_rows = np.empty_like(found)
        ends = np.flatnonzero(np.diff(indices[order]) != 1) + 1
        try:
            with self.path.open("rb", buffering=0) as file:
                for first, last in itertools.pairwise([0, *ends.tolist(), len(indices)]):
                    self._read_run(file.fileno(), int(indices[order[first]]) * row_bytes, sorted_rows[first:last])
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read any more ({error.strerror})") from error
        found[order] = sorted_rows
        return found.view(self.dtype).reshape(len(indices), *self.shape[1:])

    def _read_run(self, descriptor: int, offset: int, into: npt.NDArray[np.uint8]) -> None:
        target = into.reshape(-1).data
        done = 0
        while done < len(target):
            count = os.preadv(descriptor, [target[done : done + _BYTES_AT_A_TIME]], self.start + offset + done)
            if count == 0:
                raise DataError(f"{self.path}: expected {math.prod(self.shape):,} values, and the file became shorter")
            done += count


class StreamedArrays:
    """The rows of one or more npy files, read from the disk batch by batch, in memory that does not grow with them.

    What is kept of each file is its header; a batch of B rows needs the memory of B rows. Bytes are divided by 255,
    unless the rows that were looked at hold 0 and 1 alone.

    Parameters
    ----------
    paths
        Files of arrays (N, D), (N, H, W), (N, H, W, C) or (N, C, H, W) of one dtype and of one shape but for N, in this
        order. A folder stands for its npy files in the order of their names.
    image_size
        (H, W), where rows (N, D) are images.
    row_format
        How the values become rows; None: as `fastvi.data.from_path` finds it.

    Attributes
    ----------
    shape
        (N, D): of all rows together.
    row_format
        Shape and scale of an example.

    Raises
    ------
    DataError
        If a file cannot be read, or they do not fit together; later, when rows are read, if one holds NaN or an
        infinite number: the message names the file and the row.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> np.save(folder / "a.npy", np.zeros((3, 2, 2), np.uint8))
    >>> np.save(folder / "b.npy", np.full((2, 2, 2), 255, np.uint8))
    >>> data = StreamedArrays(folder)
    >>> data.shape, data[3:]
    ((5, 4), tensor([[1., 1., 1., 1.],
            [1., 1., 1., 1.]]))
    """

    def __init__(
        self,
        paths: Path | str | Sequence[Path | str],
        image_size: tuple[int, int] | None = None,
        row_format: RowFormat | None = None,
    ) -> None:
        self.files = tuple(NpyFile.open(path) for path in npy_paths(paths))
        _check_alike(self.files)
        first = self.files[0]
        counts = [file.shape[0] if file.shape else 0 for file in self.files]
        self._ends = np.cumsum(counts)
        name = str(first.path) if len(self.files) == 1 else f"{first.path} and {len(self.files) - 1} others"
        total = (int(self._ends[-1]), *first.shape[1:]) if first.shape else ()
        self.row_format = row_format or format_of(name, total, image_size)
        self.name = name
        self.dtype = first.dtype
        self._chosen: Tensor | None = None
        self._width = math.prod(first.shape[1:])
        self._are_bits = False
        if row_format is None and self.dtype == np.uint8:
            largest = self.raw(evenly_spaced(min(_ROWS_IN_DIGEST, len(self)), len(self))).max()
            self._are_bits = bool(largest <= 1)
            self.row_format = replace(self.row_format, divisor=1.0 if self._are_bits else 255.0)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return len(self), self._width

    def __len__(self) -> int:
        """Return the number of rows, N."""
        return int(self._ends[-1]) if self._chosen is None else len(self._chosen)

    def __getitem__(self, index: int | slice | Tensor | Sequence[int]) -> Tensor:
        """Return one row, (D,), or those of a slice or of indices, (B, D)."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"row {index} of {len(self)}")
            return self.rows(torch.tensor([index % len(self)]))[0]
        if isinstance(index, slice):
            return self.rows(torch.arange(*index.indices(len(self))))
        return self.rows(torch.as_tensor(index, dtype=torch.int64))

    def rows(self, indices: Tensor) -> Tensor:
        """Return the rows ``indices`` (B,) in their order, float32 of shape (B, D).

        Raises
        ------
        DataError
            If a file cannot be read any more, a value is NaN or infinite, or a byte is more than 1 where those that
            were looked at are not.
        """
        raw = self.raw(indices)
        if self._are_bits and bool((raw > 1).any()):
            row = int(np.argmax((raw > 1).reshape(len(raw), -1).any(1)))
            path, place = self._place(int(indices[row]))
            raise DataError(
                f"{path}: row {place} holds the byte {raw[row].max()}, and the rows that were looked at 0 and 1 alone: "
                "`divide_by` says what bytes are divided by, 255 for grey values"
            )
        rows = self.row_format(raw)
        if self.dtype.kind == "f" and not bool(rows.isfinite().all()):
            row, column = torch.nonzero(~rows.isfinite())[0].tolist()
            path, place = self._place(int(indices[row]))
            raise DataError(f"{path}: row {place}, column {column}: {not_finite(rows[row, column].item(), raw[row])}")
        return rows

    def raw(self, indices: Tensor) -> npt.NDArray[Any]:
        """Return the rows as they stand in the files, (B, ...)."""
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise IndexError(f"rows from {int(indices.min())} to {int(indices.max())} of {len(self)}")
        places = (indices if self._chosen is None else self._chosen[indices]).numpy()
        found = np.empty((len(places), *self.files[0].shape[1:]), self.dtype)
        numbers = np.searchsorted(self._ends, places, side="right")
        for number in np.unique(numbers).tolist():
            within = numbers == number
            first = int(self._ends[number - 1]) if number else 0
            found[within] = self.files[number].read(places[within] - first)
        return found

    def select(self, indices: Tensor) -> StreamedArrays:
        """Return the same data with the rows ``indices`` alone, int64 of shape (M,), which are kept in memory."""
        return self._with(_chosen=indices if self._chosen is None else self._chosen[indices])

    def with_format(self, row_format: RowFormat) -> StreamedArrays:
        """Return the same data whose values become rows in another way."""
        return self._with(row_format=row_format, _are_bits=False)  # who names a divisor vouches for it

    def digest(self) -> str:
        """Return a digest of shapes, dtypes, choice of rows, format, and 256 evenly spaced rows as they stand.

        It does not depend on the files' names and dates. A change in the rows between does not change it: to read all
        would take as long as an epoch.
        """
        formed = self.row_format
        described = [[(file.dtype.str, file.shape) for file in self.files], formed.image_shape, formed.channels_last]
        digest = hashlib.blake2b(repr([*described, formed.divisor, self.shape]).encode(), digest_size=_DIGEST_BYTES)
        for tensor in (formed.shift, formed.scale, self._chosen):
            if tensor is not None:
                digest.update(tensor.numpy().tobytes())
        digest.update(self.raw(evenly_spaced(min(_ROWS_IN_DIGEST, len(self)), len(self))).tobytes())
        return digest.hexdigest()

    def _with(self, **attributes: Any) -> StreamedArrays:
        other = object.__new__(StreamedArrays)
        other.__dict__.update(self.__dict__, **attributes)
        return other

    def _place(self, index: int) -> tuple[Path, int]:
        place = index if self._chosen is None else int(self._chosen[index])
        number = int(np.searchsorted(self._ends, place, side="right"))
        return self.files[number].path, place - (int(self._ends[number - 1]) if number else 0)


def npy_paths(paths: Path | str | Sequence[Path | str]) -> list[Path]:
    """Return the npy files that are named, those of a folder in the order of their names.

    Raises
    ------
    DataError
        If there are none.
    """
    if not isinstance(paths, str | Path):
        found = [Path(path) for path in paths]
        if not found:
            raise DataError("expected at least one npy file, got none")
        return found
    path = Path(paths)
    if not path.is_dir():
        return [path]
    found = sorted(each for each in path.iterdir() if each.suffix == ".npy" and not each.name.startswith("."))
    if not found:
        raise DataError(f"{path}: expected npy files in the folder, found none")
    return found


def _check_alike(files: Sequence[NpyFile]) -> None:
    first = files[0]
    for file in files[1:]:
        if (file.dtype, file.shape[1:]) != (first.dtype, first.shape[1:]) or not file.shape:
            raise DataError(
                f"{file.path}: expected rows of the shape {first.shape[1:]} and dtype {first.dtype}, as in "
                f"{first.path}, got {file.shape[1:]} and {file.dtype}"
            )
