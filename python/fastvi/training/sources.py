"""Where a run's examples come from: which of them train and validate, in which batches, and what the model is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fastvi.data import Dataset, Presenter
from fastvi.data.rows import mean_of_rows, shape_of
from fastvi.seeding import mix_seed
from fastvi.training.batches import BINARIZATION_STREAM, VALIDATION_STREAM, Batch, OrderedBatches, ShuffledBatches
from fastvi.training.own_model import shaped
from fastvi.training.settings import TrainingConfig
from fastvi.training.trainer_settings import validation_count
from fastvi.training.windows import WindowPresenter, training_windows

_SPLIT, _BINARIZATION = range(2)
"""Second counter of `mix_seed` in the stream of validation, beside `fastvi.training.validation.NOISE`."""


class Source(ABC):
    """What a run trains on."""

    @property
    @abstractmethod
    def validates(self) -> bool:
        """Whether there are examples for validation."""

    @abstractmethod
    def batches(self, step: int, rank: int, world_size: int) -> Iterable[Batch]:
        """Return this process's share of the batches from ``step`` on; each iteration goes to the end of an epoch."""

    @abstractmethod
    def validation_batches(self, rank: int, world_size: int) -> Iterable[Batch]:
        """Return this process's share of the validation examples, the same each time."""

    @abstractmethod
    def present(self, batch: Batch, validating: bool = False) -> Any:
        """Return the examples of a batch as the objective takes them: a tensor, or a pair with their labels."""

    mean: Tensor | None = None
    """Mean of the rows, shape (D,), for a model that starts from it; None where it is not known."""
    can_be_resumed: bool = True
    """Whether a run can go on in the middle, with the examples that it would have met."""

    def state(self, batch: Batch | None) -> Any:
        """Return what a checkpoint after ``batch`` keeps of the source, None being the end of an epoch; or None."""
        return None

    def restore(self, state: Any) -> None:  # noqa: B027  # nothing to restore, unless a source says so
        """Go to a state that `state` gave."""

    def to(self, device: torch.device) -> None:  # noqa: B027  # nothing to move, unless a source says so
        """Move what is kept to a device."""


class DatasetSource(Source):
    """The training rows of a data set, binarised as asked, but for those that validate.

    Parameters
    ----------
    config
        Settings of the run.
    data
        Its training rows are used.
    """

    def __init__(self, config: TrainingConfig, data: Dataset) -> None:
        self._config = config
        rows = Presenter(data.train, config.binarization, likelihood=data.likelihood)
        self._presenter = WindowPresenter(rows, training_windows(data)) if config.uses_neighbours else rows
        self._labels = data.train_labels if config.uses_labels else None
        self._training, self._validation = split_indices(config, len(self._presenter))

    @property
    def validates(self) -> bool:
        """Whether the settings ask for it."""
        return self._validation is not None

    def batches(self, step: int, rank: int, world_size: int) -> Iterable[Batch]:
        """Return the shuffled batches."""
        count = len(self._presenter) if self._training is None else self._training.shape[0]
        return ShuffledBatches(count, self._config.batch_size, self._config.seed, step, rank, world_size)

    def validation_batches(self, rank: int, world_size: int) -> Iterable[Batch]:
        """Return the batches in the order of the data."""
        count = 0 if self._validation is None else self._validation.shape[0]
        return OrderedBatches(count, self._config.batch_size, rank, world_size)

    def present(self, batch: Batch, validating: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Return the images of a batch, with their labels where the run uses them."""
        images = self._images(batch, validating)
        if self._labels is None:
            return images
        return images, self._labels.index_select(0, self._places(batch, validating))

    def _images(self, batch: Batch, validating: bool) -> Tensor:
        stream = (VALIDATION_STREAM, _BINARIZATION) if validating else (BINARIZATION_STREAM, batch.step)
        places = self._places(batch, validating)
        images = self._presenter(places, mix_seed(self._config.seed, *stream), batch.row_offset)
        presented: Tensor = shaped(self._config.model, images)
        return presented

    def _places(self, batch: Batch, validating: bool) -> Tensor:
        """Where the examples of a batch stand in the data."""
        chosen = self._validation if validating else self._training
        return batch.indices if chosen is None else chosen.index_select(0, batch.indices)

    def to(self, device: torch.device) -> None:
        """Move images, labels and indices to a device."""
        self._presenter.to(device)
        self._labels, self._training, self._validation = (
            None if tensor is None else tensor.to(device) for tensor in (self._labels, self._training, self._validation)
        )


def split_indices(config: TrainingConfig, count: int) -> tuple[Tensor | None, Tensor | None]:
    """Return the indices that train and those that validate, drawn by the seed; (None, None) where none validate."""
    chosen = validation_count(config, count)
    if chosen == 0:
        return None, None
    generator = torch.Generator().manual_seed(mix_seed(config.seed, VALIDATION_STREAM, _SPLIT))
    order = torch.randperm(count, generator=generator)
    return order[chosen:].sort().values, order[:chosen].sort().values


def training_mean(config: TrainingConfig, data: Dataset) -> Tensor:
    """Return the mean of the rows that train, shape (D,)."""
    if config.uses_neighbours:
        return mean_of_rows(data.train)  # what is split there is windows, of which none validates
    training, _ = split_indices(config, shape_of(data.train)[0])
    if training is None or not isinstance(data.train, Tensor):
        return mean_of_rows(data.train)
    return data.train[training].mean(0)
