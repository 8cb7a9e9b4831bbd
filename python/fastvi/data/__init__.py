"""Data sets: those known by name, their splits, and the binarisation of grey values."""

from fastvi._array_files import DataError, read_idx
from fastvi.data.dataset import Dataset
from fastvi.data.named import DATASET_NAMES, load_dataset
from fastvi.data.presenting import (
    BINARIZATIONS,
    STATIC_BINARIZATION_SEED,
    TEST_BINARIZATION_SEED,
    Presenter,
    binarize,
    test_images,
)
from fastvi.data.splitting import evenly_spaced

__all__ = [
    "BINARIZATIONS",
    "DATASET_NAMES",
    "STATIC_BINARIZATION_SEED",
    "TEST_BINARIZATION_SEED",
    "DataError",
    "Dataset",
    "Presenter",
    "binarize",
    "evenly_spaced",
    "load_dataset",
    "read_idx",
    "test_images",
]
