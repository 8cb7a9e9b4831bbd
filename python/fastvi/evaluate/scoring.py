"""How likely each example is under a model: an estimate of log p(x) one by one, for anomalies and for ranking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastvi._examples import count_examples
from fastvi._options import check_count
from fastvi._pareto import FEWEST_SAMPLES, largest_reliable_k
from fastvi.evaluate._batches import IMAGES_AT_A_TIME, batches
from fastvi.evaluate.streaming import stream_bounds
from fastvi.objectives.model import has_bound
from fastvi.seeding import mix_seed


@dataclass(frozen=True)
class Scores:
    """Estimates of log p(x) of M examples from the same number of samples.

    Attributes
    ----------
    num_samples
        K.
    log_prob
        (M,), L_K in nats: a lower bound on log p(x) in the mean, and an estimate of it for large K.
    standard_error
        (M,), of ``log_prob`` over other seeds, nats: sqrt((K / ESS - 1) / (K - 1)), from the spread of the weights
        (the delta method). NaN where nothing tells it: K is 1, or the weights' tail is so heavy (``pareto_k``) that
        their variance may be infinite.
    elbo
        (M,), the evidence lower bound from the same samples, nats.
    effective_sample_size
        (M,), ESS, between 1 and K.
    pareto_k
        (M,), k-hat of the weights' tail, see `fastvi.evaluate.StreamedBounds`; inf where K is below 25.
    """

    num_samples: int
    log_prob: Tensor
    standard_error: Tensor
    elbo: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor

    def arrays(self) -> dict[str, Tensor]:
        """Return the figures of the examples by name."""
        return {
            "log_prob": self.log_prob,
            "standard_error": self.standard_error,
            "elbo": self.elbo,
            "effective_sample_size": self.effective_sample_size,
            "pareto_k": self.pareto_k,
        }


def score(
    model: Any,
    x: Any,
    *,
    num_samples: int = 1000,
    chunk: int | None = None,
    seed: int = 0,
    on_rows: Callable[[int], None] | None = None,
) -> Scores:
    """Estimate log p(x) of each example by importance sampling (Burda, Grosse & Salakhutdinov 2016, section 5).

    The examples of the lowest log p(x) are those that the model finds strangest. The reverse need not hold: an empty
    image may be likelier than any of the training images.

    Parameters
    ----------
    model
        A trained model with a bound on log p(x).
    x
        (M, D), or with labels in a pair where the model takes it.
    num_samples
        K, for each example.
    chunk, on_rows
        See `fastvi.evaluate.stream_bounds`.
    seed
        Determines the samples, with the example's place in ``x`` and with ``chunk``, whose default depends on how many
        examples there are: beside others, or with another chunk, an example has other samples, and its score differs by
        about its standard error.

    Raises
    ------
    TypeError
        If the model has no bound on log p(x).
    ValueError
        If there is no example, or a number is out of range.

    Examples
    --------
    >>> from fastvi.models import VAE
    >>> scores = score(VAE(16, 2, (8,)), torch.ones(5, 16), num_samples=50)
    >>> bool((scores.elbo <= scores.log_prob).all()), scores.standard_error.shape
    (True, torch.Size([5]))
    """
    count = count_examples("score", "x", x)
    if count == 0:
        raise ValueError("score: x holds no example")
    if not has_bound(model):
        raise TypeError(f"score: {type(model).__name__} has no bound on log p(x)")
    num_samples = check_count("score", "num_samples", num_samples)
    parts = [
        stream_bounds(
            model,
            batch,
            num_samples,
            chunk=chunk,
            seed=mix_seed(seed, 0),
            row_offset=number * IMAGES_AT_A_TIME,
            on_rows=on_rows,
        )
        for number, batch in enumerate(batches(x, count))
    ]
    effective = torch.cat([part.effective_sample_size for part in parts])
    shapes = torch.cat([part.pareto_k for part in parts])
    return Scores(
        num_samples,
        torch.cat([part.importance_weighted for part in parts]),
        _standard_error(effective, shapes, num_samples),
        torch.cat([part.elbo for part in parts]),
        effective,
        shapes,
    )


def _standard_error(effective: Tensor, shapes: Tensor, num_samples: int) -> Tensor:
    if num_samples == 1:
        return torch.full_like(effective, torch.nan)
    error = ((num_samples / effective - 1.0).clamp_min(0.0) / (num_samples - 1)).sqrt()
    if num_samples < FEWEST_SAMPLES:
        return error
    return torch.where(shapes <= largest_reliable_k(num_samples), error, torch.nan)
