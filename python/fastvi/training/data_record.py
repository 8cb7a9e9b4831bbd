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
    times_digest
        The same of the training and the test times, where the run uses neighbours in time; else None.
    data_dir
        Absolute path of the folder that they were read from; None where none was named.
    """

    train_images: int
    test_images: int
    train_digest: str
    test_digest: str
    labels_digest: str | None = None
    times_digest: str | None = None
    data_dir: str | None = None

    @classmethod
    def of(
        cls, data: Dataset, data_dir: Path | None = None, uses_labels: bool = False, uses_neighbours: bool = False
    ) -> DataRecord:
        """Return the record of ``data``, which were read from ``data_dir``, for a run that uses these or not."""
        return cls(
            train_images=data.train.shape[0],
            test_images=data.test.shape[0],
            train_digest=_digest(data.train),
            test_digest=_digest(data.test),
            labels_digest=_digest_of_both(data.train_labels, data.test_labels) if uses_labels else None,
            times_digest=_digest_of_both(data.train_times, data.test_times) if uses_neighbours else None,
            data_dir=None if data_dir is None else str(data_dir.absolute()),
        )

    @classmethod
    def from_dict(cls, values: Any) -> DataRecord:
        """Return the record that `as_dict` wrote; that of a run in format 2 has no ``labels_digest``.

        One of a run that does not use neighbours has no ``times_digest``.

        Raises
        ------
        ValueError
            If the values are not those of a record.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if isinstance(values, Mapping):
            values = {"labels_digest": None, "times_digest": None, **values}
        if not isinstance(values, Mapping) or sorted(values) != sorted(names):
            raise ValueError(f"data_record must have the keys {', '.join(names)}")
        counts, texts = names[:2], names[2:4]
        right = all(type(values[name]) is int for name in counts) and all(type(values[name]) is str for name in texts)
        right = right and all(
            isinstance(values[name], str | None) for name in ("labels_digest", "times_digest", "data_dir")
        )
        if not right:
            raise ValueError("data_record must hold two numbers, two digests and a path")
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name; without the digest of times where there is none."""
        values = dataclasses.asdict(self)
        if self.times_digest is None:
            del values["times_digest"]  # so that former versions read the run
        return values


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
        if not differences and record.labels_digest not in (None, _digest_of_both(data.train_labels, data.test_labels)):
            differences.append("its images have other labels than these")
        if not differences and record.times_digest not in (None, _digest_of_both(data.train_times, data.test_times)):
            differences.append("its images have other times than these")
    if differences:
        raise RunError(
            f"the data are not those of the run {run}: {'; '.join(differences)}; "
            "name the data that it was trained on, or start a new run"
        )


def _digest_of_both(train: Tensor | None, test: Tensor | None) -> str | None:
    """Of labels or times of the training and the test images."""
    return None if train is None or test is None else _digest(torch.cat([train, test]))


def _digest(images: Tensor) -> str:
    digest = hashlib.blake2b(str(tuple(images.shape)).encode(), digest_size=_DIGEST_BYTES)
    digest.update(images.detach().cpu().reshape(-1).contiguous().numpy().data)
    return digest.hexdigest()


def _by(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"
