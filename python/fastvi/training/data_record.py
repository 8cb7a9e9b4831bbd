"""What a run remembers of its data, so that it never goes on with others."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastvi.data import Dataset
from fastvi.training.errors import RunError

_DIGEST_BYTES = 32


@dataclass(frozen=True)
class DataRecord:
    """Number and digest of a run's images, and where they were.

    Attributes
    ----------
    train_images, test_images
        How many there are.
    train_digest, test_digest
        BLAKE2b of their shape and of the bytes of their values, hexadecimal.
    labels_digest
        The same of the training and the test labels, where the run uses them; else None.
    data_dir
        Absolute path of the folder that they were read from; None where none was named.
    """

    train_images: int
    test_images: int
    train_digest: str
    test_digest: str
    labels_digest: str | None = None
    data_dir: str | None = None

    @classmethod
    def of(cls, data: Dataset, data_dir: Path | None = None, uses_labels: bool = False) -> DataRecord:
        """Return the record of ``data``, which were read from ``data_dir``, for a run that ``uses_labels`` or not."""
        return cls(
            train_images=data.train.shape[0],
            test_images=data.test.shape[0],
            train_digest=_digest(data.train),
            test_digest=_digest(data.test),
            labels_digest=_labels_digest(data) if uses_labels else None,
            data_dir=None if data_dir is None else str(data_dir.absolute()),
        )

    @classmethod
    def from_dict(cls, values: Any) -> DataRecord:
        """Return the record that `as_dict` wrote; that of a run in format 2 has no ``labels_digest``.

        Raises
        ------
        ValueError
            If the values are not those of a record.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if isinstance(values, Mapping):
            values = {"labels_digest": None, **values}
        if not isinstance(values, Mapping) or sorted(values) != sorted(names):
            raise ValueError(f"data_record must have the keys {', '.join(names)}")
        counts, texts = names[:2], names[2:4]
        right = all(type(values[name]) is int for name in counts) and all(type(values[name]) is str for name in texts)
        right = right and all(isinstance(values[name], str | None) for name in ("labels_digest", "data_dir"))
        if not right:
            raise ValueError("data_record must hold two numbers, two digests and a path")
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name."""
        return dataclasses.asdict(self)


def require_same_data(record: DataRecord | None, image_shape: tuple[int, int], data: Dataset, run: Path) -> None:
    """Check that ``data`` are those of a run.

    Parameters
    ----------
    record
        The run's record; None where it has none: then only the shape of the images can be compared.
    image_shape
        (height, width) of the run's images.
    data
        The data to compare.
    run
        Folder of the run, for the message.

    Raises
    ------
    RunError
        If they differ; the message says how.
    """
    differences = []
    if tuple(data.image_shape) != tuple(image_shape):
        differences.append(f"its images are {_by(image_shape)} pixels, these are {_by(data.image_shape)}")
    elif record is not None:
        for what, images, count, digest in (
            ("training", data.train, record.train_images, record.train_digest),
            ("test", data.test, record.test_images, record.test_digest),
        ):
            if images.shape[0] != count:
                differences.append(f"it has {count:,} {what} images, here are {images.shape[0]:,}")
            elif _digest(images) != digest:
                differences.append(f"its {what} images have other pixels than these")
        if not differences and record.labels_digest not in (None, _labels_digest(data)):
            differences.append("its images have other labels than these")
    if differences:
        raise RunError(
            f"the data are not those of the run {run}: {'; '.join(differences)}; "
            "name the data that it was trained on, or start a new run"
        )


def _labels_digest(data: Dataset) -> str | None:
    if data.train_labels is None or data.test_labels is None:
        return None
    return _digest(torch.cat([data.train_labels, data.test_labels]))


def _digest(images: Tensor) -> str:
    digest = hashlib.blake2b(str(tuple(images.shape)).encode(), digest_size=_DIGEST_BYTES)
    digest.update(images.detach().cpu().reshape(-1).contiguous().numpy().data)
    return digest.hexdigest()


def _by(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"
