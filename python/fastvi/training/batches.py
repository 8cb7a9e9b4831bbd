"""Which examples a step sees: a pure function of the run's seed and the step, so that a resumed run meets the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastvi.seeding import mix_seed

(
    SHUFFLE_STREAM,
    BINARIZATION_STREAM,
    NOISE_STREAM,
    INITIALISATION_STREAM,
    VALIDATION_STREAM,
    MODEL_STREAM,
    LABEL_STREAM,
) = range(7)
"""First counter of `mix_seed`: the purposes for which a run draws."""


class Batch(NamedTuple):
    """One process's share of one step's batch.

    Attributes
    ----------
    step
        Number of optimiser steps before this one.
    indices
        Its examples, shape (B,).
    row_offset
        Place of its first example in the whole batch.
    global_size
        Examples in the whole batch, over all processes.
    examples
        The examples themselves, where a source gives no indices.
    state
        Of such a source after this batch, in an object that hides it.
    """

    step: int
    indices: Tensor
    row_offset: int
    global_size: int
    examples: Any = None
    state: Any = None


class ShuffledBatches:
    """Batches of indices in a new order each epoch; each iteration goes on to the end of the epoch it is in.

    Whole index batches come out, so one step costs one gather instead of a collation of single examples.

    Parameters
    ----------
    num_examples, batch_size
        The last batch of an epoch holds what is left.
    seed
        Seed of the run; the order of an epoch depends on (seed, epoch).
    first_step
        Step to begin with, in an epoch or between two.
    rank, world_size
        This process takes the ``rank``-th of ``world_size`` consecutive shares of each batch.
    """

    def __init__(
        self, num_examples: int, batch_size: int, seed: int, first_step: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.seed = seed
        self.step = first_step
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-self.num_examples // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches from the present step to the end of its epoch."""
        epoch, position = divmod(self.step, len(self))
        generator = torch.Generator().manual_seed(mix_seed(self.seed, SHUFFLE_STREAM, epoch))
        order = torch.randperm(self.num_examples, generator=generator)
        for start in range(position * self.batch_size, self.num_examples, self.batch_size):
            batch = order[start : start + self.batch_size]
            first, last = share(batch.shape[0], self.rank, self.world_size)
            self.step += 1
            yield Batch(self.step - 1, batch[first:last], first, batch.shape[0])

    def state_dict(self) -> dict[str, int]:
        """Return the present step; with `load_state_dict` it tells Lightning that the batches can be resumed."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to the step of ``state``."""
        self.step = state["step"]


class OrderedBatches:
    """Batches of all indices in their order, the same each time; a batch's step is its number.

    Parameters
    ----------
    num_examples, batch_size
        The last batch holds what is left.
    rank, world_size
        See `ShuffledBatches`; ``row_offset`` counts from the first of all examples.
    """

    def __init__(self, num_examples: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches."""
        for number, start in enumerate(range(0, self.num_examples, self.batch_size)):
            size = min(self.batch_size, self.num_examples - start)
            first, last = share(size, self.rank, self.world_size)
            yield Batch(number, torch.arange(start + first, start + last), start + first, size)


def share(size: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return where one process's share of a batch begins and ends."""
    return rank * size // world_size, (rank + 1) * size // world_size
