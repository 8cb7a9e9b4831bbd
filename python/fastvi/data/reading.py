"""Data of a user's own by the path of a file or a folder."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastvi._array_files import DataError
from fastvi.data.array_parts import read_npy, read_npz_part, read_pt_part
from fastvi.data.assembling import assemble
from fastvi.data.dataset import Dataset
from fastvi.data.image_folder import ImageFolder, holds_images
from fastvi.data.parts import NoLabelsError, Part
from fastvi.data.splitting import parse_split
from fastvi.data.streaming import StreamedArrays, npy_paths
from fastvi.data.tables import read_csv_part, read_labels, read_parquet_part

FILE_SUFFIXES = (".npz", ".npy", ".pt", ".pth", ".csv", ".tsv", ".parquet")
STREAM_FROM_BYTES = 2**30
"""Rows that are larger than this as float32 stay on the disk, and are read batch by batch, where the format allows."""
_FOLDERS = "folders"


@dataclass(frozen=True)
class DataSource:
    """Where data of a user's own lie, and how they are read: what a run remembers of them.

    Attributes
    ----------
    path
        An npz, npy, pt, csv or parquet file, a folder of images, or a folder of npy files that follow one another.
    test_split
        Fraction of the rows that test, their number, or the path of other rows; None: what the file itself calls test
        rows, else a tenth, at most 10,000.
    labels_from
        The array in an npz or pt file, the column of a csv or parquet file, ``"folders"`` for images whose folders say
        their label, or the path of another file of labels; None: no labels. Test rows may be without any.
    array
        The array in an npz or pt file that holds the rows; None: the only one, or one with a usual name.
    image_size
        (H, W) to which images of a folder are scaled, or which rows (N, D) of an array have.
    colour
        Whether a folder's images are in colour; None: as they are.
    likelihood, divide_by, standardize
        See `fastvi.data.from_arrays`.
    stream
        Whether rows are read from the disk batch by batch; None: where they have more than 1 GiB as float32.
    """

    path: str
    test_split: float | str | None = None
    labels_from: str | None = None
    array: str | None = None
    image_size: tuple[int, int] | None = None
    colour: bool | None = None
    likelihood: str | None = None
    divide_by: float | None = None
    standardize: bool = False
    stream: bool | None = None

    def load(self) -> Dataset:
        """Read the data.

        Raises
        ------
        DataError
            See `fastvi.data.from_path`.
        """
        return self._load(parse_split(self.test_split), True)

    def load_beside(self, path: str) -> Dataset:
        """Read other rows as those that test, so that their values are divided and standardised as the training rows'.

        They may be without labels; a file of labels is of the data's own rows.

        Raises
        ------
        DataError
            See `fastvi.data.from_path`.
        """
        own = parse_split(self.test_split)
        return self._load(Path(path), isinstance(own, Path) and own.absolute() == Path(path).absolute())

    def _load(self, split: float | Path | None, has_own_labels: bool) -> Dataset:
        path = _path(self.path)
        part = self._read(path, self.labels_from)
        test_part, test_name = part.test, self.path
        if isinstance(split, Path):
            test_name = str(split)
            test_part = self._read_other(split)
        elif split is not None:
            test_part = None
        labels = self._labels_file()
        if labels is not None:
            part, test_part = _with_labels(labels, part, test_part, has_own_labels)
        return assemble(
            self.path,
            part,
            test_part,
            split=None if isinstance(split, Path) else split,
            image_size=self.image_size,
            likelihood=self.likelihood,
            divide_by=self.divide_by,
            standardize=self.standardize,
            test_name=test_name,
        )

    def absolute(self) -> DataSource:
        """Return the same with absolute paths."""
        split, labels = parse_split(self.test_split), self._labels_file()
        return replace(
            self,
            path=str(Path(self.path).absolute()),
            test_split=str(split.absolute()) if isinstance(split, Path) else split,
            labels_from=self.labels_from if labels is None else str(labels.absolute()),
        )

    def moved_to(self, path: Path) -> DataSource:
        """Return the same for data that lie at ``path`` now; other files that lay beside them lie beside them still."""
        old, new = Path(self.path).parent, path.absolute().parent
        split, labels = parse_split(self.test_split), self.labels_from

        def beside(other: str) -> str:
            is_there = Path(other).exists() or not Path(other).is_relative_to(old)
            return other if is_there else str(new / Path(other).relative_to(old))

        return replace(
            self,
            path=str(path),
            test_split=beside(str(split)) if isinstance(split, Path) else split,
            labels_from=labels if labels is None or not Path(labels).is_absolute() else beside(labels),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name as JSON has them, paths absolute."""
        values = dataclasses.asdict(self.absolute())
        return values | {"image_size": None if self.image_size is None else list(self.image_size)}

    @classmethod
    def from_dict(cls, values: Any) -> DataSource:
        """Return what `as_dict` gave.

        Raises
        ------
        DataError
            If the values cannot be.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, Mapping) or not {"path"} <= set(values) <= names:
            raise DataError(f"a source of data must have a path, and no other keys than {', '.join(sorted(names))}")
        kinds: dict[str, Any] = {
            "path": str, "test_split": float | int | str | None, "labels_from": str | None, "array": str | None,
            "image_size": list | tuple | None, "colour": bool | None, "likelihood": str | None,
            "divide_by": float | int | None, "standardize": bool, "stream": bool | None,
        }  # fmt: skip
        for name, value in values.items():
            if not isinstance(value, kinds[name]):
                raise DataError(f"a source of data must have another kind of {name} than {str(value)[:50]!r}")
        size = values.get("image_size")
        if size is not None and not (len(size) == 2 and all(type(each) is int and each > 0 for each in size)):
            raise DataError(f"a source of data must have a height and a width, got {str(size)[:50]}")
        return cls(**{**values, "image_size": None if size is None else (size[0], size[1])})

    def _read(self, path: Path, labels_from: str | None) -> Part:
        if labels_from is not None and self._labels_file() is not None:
            labels_from = None
        if path.is_dir():
            return self._read_folder(path, labels_from)
        suffix = path.suffix.lower()
        if suffix not in FILE_SUFFIXES:
            raise DataError(
                f"{path}: expected a file that ends in {', '.join(FILE_SUFFIXES)}, or a folder of images or npy files"
            )
        _check_file(path)
        if suffix == ".npz":
            return read_npz_part(path, self.array, labels_from)
        if suffix in (".pt", ".pth"):
            return read_pt_part(path, self.array, labels_from)
        if suffix in (".csv", ".tsv"):
            return read_csv_part(path, labels_from)
        if suffix == ".parquet":
            return read_parquet_part(path, labels_from)
        self._refuse_labels(path, labels_from)
        return Part(self._streamed_or_whole(path))

    def _read_other(self, path: Path) -> Part:
        """Rows of another file, without labels where it has none."""
        try:
            return self._read(path, self.labels_from)
        except NoLabelsError:
            return self._read(path, None)

    def _read_folder(self, path: Path, labels_from: str | None) -> Part:
        if any(path.glob("*.npy")):
            if holds_images(path):
                raise DataError(f"{path}: expected a folder of images or of npy files, found both")
            self._refuse_labels(path, labels_from)
            return Part(self._streamed_or_whole(path))
        images = ImageFolder(path, self.image_size, self.colour)
        if labels_from not in (None, _FOLDERS):
            self._refuse_labels(path, labels_from)
        labels = None if labels_from is None else images.folder_labels()
        if self._is_streamed(4 * math.prod(images.shape)):
            return Part(images, labels)
        return Part(images.raw(torch.arange(len(images))), labels)

    def _refuse_labels(self, path: Path, labels_from: str | None) -> None:
        if labels_from is not None:
            raise NoLabelsError(
                f"{path}: `labels_from` must be the path of a file of labels, or folders for a folder of images, got "
                f"{labels_from}, which is not there"
            )

    def _streamed_or_whole(self, path: Path) -> npt.NDArray[Any] | StreamedArrays:
        streamed = StreamedArrays(path, self.image_size)
        if self._is_streamed(4 * math.prod(streamed.shape)):
            return streamed
        return np.concatenate([read_npy(each) for each in npy_paths(path)])

    def _is_streamed(self, size: int) -> bool:
        return size > STREAM_FROM_BYTES if self.stream is None else self.stream

    def _labels_file(self) -> Path | None:
        """The other file that `labels_from` names; None where it names a part of the data's own file."""
        if self.labels_from in (None, _FOLDERS) or Path(self.labels_from or "").suffix.lower() not in FILE_SUFFIXES:
            return None
        return Path(self.labels_from or "")


