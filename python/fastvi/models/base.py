"""What a model is to the command line and to a run: options that build it for the data's shape."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from fastvi._options import check_options, options_of


class DataShape(NamedTuple):
    """What a model has to know of the data.

    Attributes
    ----------
    image_shape
        (height, width), or (channels, height, width); (1, D) of rows that are no images.
    num_classes
        Number of classes of the labels; None where no labels are used.
    """

    image_shape: tuple[int, ...]
    num_classes: int | None = None

    @property
    def data_dim(self) -> int:
        """D, the number of values of one example."""
        return math.prod(self.image_shape)

    @property
    def planes(self) -> tuple[int, int, int]:
        """(channels, height, width), with one channel where the shape has none."""
        return (1, *self.image_shape)[-3:]  # type: ignore[return-value]  # of two or three sizes


class ModelOptions(ABC):
    """Options of a model: a frozen dataclass that derives from this class, its fields checked when it is made.

    Attributes
    ----------
    uses_labels
        Whether the model takes for ``x`` the pair (images, labels), of shapes (B, D) and (B,).
    takes_missing_labels
        Whether the model takes -1 for a label that is not known.
    uses_neighbours
        Whether the model takes for ``x`` windows of three frames in a row, (B, 3, D), of data that have an order.
    default_objective
        Name of the objective that the command line takes where none is given.

    Raises
    ------
    TypeError, ValueError
        If a field is of a wrong type or out of its range.
    """

    uses_labels: ClassVar[bool] = False
    takes_missing_labels: ClassVar[bool] = False
    uses_neighbours: ClassVar[bool] = False
    default_objective: ClassVar[str] = "iwae"

    def __post_init__(self) -> None:
        check_options(self)

    @abstractmethod
    def build(self, shape: DataShape, data_mean: Tensor | None = None) -> nn.Module:
        """Return the untrained model; its initial weights come from PyTorch's generator.

        Objectives say what they ask of it. For the pictures of a run it may have ``reconstruct(x)``, which gives images
        (B, D); with a bound on log p(x), ``sample(count, seed)``, which gives images (count, D) of its prior's z, or
        ``latent_dim`` and ``decode(z)``, images (N, D) of the standard normal's z. A model of classes has
        ``num_classes``, ``latent_dim``, ``decode(z, labels)`` and ``encode((images, labels))``: then also one class can
        be drawn, see `fastvi.evaluate.styles` and `fastvi.evaluate.analogies`.

        Parameters
        ----------
        shape
            Of the data.
        data_mean
            Mean of the training images, shape (D,), for a model that starts from it.
        """
        ...

    def found_from(self, run: Path) -> ModelOptions:
        """Return the options as the run in this folder reads them: one that needs another file may look for it here."""
        return self

    def sizes(self) -> dict[str, int]:
        """Return the largest number in each of the options that are integers, by name: what memory depends on."""
        found = {}
        for entry in options_of(type(self)):
            value = getattr(self, entry.name)
            if entry.kind in (int, tuple) and value is not None:
                found[entry.name] = max(value) if entry.kind is tuple else value
        return found
