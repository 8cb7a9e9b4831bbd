"""Data sets: those known by name and those of a user's own, their splits, and the binarisation of grey values."""

from fastvi._array_files import DataError, read_idx
from fastvi.data.assembling import from_arrays
from fastvi.data.dataset import Dataset
from fastvi.data.image_folder import ImageFolder
from fastvi.data.labels import balanced_labels
from fastvi.data.named import BUNDLED_DATASETS, DATASET_NAMES, load_dataset
from fastvi.data.presenting import (
    BINARIZATIONS,
    STATIC_BINARIZATION_SEED,
    TEST_BINARIZATION_SEED,
    Presenter,
    binarize,
    test_images,
)
from fastvi.data.reading import DataSource, from_path
from fastvi.data.rows import RowSource
from fastvi.data.splitting import evenly_spaced
from fastvi.data.streaming import StreamedArrays

__all__ = [
    "BINARIZATIONS",
    "BUNDLED_DATASETS",
    "DATASET_NAMES",
    "STATIC_BINARIZATION_SEED",
    "TEST_BINARIZATION_SEED",
    "DataError",
    "DataSource",
    "Dataset",
    "ImageFolder",
    "Presenter",
    "RowSource",
    "StreamedArrays",
    "balanced_labels",
    "binarize",
    "evenly_spaced",
    "from_arrays",
    "from_path",
    "load_dataset",
    "read_idx",
    "test_images",
]