def from_path(
    path: Path | str,
    *,
    test_split: float | str | Path | None = None,
    labels_from: str | Path | None = None,
    array: str | None = None,
    image_size: tuple[int, int] | None = None,
    colour: bool | None = None,
    likelihood: str | None = None,
    divide_by: float | None = None,
    standardize: bool = False,
    stream: bool | None = None,
) -> Dataset:
    """Read a data set of one's own from a file or a folder.

    Parameters
    ----------
    path, test_split, labels_from, array, image_size, colour, stream
        See `fastvi.data.DataSource`.
    likelihood, divide_by, standardize
        See `fastvi.data.from_arrays`.

    Raises
    ------
    DataError
        If a file cannot be read or is damaged, or its values, shapes or labels are not what they must be: one line that
        names the file and what was expected.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "faces.npz"
    >>> np.savez(file, images=np.arange(480, dtype=np.uint8).reshape(20, 6, 4), who=["ann", "bob"] * 10)
    >>> data = from_path(file, labels_from="who", test_split=0.2)
    >>> data.train.shape, data.test.shape, data.image_shape, data.class_names
    (torch.Size([16, 24]), torch.Size([4, 24]), (6, 4), ('ann', 'bob'))
    """
    return DataSource(
        str(path),
        str(test_split) if isinstance(test_split, Path) else test_split,
        None if labels_from is None else str(labels_from),
        array,
        image_size,
        colour,
        likelihood,
        divide_by,
        standardize,
        stream,
    ).load()


