"""Batches that come one after the other, from a DataLoader or anything that can be iterated again and again."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.utils.data as torch_data
from torch import Tensor

from fastvi.data import DataError, Presenter
from fastvi.data.dataset import check_values
from fastvi.models import UNLABELLED
from fastvi.seeding import mix_seed
from fastvi.training.batches import BINARIZATION_STREAM, SHUFFLE_STREAM, Batch
from fastvi.training.errors import RunError
from fastvi.training.own_model import OwnModel
from fastvi.training.settings import TrainingConfig
from fastvi.training.sources import Source


class LoaderSource(Source):
    """The batches of a loader, each as it comes.

    What the loader draws by PyTorch's generator, such as its order, depends on (seed, epoch): so a run that goes on
    skips the batches that it has met. A loader with a ``state_dict`` goes to its place by that.

    Parameters
    ----------
    config
        Settings of the run.
    loader
        Gives batches: tensors (B, ...), or pairs with labels (B,).
    likelihood
        Of the values.
    divisor
        What the values are divided by for a model of fastvi.

    Raises
    ------
    ValueError
        If a setting asks for what batches in passing cannot give.
    """

    def __init__(self, config: TrainingConfig, loader: Iterable[Any], likelihood: str, divisor: float = 1.0) -> None:
        if config.validation_split:
            raise ValueError("validation_split needs data that can be indexed: give the loader's dataset in its place")
        if config.binarization == "static":
            raise ValueError("binarization static needs data that can be indexed: take dynamic or none")
        if config.schedule != "constant" and length_of(loader) is None:
            raise ValueError(f"schedule {config.schedule} needs data with a length, which is not known here")
        self._config = config
        self._loader = loader
        self._likelihood = likelihood
        self._divisor = divisor

    @property
    def validates(self) -> bool:
        """Never: what has passed is trained on."""
        return False

    @property
    def can_be_resumed(self) -> bool:  # type: ignore[override]  # depends on the loader
        """Whether the loader has a ``state_dict``, or gives the same batches for the same seed."""
        loader = self._loader
        if has_state(loader):
            return True
        return isinstance(loader, torch_data.DataLoader) and length_of(loader) is not None

    def batches(self, step: int, rank: int, world_size: int) -> Iterable[Batch]:
        """Return the loader's batches.

        Raises
        ------
        RunError
            In several processes: each of them would train on the same examples.
        """
        if world_size > 1:
            raise RunError("a loader trains in one process: give its dataset to train in several")
        kind = UncountedBatches if length_of(self._loader) is None else LoaderBatches
        return kind(self._loader, self._config.seed, step)

    def validation_batches(self, rank: int, world_size: int) -> Iterable[Batch]:
        """Return none."""
        return ()

    def present(self, batch: Batch, validating: bool = False) -> Any:
        """Return the examples of a batch; those of fastvi's models as rows, binarised as asked.

        Raises
        ------
        RunError
            If they are not what the model takes.
        """
        config = self._config
        x, *others = batch.examples if isinstance(batch.examples, tuple | list) else (batch.examples,)
        if not isinstance(config.model, OwnModel):
            x = x.flatten(1).float()
            x = x if self._divisor == 1.0 else x / self._divisor
            if x.shape[1] != math.prod(config.image_shape):
                raise RunError(f"data: expected rows of {math.prod(config.image_shape)} values, got {x.shape[1]}")
            try:
                check_values("data: its batches", x, self._likelihood)
            except DataError as error:
                raise RunError(str(error)) from error
            if config.binarization == "dynamic":
                seed = mix_seed(config.seed, BINARIZATION_STREAM, batch.step)
                x = Presenter(x, "dynamic", likelihood=self._likelihood)(batch.indices, seed)
        if not config.uses_labels:
            return x
        if not others:
            raise RunError("data: expected pairs (examples, labels), got examples alone")
        return x, whole_labels(others[0])

    def state(self, batch: Batch | None) -> Any:
        """Return the loader's state after ``batch``; None where it has none."""
        if not has_state(self._loader):
            return None
        return self._loader.state_dict() if batch is None else batch.state.value  # type: ignore[attr-defined]

    def restore(self, state: Any) -> None:
        """Give the loader its state."""
        self._loader.load_state_dict(state)  # type: ignore[attr-defined]  # it gave one


class UncountedBatches:
    """The batches of a loader without a length; an iteration is an epoch.

    Parameters
    ----------
    loader, seed
        See `LoaderSource`.
    step
        Step to begin with.
    """

    def __init__(self, loader: Any, seed: int, step: int) -> None:
        self._loader = loader
        self._seed = seed
        self._step = step
        self._epoch = 0

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches from the present step to the end of its epoch."""
        skipped, length = 0, length_of(self._loader)
        if self._epoch == 0 and length is not None:
            self._epoch, skipped = divmod(self._step, length)
            skipped = 0 if has_state(self._loader) else skipped
        noise = _Noise(mix_seed(self._seed, SHUFFLE_STREAM, self._epoch))
        own = getattr(self._loader, "generator", None)
        if isinstance(own, torch.Generator) and not has_state(self._loader):
            own.manual_seed(mix_seed(self._seed, SHUFFLE_STREAM, self._epoch))
        self._epoch += 1
        with noise.used():
            iterator = iter(self._loader)
        while True:
            with noise.used():
                examples = next(iterator, None)
            if examples is None:
                return
            if skipped:
                skipped -= 1
                continue
            state = _Hidden(self._loader.state_dict()) if has_state(self._loader) else None
            size = _size(examples)
            self._step += 1
            yield Batch(self._step - 1, torch.arange(size), 0, size, _as_tuple(examples), state)

    def state_dict(self) -> dict[str, int]:
        """Return the present step; that there is this method tells Lightning that the batches can be resumed."""
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Do nothing: the step is known, and the loader has its own state."""


class LoaderBatches(UncountedBatches):
    """The batches of a loader with a length."""

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self._loader)


class _Noise:
    """A state of PyTorch's generator of the CPU that a loader alone uses."""

    def __init__(self, seed: int) -> None:
        self._state = torch.Generator().manual_seed(seed).get_state()

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Draw from it within the block."""
        others = torch.get_rng_state()
        torch.set_rng_state(self._state)
        try:
            yield
        finally:
            self._state = torch.get_rng_state()
            torch.set_rng_state(others)


class _Hidden:
    """A value into which nothing looks that moves a batch to a device."""

    def __init__(self, value: Any) -> None:
        self.value = value


def whole_labels(labels: Tensor) -> Tensor:
    """Return the labels of a batch as int64, -1 for NaN, which stands for one that is missing."""
    if labels.is_floating_point():
        labels = labels.masked_fill(labels.isnan(), UNLABELLED)
    return labels.long()


def length_of(loader: Any) -> int | None:
    """Return the number of batches in an epoch; None where it is not known, as of a dataset that is a stream."""
    if isinstance(getattr(loader, "dataset", None), torch_data.IterableDataset) or not hasattr(loader, "__len__"):
        return None
    return len(loader)


def has_state(loader: Any) -> bool:
    """Return whether a loader knows its place, and takes one."""
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def _as_tuple(examples: Any) -> Any:
    return tuple(examples) if isinstance(examples, list) else examples


def _size(examples: Any) -> int:
    first = examples[0] if isinstance(examples, tuple | list) and examples else examples
    if not isinstance(first, Tensor) or first.dim() == 0:
        what = f"a tensor of the shape {tuple(first.shape)}" if isinstance(first, Tensor) else type(first).__name__
        raise RunError(f"data: expected batches that are tensors (B, ...), or pairs of them and labels, got {what}")
    return int(first.shape[0])
