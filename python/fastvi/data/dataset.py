"""A data set: rows to train, rows to test, and what their values are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastvi._array_files import DataError
from fastvi.models.likelihoods import LIKELIHOODS, is_of_counts
from fastvi.ops._values import describe_range, range_outside_unit_interval


@dataclass(frozen=True)
class Dataset:
    """Training and test images as float32 rows in [0, 1], or counts.

    Attributes
    ----------
    name
        Name under which `load_dataset` knows it.
    train, test
        Shapes (N, D) and (M, D), D = height * width.
    image_shape
        (height, width).
    likelihood
        The likelihood that fits: one of ``fastvi.models.LIKELIHOODS``, such as ``"bernoulli"``. One of counts, such as
        ``"poisson"``, says that the values are whole numbers of 0 or more.
    train_labels, test_labels
        Class of each image, int64 of shapes (N,) and (M,), from 0; None where the data have no labels.

    Raises
    ------
    DataError
        If the images are not float32 rows in [0, 1], or of counts, as many values in each as ``image_shape`` says, if
        there are none to train or to test, or if the labels are not one int64 of 0 or more for each image.

    Examples
    --------
    >>> grey = torch.tensor([[0.0, 128.0, 255.0, 64.0]])
    >>> Dataset("mine", grey / 255.0, grey / 255.0, (2, 2), "bernoulli").train.shape
    torch.Size([1, 4])
    >>> Dataset("mine", grey, grey, (2, 2), "bernoulli")
    Traceback (most recent call last):
    ...
    fastvi.data.DataError: mine: the training images must hold values in [0, 1], got values from 0 to 255; \
grey values from 0 to 255 are divided by 255 first
    """

    name: str
    train: Tensor
    test: Tensor
    image_shape: tuple[int, int]
    likelihood: str
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None

    @property
    def num_classes(self) -> int | None:
        """One more than the largest label; None where the training or the test images have no labels."""
        if self.train_labels is None or self.test_labels is None:
            return None
        return 1 + int(torch.maximum(self.train_labels.max(), self.test_labels.max()))

    def __post_init__(self) -> None:
        if self.likelihood not in LIKELIHOODS:
            raise DataError(
                f"{self.name}: the likelihood must be one of {', '.join(LIKELIHOODS)}, got {self.likelihood!r}"
            )
        shape: object = self.image_shape
        if not (isinstance(shape, tuple | list) and len(shape) == 2 and all(type(size) is int for size in shape)):
            raise DataError(f"{self.name}: the image shape must be (height, width), two whole numbers, got {shape!r}")
        height, width = self.image_shape
        if height < 1 or width < 1:
            raise DataError(f"{self.name}: the image shape must be positive, got {shape!r}")
        for purpose, images in (("training", self.train), ("test", self.test)):
            if not isinstance(images, Tensor):
                raise DataError(f"{self.name}: the {purpose} images must be a tensor, got {type(images).__name__}")
            if images.dim() != 2 or images.shape[1] != height * width:
                raise DataError(
                    f"{self.name}: the {purpose} images must have the shape (count, {height * width}), "
                    f"got {tuple(images.shape)}"
                )
            if images.numel() == 0:
                raise DataError(f"{self.name}: there are no {purpose} images")
            if images.dtype != torch.float32:
                raise DataError(f"{self.name}: the {purpose} images must be float32 in [0, 1], got {images.dtype}")
            if is_of_counts(self.likelihood):
                _check_counts(f"{self.name}: the {purpose} images", images)
                continue
            bounds = range_outside_unit_interval(images)
            if bounds is not None:
                raise DataError(
                    f"{self.name}: the {purpose} images must hold values in [0, 1], got {describe_range(bounds)}"
                )
        for purpose, labels, images in (
            ("training", self.train_labels, self.train),
            ("test", self.test_labels, self.test),
        ):
            if labels is not None:
                _check_labels(f"{self.name}: the {purpose} labels", labels, images.shape[0])


def _check_counts(name: str, values: Tensor) -> None:
    wrong = values[~((values >= 0.0) & (values == values.floor()) & values.isfinite())]
    if wrong.numel() > 0:
        raise DataError(f"{name} must hold counts, whole numbers of 0 or more, got {wrong[0].item():g}")


def _check_labels(labels_name: str, labels: object, count: int) -> None:
    if not isinstance(labels, Tensor):
        raise DataError(f"{labels_name} must be a tensor or None, got {type(labels).__name__}")
    if labels.dtype != torch.int64:
        raise DataError(f"{labels_name} must be int64, got {labels.dtype}")
    if labels.shape != (count,):
        raise DataError(f"{labels_name} must have the shape ({count},), one for each image, got {tuple(labels.shape)}")
    if int(labels.min()) < 0:
        raise DataError(f"{labels_name} must be 0 or more, got {int(labels.min())}")
