"""L_K with K in the thousands, in the memory of a few samples (Burda, Grosse & Salakhutdinov 2016, section 5)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastvi._examples import count_examples
from fastvi._options import check_count
from fastvi._pareto import FEWEST_SAMPLES, pareto_k_hats, tail_size
from fastvi.objectives import DrawingModel, LatentVariableModel
from fastvi.objectives.bounds import weigher
from fastvi.ops import LogMeanExp
from fastvi.seeding import mix_seed

ROWS_AT_A_TIME = 4096
"""Decoder rows of one chunk: enough for a matrix product to run at full speed, few enough to stay in the caches."""


@dataclass(frozen=True)
class StreamedBounds:
    """Bounds on log p(x) of each example, from the same K samples.

    Attributes
    ----------
    elbo
        (B,), the mean of the K log-weights: the evidence lower bound, in nats.
    importance_weighted
        (B,), L_K, in nats.
    effective_sample_size
        (B,), between 1 and K.
    pareto_k
        (B,), k-hat of the weights' tail: above 0.7 no number of samples that could be drawn makes L_K an estimate of
        log p(x) (Vehtari et al. 2024); -inf where all of the tail are equal, inf where K is below 25, too few to tell.
    """

    elbo: Tensor
    importance_weighted: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor


@torch.inference_mode()
def stream_bounds(
    model: LatentVariableModel | DrawingModel,
    x: Any,
    num_samples: int,
    *,
    chunk: int | None = None,
    seed: int = 0,
    row_offset: int = 0,
    on_rows: Callable[[int], None] | None = None,
) -> StreamedBounds:
    """Return bounds on log p(x) from ``num_samples`` samples, holding ``chunk`` of them at a time.

    Memory is that of chunk x B decoder rows, whatever ``num_samples`` is. The encoder is run once.

    Parameters
    ----------
    model
        The model.
    x
        Examples: what the model takes, a tensor of shape (B, ...), or a tuple, list or dictionary of such tensors.
    num_samples
        K >= 1.
    chunk
        Samples at a time; None takes about `ROWS_AT_A_TIME` decoder rows.
    seed, row_offset
        The draws of chunk c and example b depend on (seed, c, b + row_offset).
    on_rows
        Called after each chunk with its number of decoder rows.

    Raises
    ------
    ValueError, TypeError
        If ``num_samples`` or ``chunk`` is not a positive integer, ``x`` holds tensors of different lengths, or
        anything but tensors, or the model has no bound on log p(x).

    Examples
    --------
    >>> from fastvi.models import VAE
    >>> bounds = stream_bounds(VAE(64, 2, (8,)), torch.ones(3, 64), num_samples=1000, chunk=100)
    >>> bool((bounds.importance_weighted >= bounds.elbo).all())
    True
    """
    count = count_examples("stream_bounds", "x", x)
    num_samples = check_count("stream_bounds", "num_samples", num_samples)
    chunk = max(1, ROWS_AT_A_TIME // max(1, count)) if chunk is None else check_count("stream_bounds", "chunk", chunk)
    log_weights = weigher(model, x)
    weights = LogMeanExp(dim=0)
    largest = _Largest(tail_size(num_samples) + 1)
    total: Tensor | None = None
    for number, start in enumerate(range(0, num_samples, chunk)):
        size = min(chunk, num_samples - start)
        part = log_weights(size, mix_seed(seed, number), row_offset)
        weights.update(part)
        if num_samples >= FEWEST_SAMPLES:
            largest.update(part)
        chunk_total = part.sum(0, dtype=torch.float64)
        total = chunk_total if total is None else total + chunk_total
        if on_rows is not None:
            on_rows(part.numel())
    assert total is not None
    shape = pareto_k_hats(largest.values()) if num_samples >= FEWEST_SAMPLES else torch.full_like(total, math.inf)
    return StreamedBounds((total / num_samples).to(part.dtype), weights.value, weights.ess, shape.to(part.dtype))


class _Largest:
    """The largest of the log-weights that have come, for each example: all that k-hat takes."""

    def __init__(self, count: int) -> None:
        self._count, self._rows = count, 0
        self._parts: list[Tensor] = []

    def update(self, part: Tensor) -> None:
        """Add log-weights (K, B)."""
        self._parts.append(part)
        self._rows += len(part)
        if self._rows > 3 * self._count:  # not at each of many small chunks
            self._parts = [self.values()]
            self._rows = self._count

    def values(self) -> Tensor:
        """Return the largest ones, falling along the first axis."""
        return torch.cat(self._parts).topk(self._count, 0).values
