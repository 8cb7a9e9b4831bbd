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

from fastvi.data import DataError, Dataset, DataSource, RowSource
from fastvi.data.rows import shape_of, some_rows
from fastvi.training.errors import RunError

_DIGEST_BYTES = 32
_ROWS_OF_A_SOURCE = 256


@dataclass(frozen=True)
class DataRecord:
    """Number and digest of a run's images, and where they were.

    Attributes
    ----------
    train_images, test_images
        How many there are.
    train_digest, test_digest
        BLAKE2b of their shape and of the bytes of their values, hexadecimal; of a source that is read in batches its
        own ``digest()``, or that of its shape and 256 evenly spaced rows.
    labels_digest
        The same of the training and the test labels, where the run uses them; else None.
    times_digest
        The same of the training and the test times, where the run uses neighbours in time; else None.
    data_dir
        Absolute path of the folder that they were read from; None where none was named.
    source
        How data of the user's own were read, see `fastvi.data.DataSource`; None for those known by name.
    """

    train_images: int
    test_images: int
    train_digest: str
    test_digest: str
    labels_digest: str | None = None
    times_digest: str | None = None
    data_dir: str | None = None
    source: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls,
        data: Dataset,
        place: Path | DataSource | None = None,
        uses_labels: bool = False,
        uses_neighbours: bool = False,
    ) -> DataRecord:
        """Return the record of ``data``, which were read from ``place``, for a run that uses these or not."""
        return cls(
            train_images=shape_of(data.train)[0],
            test_images=data.test.shape[0],
            train_digest=_digest(data.train),
            test_digest=_digest(data.test),
            labels_digest=_digest_of_labels(data) if uses_labels else None,
            times_digest=_digest_of_both(data.train_times, data.test_times) if uses_neighbours else None,
            data_dir=str(place.absolute()) if isinstance(place, Path) else None,
            source=place.as_dict() if isinstance(place, DataSource) else None,
        )

    @classmethod
    def from_dict(cls, values: Any) -> DataRecord:
        """Return the record that `as_dict` wrote; ``labels_digest`` and ``source`` may be absent.

        One of a run that does not use neighbours has no ``times_digest``.

        Raises
        ------
        ValueError
            If the values are not those of a record.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if isinstance(values, Mapping):
            values = {"labels_digest": None, "times_digest": None, "source": None, **values}
        if not isinstance(values, Mapping) or sorted(values) != sorted(names):
            raise ValueError(f"data_record must have the keys {', '.join(names)}")
        counts, texts = names[:2], names[2:4]
        right = all(type(values[name]) is int for name in counts) and all(type(values[name]) is str for name in texts)
        right = right and all(
            isinstance(values[name], str | None) for name in ("labels_digest", "times_digest", "data_dir")
        )
        if not right:
            raise ValueError("data_record must hold two numbers, two digests and a path")
        if values["source"] is not None:
            try:
                DataSource.from_dict(values["source"])
            except DataError as error:
                raise ValueError(f"data_record: {error}") from error
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name, without a source or a digest of times where there is none, as older runs are."""
        values = dataclasses.asdict(self)
        for name in ("times_digest", "source"):
            if values[name] is None:
                del values[name]
        return values


def require_same_data(record: DataRecord | None, image_shape: tuple[int, ...], data: Dataset, run: Path) -> None:
    """Check that ``data`` are those of a run.

    Parameters
    ----------
    record
        The run's record; None where it has none: then only the shape of the images can be compared.
    image_shape
        (height, width), or (channels, height, width), of the run's images.
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
            found = shape_of(images)[0]
            if found != count:
                differences.append(f"it has {count:,} {what} images, here are {found:,}")
            elif _digest(images) != digest:
                differences.append(f"its {what} images have other pixels than these")
        if not differences and record.labels_digest not in (None, _digest_of_labels(data)):
            differences.append("its images have other labels than these")
        if not differences and record.times_digest not in (None, _digest_of_both(data.train_times, data.test_times)):
            differences.append("its images have other times than these")
    if differences:
        raise RunError(
            f"the data are not those of the run {run}: {'; '.join(differences)}; "
            "name the data that it was trained on, or start a new run"
        )


def _digest_of_labels(data: Dataset) -> str | None:
    """Of the training and the test labels; those of test images without any are -1."""
    tests = torch.full((data.test.shape[0],), -1) if data.test_labels is None else data.test_labels
    return _digest_of_both(data.train_labels, tests)


def _digest_of_both(train: Tensor | None, test: Tensor | None) -> str | None:
    """Of labels or times of the training and the test images."""
    return None if train is None or test is None else _digest(torch.cat([train, test]))


def _digest(images: Tensor | RowSource) -> str:
    own = getattr(images, "digest", None)
    if not isinstance(images, Tensor) and own is not None:
        return str(own())
    digest = hashlib.blake2b(str(shape_of(images)).encode(), digest_size=_DIGEST_BYTES)
    rows = some_rows(images, _ROWS_OF_A_SOURCE)
    digest.update(rows.detach().cpu().reshape(-1).contiguous().numpy().data)
    return digest.hexdigest()


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