def _path(text: str) -> Path:
    path = Path(text)
    try:
        if not path.exists():
            raise DataError(f"{path}: expected a file or a folder of data, it does not exist")
    except (OSError, ValueError) as error:  # a folder that may not be searched, a name that is too long
        raise DataError(f"{path}: cannot be looked at ({str(error)[:200]})") from error
    return path


def _check_file(path: Path) -> None:
    _path(str(path))
    if not path.is_file():
        raise DataError(f"{path}: expected a file, found a device or a pipe")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: expected data, the file is empty")


def _with_labels(path: Path, part: Part, test_part: Part | None, has_test_labels: bool) -> tuple[Part, Part | None]:
    """Parts with labels from a file of their own: those of the training rows, then those of the test rows.

    The test rows are without labels where the file has as many as there are training rows, or ``has_test_labels`` is
    false: then those that follow are of other rows.
    """
    _check_file(path)
    counts = [len(each.values) for each in (part, test_part) if each is not None]
    labels = _label_values(path, sum(counts))
    is_right = labels.ndim == 1 and (len(labels) in (counts[0], sum(counts)) or not has_test_labels)
    if not is_right or len(labels) < counts[0]:
        raise DataError(
            f"{path}: expected {sum(counts):,} labels, one for each row"
            f"{', those to train first' if len(counts) > 1 else ''}, got the shape {labels.shape}"
        )
    if test_part is not None:
        has_test_labels = has_test_labels and len(labels) == sum(counts)
        test_part = replace(test_part, labels=labels[counts[0] :] if has_test_labels else None)
    return replace(part, labels=labels[: counts[0]]), test_part


def _label_values(path: Path, count: int) -> npt.NDArray[Any]:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        labels = read_npy(path)
    elif suffix == ".npz":
        labels = np.asarray(read_npz_part(path, None, None).values)
    elif suffix in (".pt", ".pth"):
        labels = np.asarray(read_pt_part(path, None, None).values)
    else:
        labels = read_labels(path, count)
    return labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
