"""What the values in a file mean: the shape of one example, the divisor of its values, and their standardisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastvi._array_files import DataError

_CHANNELS = (1, 3, 4)
_LARGEST_BYTE = 255.0


@dataclass(frozen=True)
class RowFormat:
    """How arrays of examples become float32 rows.

    Attributes
    ----------
    image_shape
        (height, width), (channels, height, width), or (1, D) of rows that are no images.
    channels_last
        The arrays have the shape (B, height, width, channels); the rows have one channel after the other.
    divisor
        The values are divided by it: 255 for bytes that are grey values.
    shift, scale
        Then the shift is subtracted, and what is left divided by the scale, each of shape (D,); None: they are not.
    """

    image_shape: tuple[int, ...]
    channels_last: bool = False
    divisor: float = 1.0
    shift: Tensor | None = None
    scale: Tensor | None = None

    def __call__(self, values: npt.NDArray[Any]) -> Tensor:
        """Return the rows of an array of shape (B, ...), float32 of shape (B, D)."""
        if self.channels_last:
            values = np.moveaxis(values, -1, 1)
        with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, which is told with its place
            rows = np.ascontiguousarray(values).reshape(len(values), math.prod(values.shape[1:])).astype(np.float32)
        if self.divisor != 1.0:
            rows /= np.float32(self.divisor)
        tensor = torch.from_numpy(rows)
        if self.shift is None or self.scale is None:
            return tensor
        return tensor.sub_(self.shift).div_(self.scale)

    def standardized(self, rows: Tensor) -> RowFormat:
        """Return the format that takes ``rows`` (N, D) of this one to mean 0 and standard deviation 1 in each column.

        A column that never varies keeps its scale.
        """
        deviation, mean = torch.std_mean(rows.double(), 0, correction=0)
        return replace(self, shift=mean.float(), scale=torch.where(deviation > 0, deviation, 1.0).float())


def format_of(name: str, shape: Sequence[int], image_size: tuple[int, int] | None = None) -> RowFormat:
    """Return the format of an array (N, D), (N, H, W), (N, H, W, C) or (N, C, H, W), C being 1, 3 or 4.

    Parameters
    ----------
    name
        Of the data, for messages.
    shape
        Of the array. Where both its second and its last size may be the channels, the last are, unless the second is 1.
    image_size
        (H, W), for rows (N, D) that are images: D is H * W, or that times C with one channel after the other.

    Raises
    ------
    DataError
        If the array has another shape, or nothing in it.

    Examples
    --------
    >>> format_of("mine", (100, 32, 32, 3)).image_shape
    (3, 32, 32)
    """
    if len(shape) < 2 or len(shape) > 4:
        raise DataError(
            f"{name}: expected an array of rows (N, D) or of images (N, H, W), (N, H, W, C) or (N, C, H, W), "
            f"got the shape {tuple(shape)}"
        )
    if 0 in shape:
        raise DataError(f"{name}: expected at least one row of at least one value, got the shape {tuple(shape)}")
    if len(shape) == 3:
        return RowFormat(_fitting(name, tuple(shape[1:]), image_size))
    if len(shape) == 2:
        return RowFormat(_image_of_row(name, shape[1], image_size))
    if shape[3] in _CHANNELS and shape[1] != 1:
        planes, channels_last = (shape[3], shape[1], shape[2]), True
    elif shape[1] in _CHANNELS:
        planes, channels_last = (shape[1], shape[2], shape[3]), False
    else:
        raise DataError(
            f"{name}: expected images with 1, 3 or 4 channels, (N, H, W, C) or (N, C, H, W), "
            f"got the shape {tuple(shape)}"
        )
    image_shape = planes[1:] if planes[0] == 1 else planes
    return RowFormat(_fitting(name, image_shape, image_size), channels_last)


def divisor_of(dtype: np.dtype[Any], largest: float, given: float | None, are_counts: bool) -> float:
    """Return what values are divided by: 255 for bytes, but for counts and for bytes that are 0 or 1."""
    if given is not None:
        return given
    return _LARGEST_BYTE if dtype == np.uint8 and largest > 1 and not are_counts else 1.0


def _fitting(name: str, image_shape: tuple[int, ...], image_size: tuple[int, int] | None) -> tuple[int, ...]:
    if image_size is not None and image_shape[-2:] != tuple(image_size):
        raise DataError(
            f"{name}: the images of an array keep their size, {image_shape[-2]}x{image_shape[-1]}, and `image_size` "
            f"asks for {image_size[0]}x{image_size[1]}: leave it out"
        )
    return image_shape


def _image_of_row(name: str, width: int, image_size: tuple[int, int] | None) -> tuple[int, ...]:
    if image_size is None:
        return 1, width
    pixels = image_size[0] * image_size[1]
    channels = width // pixels
    if channels * pixels != width or channels not in _CHANNELS:
        raise DataError(
            f"{name}: rows of {width} values are no images of `image_size` {image_size[0]}x{image_size[1]}, "
            f"which have {pixels}, or 3 or 4 times as many with channels"
        )
    return (*image_size,) if channels == 1 else (channels, *image_size)
