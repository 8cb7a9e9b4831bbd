"""Evaluation of a trained model: L_K with K in the thousands by streaming, active units, effective sample size.

L_K and active units as in Burda, Grosse & Salakhutdinov 2016, sections 3 and 5; L_5000 is their estimate of log p(x).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvi.objectives import LatentVariableModel, log_weights
from fastvi.ops import LogMeanExp
from fastvi.seeding import mix_seed

ROWS_AT_A_TIME = 4096
"""Decoder rows of one chunk: enough for a matrix product to run at full speed, few enough to stay in the caches."""
ACTIVE_UNIT_THRESHOLD = 0.01
_IMAGES_AT_A_TIME = 128


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
    """

    elbo: Tensor
    importance_weighted: Tensor
    effective_sample_size: Tensor


@dataclass(frozen=True)
class Evaluation:
    """Test figures of a model, means over the images; written as a run's evaluation.json.

    Attributes
    ----------
    images
        Number of test images used.
    test_images
        Number of test images there are.
    num_samples
        K of ``importance_weighted``.
    elbo
        Evidence lower bound, nats.
    training_num_samples, training_bound
        The K that training used, and L_K for it, nats.
    importance_weighted, standard_error
        L_K in nats, and its standard error over images.
    effective_sample_size
        Of K samples.
    active_units, latent_dim
        Latent dimensions that vary with x, out of how many.
    seconds
        Time taken.
    """

    images: int
    test_images: int
    num_samples: int
    elbo: float
    training_num_samples: int
    training_bound: float
    importance_weighted: float
    standard_error: float
    effective_sample_size: float
    active_units: int
    latent_dim: int
    seconds: float

    def as_dict(self) -> dict[str, int | float]:
        """Return the figures by name."""
        return dataclasses.asdict(self)


@torch.inference_mode()
def stream_bounds(
    model: LatentVariableModel,
    x: Tensor,
    num_samples: int,
    *,
    chunk: int | None = None,
    seed: int = 0,
    row_offset: int = 0,
    on_rows: Callable[[int], None] | None = None,
) -> StreamedBounds:
    """Return bounds on log p(x) from ``num_samples`` samples, holding ``chunk`` of them at a time.

    Memory is that of chunk x B decoder rows, whatever ``num_samples`` is.

    Parameters
    ----------
    model
        The model.
    x
        Examples, shape (B, D).
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
    ValueError
        If ``num_samples`` or ``chunk`` is not positive.

    Examples
    --------
    >>> from fastvi.models import VAE
    >>> bounds = stream_bounds(VAE(64, 2, (8,)), torch.ones(3, 64), num_samples=1000, chunk=100)
    >>> bool((bounds.importance_weighted >= bounds.elbo).all())
    True
    """
    if chunk is None:
        chunk = max(1, ROWS_AT_A_TIME // max(1, x.shape[0]))
    for name, value in (("num_samples", num_samples), ("chunk", chunk)):
        if value < 1:
            raise ValueError(f"stream_bounds: {name} must be positive, got {value}")
    weights = LogMeanExp(dim=0)
    total = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
    for number, start in enumerate(range(0, num_samples, chunk)):
        size = min(chunk, num_samples - start)
        log_w = log_weights(model, x, size, seed=mix_seed(seed, number), row_offset=row_offset)
        weights.update(log_w)
        total += log_w.sum(0, dtype=torch.float64)
        if on_rows is not None:
            on_rows(log_w.numel())
    return StreamedBounds((total / num_samples).to(x.dtype), weights.value, weights.ess)


@torch.inference_mode()
def active_units(model: LatentVariableModel, x: Tensor, threshold: float = ACTIVE_UNIT_THRESHOLD) -> Tensor:
    """Return which latent dimensions are active, bool (Z,): Cov_x(E[z|x]) > ``threshold``.

    Parameters
    ----------
    model
        The model.
    x
        Examples, shape (B, D), B >= 2.
    threshold
        Least variance over the examples of a posterior mean.

    References
    ----------
    Burda, Grosse & Salakhutdinov 2016, section 5.2.
    """
    means = torch.cat([model.encode(batch)[0] for batch in _batches(x)])
    return means.var(0) > threshold


def evaluate(
    model: LatentVariableModel,
    images: Tensor,
    *,
    num_samples: int = 5000,
    training_num_samples: int = 1,
    chunk: int | None = None,
    test_images: int | None = None,
    seed: int = 0,
    on_rows: Callable[[int], None] | None = None,
) -> Evaluation:
    """Evaluate a model on test images.

    Parameters
    ----------
    model
        The model.
    images
        Shape (M, D), M >= 2, as the model sees them: binarised where it was trained on binarised ones.
    num_samples
        K of the bound that stands for log p(x).
    training_num_samples
        K of a second bound, the one that was trained.
    chunk
        Samples at a time; None takes about `ROWS_AT_A_TIME` decoder rows.
    test_images
        How many test images there are, where ``images`` are only some of them.
    seed
        Seed of the samples.
    on_rows
        Called after each chunk with its number of decoder rows; `evaluation_rows` tells how many there will be.
    """
    start = time.monotonic()
    parts: list[StreamedBounds] = []
    trained: list[StreamedBounds] = []
    for number, batch in enumerate(_batches(images)):
        streams = ((num_samples, parts, 0), (training_num_samples, trained, 1))
        for samples, results, stream in streams:
            results.append(
                stream_bounds(
                    model,
                    batch,
                    samples,
                    chunk=chunk,
                    seed=mix_seed(seed, stream),
                    row_offset=number * _IMAGES_AT_A_TIME,
                    on_rows=on_rows,
                )
            )
    active = active_units(model, images)
    importance_weighted = torch.cat([part.importance_weighted for part in parts]).double()
    return Evaluation(
        images=images.shape[0],
        test_images=test_images or images.shape[0],
        num_samples=num_samples,
        elbo=float(torch.cat([part.elbo for part in parts]).double().mean()),
        training_num_samples=training_num_samples,
        training_bound=float(torch.cat([part.importance_weighted for part in trained]).double().mean()),
        importance_weighted=float(importance_weighted.mean()),
        standard_error=float(importance_weighted.std() / importance_weighted.shape[0] ** 0.5),
        effective_sample_size=float(torch.cat([part.effective_sample_size for part in parts]).double().mean()),
        active_units=int(active.sum()),
        latent_dim=active.shape[0],
        seconds=time.monotonic() - start,
    )


def evaluation_rows(images: int, num_samples: int, training_num_samples: int) -> int:
    """Return the number of decoder rows that `evaluate` computes."""
    return images * (num_samples + training_num_samples)


def _batches(images: Tensor) -> list[Tensor]:
    return [images[start : start + _IMAGES_AT_A_TIME] for start in range(0, images.shape[0], _IMAGES_AT_A_TIME)]
