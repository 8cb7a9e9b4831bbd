"""How a model meets the examples: by index, with grey values binarised as asked.

Dynamic binarisation follows Salakhutdinov & Murray 2008 and Burda, Grosse & Salakhutdinov 2016: a grey value is the
probability of a one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastvi import ops
from fastvi.data.dataset import Dataset
from fastvi.ops._values import describe_range, range_outside_unit_interval

BINARIZATIONS = ("dynamic", "static", "none")
TEST_BINARIZATION_SEED = 20140114
"""Test images are always binarised with this seed, so that every run is judged on the same pixels."""
STATIC_BINARIZATION_SEED = 20080705
"""Seed of the training images' one and only draw under ``static`` binarisation."""


def binarize(images: Tensor, seed: int) -> Tensor:
    """Draw ones with the probabilities ``images``, shape (B, D); row b, column d depends on (seed, b, d) alone.

    Raises: see :class:`Presenter`.
    """
    return Presenter(images, "dynamic")(torch.arange(images.shape[0]), seed)


def test_images(dataset: Dataset, binarization: str) -> Tensor:
    """Return the test images as a model sees them, shape (M, D): binarised with a fixed seed unless ``"none"``."""
    return dataset.test if binarization == "none" else binarize(dataset.test, TEST_BINARIZATION_SEED)


test_images.__test__ = False  # type: ignore[attr-defined]  # its name looks like a test to pytest


class Presenter:
    """Gives training examples by index, binarised as asked.

    Parameters
    ----------
    images
        Grey values in [0, 1], shape (N, D).
    binarization
        ``"dynamic"``: a new draw each time an example is presented. ``"static"``: one draw for good.
        ``"none"``: the values themselves.
    are_counts
        The images hold counts, which are not binarised.

    Raises
    ------
    TypeError, ValueError
        If the images are not floating-point values in [0, 1], or the binarization is unknown, or one of counts.
    """

    def __init__(self, images: Tensor, binarization: str, are_counts: bool = False) -> None:
        if binarization not in BINARIZATIONS:
            raise ValueError(f"Presenter: binarization must be one of {', '.join(BINARIZATIONS)}, got {binarization!r}")
        if not images.is_floating_point():
            raise TypeError(f"Presenter: images must be floating-point values in [0, 1], got {images.dtype}")
        if are_counts and binarization != "none":
            raise ValueError(f"Presenter: counts are not binarised, got binarization {binarization}")
        if not images.is_meta and not are_counts and (bounds := range_outside_unit_interval(images)) is not None:
            raise ValueError(f"Presenter: images must hold values in [0, 1], got {describe_range(bounds)}")
        self.dynamic = binarization == "dynamic"
        self._values: Tensor
        if self.dynamic:
            # A standard normal draw lies below ndtri(p) with probability p. So binarisation takes its noise from the
            # library's own generator, where a draw depends on (seed, row, column), not on who draws it.
            self._values = torch.special.ndtri(images)
        else:
            self._values = binarize(images, STATIC_BINARIZATION_SEED) if binarization == "static" else images

    def __len__(self) -> int:
        """Return the number of examples, N."""
        return self._values.shape[0]

    def to(self, device: torch.device) -> None:
        """Move the examples to a device: there the indices must be, and there the batches are made."""
        self._values = self._values.to(device)

    def __call__(self, indices: Tensor, seed: int, row_offset: int = 0) -> Tensor:
        """Return the examples ``indices`` (B,) as a (B, D) tensor.

        Parameters
        ----------
        indices
            Which examples.
        seed
            Seed of a dynamic draw; unused otherwise.
        row_offset
            Place of the first row in the whole batch: a shard draws what it would have drawn in the whole.
        """
        values = self._values.index_select(0, indices)
        if not self.dynamic:
            return values
        zeros = values.new_zeros(()).expand_as(values)
        return (ops.rsample_normal(zeros, zeros, seed=seed, row_offset=row_offset) < values).to(values.dtype)
