"""Batches for a model that takes missing labels: in each, some examples with a label, class by class, and others.

An epoch is one pass over the examples without a label. Kingma, Rezende, Mohamed and Welling 2014 balance the classes of
the labelled examples.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastvi.data import Dataset, balanced_labels
from fastvi.models import UNLABELLED
from fastvi.objectives import PartlyLabelled
from fastvi.seeding import mix_seed
from fastvi.training.batches import LABEL_STREAM, SHUFFLE_STREAM, Batch, share
from fastvi.training.settings import TrainingConfig
from fastvi.training.sources import DatasetSource

_CHOICE, _CLASSES = range(2)
"""Second counter of `mix_seed` in the stream of labels."""
USUAL_LABELLED_BATCH = 100


class PartlyLabelledSource(DatasetSource):
    """The training rows of a data set with the labels that the run may see.

    Parameters
    ----------
    config
        Settings of the run; its model may have the options ``labels`` and ``labelled_batch``.
    data
        Its training labels are -1 where there is none.
    """

    def __init__(self, config: TrainingConfig, data: Dataset) -> None:
        super().__init__(config, data)
        self._labels: Tensor = seen_labels(config, data, self._training)
        places = torch.arange(len(self._presenter)) if self._training is None else self._training
        has_label = self._labels[places] >= 0
        self._labelled, self._unlabelled = places[has_label], places[~has_label]
        self._fraction = self._labelled.shape[0] / places.shape[0]
        wanted = int(getattr(config.model, "labelled_batch", USUAL_LABELLED_BATCH))
        self._labelled_batch = min(wanted, self._labelled.shape[0])
        _, class_of, sizes = self._labels[self._labelled].unique(return_inverse=True, return_counts=True)
        # Batches have as many of each class: one of a frequent class stands for more of the data.
        self._frequency = torch.ones(self._labels.shape[0])
        self._frequency[self._labelled] = (sizes * len(sizes) / self._labelled.shape[0]).float()[class_of]

    def batches(self, step: int, rank: int, world_size: int) -> PartlyLabelledBatches:
        """Return the batches; labelled examples come first in each."""
        return PartlyLabelledBatches(
            self._labelled.cpu(),
            self._labels.cpu()[self._labelled.cpu()],
            self._unlabelled.cpu(),
            self._labelled_batch,
            self._config.batch_size,
            self._config.seed,
            step,
            rank,
            world_size,
        )

    def present(self, batch: Batch, validating: bool = False) -> PartlyLabelled:  # type: ignore[override]
        """Return the images of a batch with their labels and weights; validation sees no label."""
        images = self._images(batch, validating)
        device, count = images.device, images.shape[0]
        if validating:
            labels = torch.full((count,), UNLABELLED, dtype=torch.int64, device=device)
            return PartlyLabelled(images, labels, torch.ones(count, device=device), torch.zeros(count, device=device))
        labels = self._labels.index_select(0, batch.indices)
        known = (labels >= 0).to(images.dtype)
        counted = known * self._frequency.index_select(0, batch.indices)
        of_labelled = batch.global_size / self._labelled_batch
        others = batch.global_size - self._labelled_batch
        of_others = (1.0 - self._fraction) * batch.global_size / others if others else 0.0
        weights = counted * (self._fraction * of_labelled) + (1.0 - known) * of_others
        return PartlyLabelled(images, labels, weights, counted * of_labelled)

    def _places(self, batch: Batch, validating: bool) -> Tensor:
        return super()._places(batch, True) if validating else batch.indices

    def to(self, device: torch.device) -> None:
        """Move images, labels and indices to a device."""
        super().to(device)
        self._labels = self._labels.to(device)
        self._frequency = self._frequency.to(device)


class PartlyLabelledBatches:
    """Batches of indices: labelled examples, drawn class by class, and behind them others in a new order each epoch.

    Each class has its own order of its examples, and a new one whenever all were met; where a batch has no room for as
    many of each class, the classes take turns. All of that depends on (seed, step) alone.

    Parameters
    ----------
    labelled, labels
        Indices of the examples with a label, (N_l,), and their labels.
    unlabelled
        Indices of those without; where there are none, an epoch is one pass over the labelled ones.
    labelled_batch, batch_size
        How many of each kind a batch has; the last batch of an epoch holds what is left of the unlabelled ones.
    seed, first_step, rank, world_size
        See `fastvi.training.batches.ShuffledBatches`.
    """

    def __init__(
        self,
        labelled: Tensor,
        labels: Tensor,
        unlabelled: Tensor,
        labelled_batch: int,
        batch_size: int,
        seed: int,
        first_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._classes = [labelled[labels == label] for label in labels.unique().tolist()]
        self._unlabelled = unlabelled
        self._labelled_batch, self._batch_size = labelled_batch, batch_size
        self._num_batches = (
            -(-unlabelled.shape[0] // batch_size) if unlabelled.shape[0] else -(-labelled.shape[0] // labelled_batch)
        )
        self._seed, self.step = seed, first_step
        self._rank, self._world_size = rank, world_size
        self._orders: dict[int, tuple[int, Tensor]] = {}

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._num_batches

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches from the present step to the end of its epoch."""
        epoch, position = divmod(self.step, len(self))
        generator = torch.Generator().manual_seed(mix_seed(self._seed, SHUFFLE_STREAM, epoch))
        order = self._unlabelled[torch.randperm(self._unlabelled.shape[0], generator=generator)]
        for place in range(position, len(self)):
            others = order[place * self._batch_size : (place + 1) * self._batch_size]
            batch = torch.cat([self._labelled_of(self.step), others])
            first, last = share(batch.shape[0], self._rank, self._world_size)
            self.step += 1
            yield Batch(self.step - 1, batch[first:last], first, batch.shape[0])

    def _labelled_of(self, step: int) -> Tensor:
        """The labelled examples of a step, class by class."""
        count = len(self._classes)
        each, turns = divmod(self._labelled_batch, count)
        chosen = []
        for number in range(count):
            # How many of this class all steps before this one took, and those up to it.
            begin, end = (each * steps + (turns * steps - number + count - 1) // count for steps in (step, step + 1))
            chosen += [self._member(number, place) for place in range(begin, end)]
        return torch.stack(chosen)

    def _member(self, number: int, place: int) -> Tensor:
        """The example of a class that comes at a place of its endless order."""
        members = self._classes[number]
        cycle, position = divmod(place, members.shape[0])
        if self._orders.get(number, (-1,))[0] != cycle:
            generator = torch.Generator().manual_seed(mix_seed(self._seed, LABEL_STREAM, _CLASSES, number, cycle))
            self._orders[number] = cycle, torch.randperm(members.shape[0], generator=generator)
        return members[self._orders[number][1][position]]

    def state_dict(self) -> dict[str, int]:
        """Return the present step; with `load_state_dict` it tells Lightning that the batches can be resumed."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to the step of ``state``."""
        self.step = state["step"]


def seen_labels(config: TrainingConfig, data: Dataset, training: Tensor | None) -> Tensor:
    """Return the labels that a run may see, (N,), -1 elsewhere: none of the examples that validate.

    Raises
    ------
    ValueError
        If there are fewer labels than ``labels`` asks for, or none.
    """
    assert data.train_labels is not None
    labels = data.train_labels
    if training is not None:
        labels = torch.full_like(labels, UNLABELLED).index_copy(0, training, labels[training])
    count = getattr(config.model, "labels", None)
    if count is None:
        if not bool((labels >= 0).any()):
            raise ValueError("no training example has a label")
        return labels
    num_classes = labels[labels >= 0].unique().numel()
    if num_classes and count < num_classes:
        raise ValueError(f"got {count}, expected at least {num_classes}, one label for each class")
    chosen = balanced_labels(labels, count, mix_seed(config.seed, LABEL_STREAM, _CHOICE))
    return torch.full_like(labels, UNLABELLED).index_copy(0, chosen, labels[chosen])


def source_of(config: TrainingConfig, data: Dataset) -> DatasetSource:
    """Return the source of a data set for a run: one with missing labels where its model takes them."""
    return (PartlyLabelledSource if config.takes_missing_labels else DatasetSource)(config, data)
