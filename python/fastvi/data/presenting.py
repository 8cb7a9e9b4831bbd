"""How a model meets the examples: by index, with grey values binarised as asked.

Dynamic binarisation follows Salakhutdinov & Murray 2008 and Burda, Grosse & Salakhutdinov 2016: a grey value is the
probability of a one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastvi import ops
from fastvi._array_files import DataError
from fastvi.data.dataset import Dataset, check_values
from fastvi.data.rows import RowSource
from fastvi.models.likelihoods import LIKELIHOODS, VALUES, values_of
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
        Grey values in [0, 1], shape (N, D); or a `fastvi.data.RowSource`, of which each batch is gathered, and looked
        at, when it is asked for.
    binarization
        ``"dynamic"``: a new draw each time an example is presented. ``"static"``: one draw for good.
        ``"none"``: the values themselves.
    are_counts
        The images hold counts, which are not binarised.
    likelihood
        The likelihood that the images fit, in place of ``are_counts``: of counts and of real numbers nothing is
        binarised.

    Raises
    ------
    TypeError, ValueError
        If the images are not floating-point values in [0, 1], or the binarization is unknown, or one of counts.
    """

    def __init__(
        self,
        images: Tensor | RowSource,
        binarization: str,
        are_counts: bool = False,
        likelihood: str | None = None,
    ) -> None:
        self.likelihood = likelihood or ("poisson" if are_counts else "bernoulli")
        if self.likelihood not in LIKELIHOODS:
            raise ValueError(f"Presenter: likelihood must be one of {', '.join(LIKELIHOODS)}, got {likelihood!r}")
        kind = values_of(self.likelihood)
        if binarization not in BINARIZATIONS:
            raise ValueError(f"Presenter: binarization must be one of {', '.join(BINARIZATIONS)}, got {binarization!r}")
        if isinstance(images, Tensor) and not images.is_floating_point():
            raise TypeError(f"Presenter: images must be floating-point values in [0, 1], got {images.dtype}")
        if kind != VALUES[0] and binarization != "none":
            raise ValueError(f"Presenter: {kind} are not binarised, got binarization {binarization}")
        is_grey = isinstance(images, Tensor) and not images.is_meta and kind == VALUES[0]
        if is_grey and (bounds := range_outside_unit_interval(images)) is not None:  # type: ignore[arg-type]  # a tensor
            raise ValueError(f"Presenter: images must hold values in [0, 1], got {describe_range(bounds)}")
        self.binarization = binarization
        self.dynamic = binarization == "dynamic"
        self._source: RowSource | None = None if isinstance(images, Tensor) else images
        self._device = torch.device("cpu")
        self._values = torch.empty(0)
        if isinstance(images, Tensor):
            self._device = images.device
            # A standard normal draw lies below ndtri(p) with probability p. So binarisation takes its noise from the
            # library's own generator, where a draw depends on (seed, row, column), not on who draws it.
            self._values = _presented(images, binarization)

    def __len__(self) -> int:
        """Return the number of examples, N."""
        return self._values.shape[0] if self._source is None else len(self._source)

    def to(self, device: torch.device) -> None:
        """Move the examples to a device: there the indices must be, and there the batches are made."""
        self._values = self._values.to(device)
        self._device = device

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

        Raises
        ------
        DataError
            If a source cannot be read, or gives rows of another kind or shape.
        """
        values = self._values.index_select(0, indices) if self._source is None else self._gathered(indices)
        return _below(values, seed, row_offset) if self.dynamic else values

    def _gathered(self, indices: Tensor) -> Tensor:
        """The rows of a source, as `_presented` would have them."""
        assert self._source is not None
        chosen = indices.cpu()
        rows = self._source.rows(chosen)
        name = getattr(self._source, "name", type(self._source).__name__)
        if not isinstance(rows, Tensor) or rows.dtype != torch.float32 or rows.shape[:1] != chosen.shape:
            got = f"{tuple(rows.shape)} of {rows.dtype}" if isinstance(rows, Tensor) else type(rows).__name__
            raise DataError(f"{name}: rows must give a float32 tensor of {len(chosen)} rows, got {got}")
        check_values(f"{name}: its rows", rows, self.likelihood)
        if self.binarization == "static":
            # Each row is drawn as in the whole, by its own place.
            drawn = [
                _below(torch.special.ndtri(row), STATIC_BINARIZATION_SEED, place)
                for row, place in zip(rows.split(1), chosen.tolist(), strict=True)
            ]
            rows = torch.cat(drawn)
        elif self.dynamic:
            rows = torch.special.ndtri(rows)
        return rows.to(self._device)


def _presented(images: Tensor, binarization: str) -> Tensor:
    """What is kept of images: quantiles for dynamic draws, the one draw, or the values."""
    if binarization == "dynamic":
        quantiles: Tensor = torch.special.ndtri(images)
        return quantiles
    return binarize(images, STATIC_BINARIZATION_SEED) if binarization == "static" else images


def _below(quantiles: Tensor, seed: int, row_offset: int) -> Tensor:
    """Ones where a standard normal draw lies below."""
    zeros = quantiles.new_zeros(()).expand_as(quantiles)
    return (ops.rsample_normal(zeros, zeros, seed=seed, row_offset=row_offset) < quantiles).to(quantiles.dtype)
