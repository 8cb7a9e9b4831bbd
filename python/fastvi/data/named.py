"""The data sets that are known by name, as in-memory tensors with their splits.

`digits` ships with scikit-learn; the others are read from a folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastvi._array_files import MAX_ARRAY_BYTES, DataError, read_idx, read_npz
from fastvi._extras import require_extra
from fastvi.data.dataset import Dataset
from fastvi.data.moving_spot import SIZE, moving_spot
from fastvi.data.splitting import evenly_spaced

_DIGITS_TEST_COUNT = 297
_DIGITS_POINTS = 16  # of a pixel
_FREY_TEST_COUNT = 200


def load_dataset(name: str, data_dir: Path | str | None = None, download: bool = False) -> Dataset:
    """Load a data set by name.

    ====================  =============================================  ====================================
    name                  files, below ``data_dir``                      split
    ====================  =============================================  ====================================
    ``digits``            none: part of scikit-learn, 8 x 8              297 test images, evenly spaced in the
                                                                         file's order; 1,500 others to train
    ``digits-counts``     none: the same, of each pixel how many of    as those of ``digits``
                          its 16 points have ink
    ``moving-spot``       none: films of a soft spot that crosses an     100 films of 20 frames to train, 40
                          image in a straight line, 16 x 16              others to test
    ``mnist``             idx files in mnist/, MNIST/raw/ or .           60,000 / 10,000 as published
    ``fashion-mnist``     idx files in fashion-mnist/,                   60,000 / 10,000 as published
                          FashionMNIST/raw/ or .
    ``mnist-binarized``   binarized_mnist.npz in                         50,000 / 10,000 as published; the
                          mnist-binarized-static/ or .                   validation images are left alone
    ``frey``              frey_faces.npz in frey-faces/ or .             200 test frames, evenly spaced in the
                                                                         video; 1,765 others to train
    ====================  =============================================  ====================================

    ``digits`` and ``digits-counts`` have labels, and so have ``mnist`` and ``fashion-mnist`` where the idx files of the
    labels lie beside those of the images. ``moving-spot`` and ``frey`` have times.

    Parameters
    ----------
    name
        One of `DATASET_NAMES`.
    data_dir
        Folder of the files; None means the environment variable ``FASTVI_DATA``.
    download
        Let torchvision download ``mnist`` or ``fashion-mnist`` into ``data_dir`` first.

    Raises
    ------
    DataError
        For an unknown name, no folder, a missing or damaged file, or a download that cannot be made.

    Examples
    --------
    >>> load_dataset("digits").train.shape
    torch.Size([1500, 64])
    """
    if name not in DATASET_NAMES:
        raise DataError(
            f"unknown data set {name!r}: choose one of {', '.join(DATASET_NAMES)}; no file or folder is called so"
        )
    if name == "digits":
        return _load_digits()
    if name == "digits-counts":
        return _load_digits_counts()
    if name == "moving-spot":
        return _load_moving_spot()
    if data_dir is None and os.environ.get("FASTVI_DATA"):
        data_dir = os.environ["FASTVI_DATA"]
    if data_dir is None:
        raise DataError(f"the data set {name} is read from a folder: name it with `data_dir` or FASTVI_DATA")
    data_dir = Path(data_dir)
    if download:
        _download(name, data_dir)
    try:
        if not data_dir.is_dir():
            obstacle = "is not a folder" if data_dir.exists() else "does not exist"
            raise DataError(f"the data folder {data_dir} {obstacle}")
    except OSError as error:  # one that may not be looked at, a name that is too long
        raise DataError(f"the data folder {data_dir} cannot be looked at ({error.strerror})") from error
    return _LOADERS[name](data_dir)


def _load_digits() -> Dataset:
    try:
        digits = require_extra("sklearn.datasets", "train", "the data set digits").load_digits()
    except ModuleNotFoundError as error:
        raise DataError(str(error)) from error
    train, test = _split_evenly(digits.data.astype(np.float32) / np.float32(_DIGITS_POINTS), _DIGITS_TEST_COUNT)
    train_labels, test_labels = _split_evenly(digits.target.astype(np.int64), _DIGITS_TEST_COUNT)
    return Dataset("digits", train, test, (8, 8), "bernoulli", train_labels, test_labels)


def _load_digits_counts() -> Dataset:
    digits = _load_digits()
    assert isinstance(digits.train, Tensor)
    train, test = (_DIGITS_POINTS * images for images in (digits.train, digits.test))
    return replace(digits, name="digits-counts", train=train, test=test, likelihood="poisson")


def _load_moving_spot() -> Dataset:
    films = [torch.from_numpy(some) for some in moving_spot()]
    count, frames = sum(map(len, films)), films[0].shape[1]
    # Between the last frame of a film and the first of the next one time is missing.
    times = torch.arange(count)[:, None] * (frames + 1) + torch.arange(frames)
    train, test = (some.flatten(0, 1) for some in films)
    train_times, test_times = (some.flatten() for some in times.split([len(some) for some in films]))
    order = {"train_times": train_times, "test_times": test_times}
    return Dataset("moving-spot", train, test, (SIZE, SIZE), "bernoulli", **order)


def _load_idx_dataset(name: str, subfolders: tuple[str, ...], data_dir: Path) -> Dataset:
    splits, labels = [], []
    for part in ("train", "t10k"):
        path = _find(data_dir, subfolders, _idx_names(f"{part}-images", 3), name)
        images = read_idx(path)
        if images.ndim != 3:
            raise DataError(f"{path}: expected images of shape (count, height, width), got the shape {images.shape}")
        if images.size == 0:
            raise DataError(f"{path}: expected at least one image of one pixel, got the shape {images.shape}")
        splits.append(images)
        labels.append(_read_labels(path.parent, f"{part}-labels", images.shape[0]))
    train, test = splits
    if train.shape[1:] != test.shape[1:]:
        raise DataError(f"{name}: training images are {train.shape[1:]}, test images {test.shape[1:]}")
    height, width = train.shape[1:]
    return Dataset(name, _unit_rows(train), _unit_rows(test), (height, width), "bernoulli", labels[0], labels[1])


def _idx_names(stem: str, rank: int) -> tuple[str, ...]:
    """The names that an idx file may have: as published, and with the dot that some copies have in it."""
    stems = (f"{stem}-idx{rank}-ubyte", f"{stem}.idx{rank}-ubyte")
    return tuple(f"{name}{suffix}" for name in stems for suffix in (".gz", ""))


def _read_labels(folder: Path, stem: str, count: int) -> Tensor | None:
    """The labels that lie beside the images, None where there are none: labels of another copy might not fit."""
    for path in (folder / name for name in _idx_names(stem, 1)):
        if path.is_file():
            labels = read_idx(path)
            if labels.shape != (count,):
                raise DataError(f"{path}: expected {count} labels, one for each image, got the shape {labels.shape}")
            return torch.from_numpy(labels.astype(np.int64))
    return None


def _load_mnist(data_dir: Path) -> Dataset:
    return _load_idx_dataset("mnist", ("mnist", "MNIST/raw"), data_dir)


def _load_fashion_mnist(data_dir: Path) -> Dataset:
    return _load_idx_dataset("fashion-mnist", ("fashion-mnist", "FashionMNIST/raw"), data_dir)


def _load_mnist_binarized(data_dir: Path) -> Dataset:
    path = _find(data_dir, ("mnist-binarized-static",), ("binarized_mnist.npz",), "mnist-binarized")
    rows = []
    for key in ("train_packed", "test_packed"):
        packed = read_npz(path, key)
        if packed.ndim != 2 or packed.shape[1] != 98 or not 0 < 8 * packed.size <= MAX_ARRAY_BYTES:
            raise DataError(f"{path}: {key} must have the shape (count, 98) with images to count, got {packed.shape}")
        rows.append(torch.from_numpy(np.unpackbits(packed, axis=1, count=784).astype(np.float32)))
    return Dataset("mnist-binarized", rows[0], rows[1], (28, 28), "bernoulli")


def _load_frey(data_dir: Path) -> Dataset:
    path = _find(data_dir, ("frey-faces",), ("frey_faces.npz",), "frey")
    frames = read_npz(path, "x")
    if frames.ndim != 3 or frames.shape[0] <= _FREY_TEST_COUNT or frames.size == 0:
        raise DataError(f"{path}: x must have the shape (1965, 28, 20), got {frames.shape}")
    rows = frames.reshape(frames.shape[0], -1).astype(np.float32) / np.float32(255.0)
    train, test = _split_evenly(rows, _FREY_TEST_COUNT)
    train_times, test_times = _split_evenly(np.arange(len(rows)), _FREY_TEST_COUNT)
    shape = (frames.shape[1], frames.shape[2])
    return Dataset("frey", train, test, shape, "gaussian", train_times=train_times, test_times=test_times)


_LOADERS: dict[str, Callable[[Path], Dataset]] = {
    "mnist": _load_mnist,
    "fashion-mnist": _load_fashion_mnist,
    "mnist-binarized": _load_mnist_binarized,
    "frey": _load_frey,
}
BUNDLED_DATASETS = ("digits", "digits-counts", "moving-spot")
"""Data sets that are read from no folder."""
DATASET_NAMES = (*BUNDLED_DATASETS, *_LOADERS)


def _unit_rows(images: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images.reshape(images.shape[0], -1).astype(np.float32) / np.float32(255.0))


def _split_evenly(rows: npt.NDArray[np.float32] | npt.NDArray[np.int64], test_count: int) -> tuple[Tensor, Tensor]:
    is_test = torch.zeros(rows.shape[0], dtype=torch.bool)
    is_test[evenly_spaced(test_count, rows.shape[0])] = True
    tensor = torch.from_numpy(rows)
    return tensor[~is_test], tensor[is_test]


def _find(data_dir: Path, subfolders: tuple[str, ...], names: tuple[str, ...], dataset: str) -> Path:
    folders = [*(data_dir / subfolder for subfolder in subfolders), data_dir]
    others = []
    for candidate in (folder / name for folder in folders for name in names):
        try:
            if candidate.is_file():
                return candidate
            if candidate.exists():
                others.append(candidate)
        except OSError as error:  # a folder that may not be searched, a name that is too long
            raise DataError(f"{dataset}: {candidate} cannot be looked at ({error.strerror})") from error
    tried = ", ".join(str(folder) for folder in folders)
    found = f"; {', '.join(map(str, others))} is not a file" if others else ""
    raise DataError(f"{dataset}: expected the file {' or '.join(names)} in one of the folders {tried}{found}")


def _download(name: str, data_dir: Path) -> None:
    classes = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
    if name not in classes:
        raise DataError(f"`download` knows {' and '.join(classes)}, not {name}")
    try:
        import torchvision  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise DataError(
            f"`download` needs torchvision, which cannot be imported: pip install torchvision ({error})"
        ) from error
    try:
        getattr(torchvision.datasets, classes[name])(str(data_dir), download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"torchvision could not download {name} into {data_dir}: {error}") from error
