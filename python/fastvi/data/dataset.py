"""A data set: rows to train, rows to test, and what their values are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvi._array_files import DataError
from fastvi.autoencoders.sequences import consecutive_frames
from fastvi.data.rows import RowSource, is_source, shape_of
from fastvi.models.likelihoods import LIKELIHOODS, check_values_of


@dataclass(frozen=True)
class Dataset:
    """Training and test images as float32 rows in [0, 1], of counts, or of any real numbers.

    Attributes
    ----------
    name
        Name under which `load_dataset` knows it.
    train, test
        Shapes (N, D) and (M, D). The training rows may be a `fastvi.data.RowSource` in place of a tensor, such as
        `fastvi.data.StreamedArrays`; its values are looked at when they are read.
    image_shape
        (height, width), or (channels, height, width), the product of which is D; (1, D) of rows that are no images.
    likelihood
        The likelihood that fits: one of ``fastvi.models.LIKELIHOODS``, such as ``"bernoulli"``. One of counts, such as
        ``"poisson"``, says that the values are whole numbers of 0 or more; one of real numbers, such as
        ``"real-gaussian"``, that they are any finite numbers.
    train_labels, test_labels
        Class of each image, int64 of shapes (N,) and (M,), from 0, or -1 for an image without a label; None where the
        data have no labels.
    class_names
        What each label stands for, where the data say it.
    train_times, test_times
        Time of each image, int64 of shapes (N,) and (M,), where the images are frames of sequences: frames whose times
        differ by one are neighbours, others are not. No two frames have the same. None where the data have no order.

    Raises
    ------
    DataError
        If the images are not float32 rows of such values, as many values in each as ``image_shape`` says, if
        there are none to train or to test, if the labels are not one int64 of -1 or more for each image, or the times
        not one int64 for each, all different.

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
    train: Tensor | RowSource
    test: Tensor
    image_shape: tuple[int, ...]
    likelihood: str
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None
    class_names: tuple[str, ...] | None = None
    train_times: Tensor | None = None
    test_times: Tensor | None = None

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
        self._check_image_shape(self.image_shape)
        width = math.prod(self.image_shape)
        for purpose, images in (("training", self.train), ("test", self.test)):
            if not isinstance(images, Tensor) and not (purpose == "training" and is_source(images)):
                raise DataError(f"{self.name}: the {purpose} images must be a tensor, got {type(images).__name__}")
            shape = shape_of(images)
            if len(shape) != 2 or shape[1] != width:
                raise DataError(f"{self.name}: the {purpose} images must have the shape (count, {width}), got {shape}")
            if shape[0] == 0:
                raise DataError(f"{self.name}: there are no {purpose} images")
            if isinstance(images, Tensor):
                if images.dtype != torch.float32:
                    raise DataError(f"{self.name}: the {purpose} images must be float32 in [0, 1], got {images.dtype}")
                check_values(f"{self.name}: the {purpose} images", images, self.likelihood)
        for purpose, labels, images in (
            ("training", self.train_labels, self.train),
            ("test", self.test_labels, self.test),
        ):
            if labels is not None:
                _check_labels(f"{self.name}: the {purpose} labels", labels, shape_of(images)[0])
        _check_times(self)

    def _check_image_shape(self, shape: object) -> None:
        if not (isinstance(shape, tuple | list) and len(shape) in (2, 3) and all(type(size) is int for size in shape)):
            raise DataError(
                f"{self.name}: the image shape must be (height, width) or (channels, height, width), whole numbers, "
                f"got {shape!r}"
            )
        if min(shape) < 1:
            raise DataError(f"{self.name}: the image shape must be positive, got {shape!r}")


def check_values(name: str, values: Tensor, likelihood: str) -> None:
    """Check that values are of the kind that a likelihood is of.

    Raises
    ------
    DataError
        If they are not; it begins with ``name`` and says which likelihood to take.
    """
    try:
        check_values_of(name, values, likelihood)
    except ValueError as error:
        raise DataError(str(error)) from None


def _check_labels(labels_name: str, labels: object, count: int) -> None:
    if not isinstance(labels, Tensor):
        raise DataError(f"{labels_name} must be a tensor or None, got {type(labels).__name__}")
    if labels.dtype != torch.int64:
        raise DataError(f"{labels_name} must be int64, got {labels.dtype}")
    if labels.shape != (count,):
        raise DataError(f"{labels_name} must have the shape ({count},), one for each image, got {tuple(labels.shape)}")
    if int(labels.min()) < -1:
        raise DataError(f"{labels_name} must be 0 or more, or -1 for none, got {int(labels.min())}")


def _check_times(data: Dataset) -> None:
    if data.train_times is None and data.test_times is None:
        return
    for purpose, times, images in (("training", data.train_times, data.train), ("test", data.test_times, data.test)):
        if not isinstance(times, Tensor):
            raise DataError(
                f"{data.name}: the {purpose} times must be a tensor as those of the other images, got "
                f"{type(times).__name__}"
            )
        count = shape_of(images)[0]
        if times.dtype != torch.int64 or times.shape != (count,):
            raise DataError(
                f"{data.name}: the {purpose} times must be int64 of the shape ({count},), one for each image, got "
                f"{times.dtype} of {tuple(times.shape)}"
            )
    if not isinstance(data.train, Tensor):
        raise DataError(f"{data.name}: images with times must be a tensor, got {type(data.train).__name__}")
    assert data.train_times is not None
    assert data.test_times is not None
    try:
        consecutive_frames(torch.cat([data.train_times, data.test_times]))
    except ValueError as error:
        raise DataError(f"{data.name}: training and test {error}") from error
