"""Evaluation of a trained model: L_K with K in the thousands by streaming, active units, effective sample size.

L_K and active units as in Burda, Grosse & Salakhutdinov 2016, sections 3 and 5; L_5000 is their estimate of log p(x).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastvi._examples import count_examples, select_examples
from fastvi._options import check_count
from fastvi.objectives import DrawingModel, LatentVariableModel, Objective, draw, log_weights
from fastvi.objectives.latent import Posterior, posterior_of
from fastvi.objectives.model import has_bound, lacking, require_encoder
from fastvi.ops import LogMeanExp
from fastvi.seeding import mix_seed

ROWS_AT_A_TIME = 4096
"""Decoder rows of one chunk: enough for a matrix product to run at full speed, few enough to stay in the caches."""
ACTIVE_UNIT_THRESHOLD = 0.01
LARGEST_BIAS = 0.05
"""An image's L_K is an estimate of log p(x) where it lies some so many nats below it, or fewer.

L_K lies below log p(x) by Var(w) / (2 K E[w]^2) to first order (Domke & Sheldon 2018, "Importance weighting and
variational inference", theorem 3), and the effective sample size ESS estimates K / (1 + Var(w) / E[w]^2) (Kong 1992).
So the bias is 1 / (2 ESS) - 1 / (2 K): with many samples, 0.05 nats where ten of them count. With fewer than ten the
next terms of the series count too, and ESS, made of the same few weights, says too much: the bias may be anything.
"""
UNRELIABLE_SHARE = 0.1
"""The mean over images is called unreliable where more than this share of them has a larger bias."""
_IMAGES_AT_A_TIME = 128
_SAMPLES_OF_A_MEAN = 50
"""Samples that estimate a posterior mean, twice: of unit variance they tell that of 300 means to 0.001 or so."""


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

    None stands for what one image, or a model that draws its own samples, cannot tell.

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
    effective_sample_size, median_effective_sample_size
        Of K samples: mean and median over images.
    unreliable_images
        Images whose L_K is no estimate of log p(x): the bias that their effective sample size tells is more than
        `LARGEST_BIAS` nats, as with fewer than 10 of 5,000. All of them where K is 1: one sample tells nothing.
    reliable
        Whether ``importance_weighted`` can stand for log p(x): at most a share of `UNRELIABLE_SHARE` of the images is
        unreliable. Else it is a lower bound that may be nats too low.
    active_units, latent_dim
        Latent dimensions that vary with x, out of how many; one number for each layer of a model that draws its own
        samples, unless they are discrete: then None. The first is None, too, for a model whose posterior has no mean in
        closed form.
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
    standard_error: float | None
    effective_sample_size: float
    median_effective_sample_size: float
    unreliable_images: int
    reliable: bool
    active_units: int | tuple[int, ...] | None
    latent_dim: int | tuple[int, ...] | None
    seconds: float

    def as_dict(self) -> dict[str, int | float | bool | tuple[int, ...] | None]:
        """Return the figures by name, as JSON can hold them: None also for what is infinite or NaN."""
        return _json_figures(self)


@dataclass(frozen=True)
class LossEvaluation:
    """Test figures of a model that was trained by a loss and has no bound on log p(x), mean over the images.

    Attributes
    ----------
    images, test_images
        Number of test images used, and of those that there are.
    loss
        The objective's value.
    seconds
        Time taken.
    """

    images: int
    test_images: int
    loss: float
    seconds: float

    def as_dict(self) -> dict[str, int | float | bool | tuple[int, ...] | None]:
        """Return the figures by name, as JSON can hold them: None also for what is infinite or NaN."""
        return _json_figures(self)


def _json_figures(figures: Evaluation | LossEvaluation) -> dict[str, int | float | bool | tuple[int, ...] | None]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in dataclasses.asdict(figures).items()
    }


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

    Memory is that of chunk x B decoder rows, whatever ``num_samples`` is.

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
    weights = LogMeanExp(dim=0)
    total: Tensor | None = None
    for number, start in enumerate(range(0, num_samples, chunk)):
        size = min(chunk, num_samples - start)
        part = log_weights(model, x, size, seed=mix_seed(seed, number), row_offset=row_offset)
        weights.update(part)
        chunk_total = part.sum(0, dtype=torch.float64)
        total = chunk_total if total is None else total + chunk_total
        if on_rows is not None:
            on_rows(part.numel())
    assert total is not None
    return StreamedBounds((total / num_samples).to(part.dtype), weights.value, weights.ess)


@torch.inference_mode()
def active_units(model: LatentVariableModel | DrawingModel, x: Any, threshold: float = ACTIVE_UNIT_THRESHOLD) -> Tensor:
    """Return which latent dimensions are active, bool (Z,): Cov_x(E[z|x]) > ``threshold``.

    Parameters
    ----------
    model
        The model.
    x
        Examples, as in :func:`stream_bounds`, at least two.
    threshold
        Least variance over the examples of a posterior mean.

    Raises
    ------
    ValueError, TypeError
        If there are fewer than two examples, ``x`` is not of tensors of one length, or the model has no ``encode``, or
        one whose distributions have no mean in closed form.

    References
    ----------
    Burda, Grosse & Salakhutdinov 2016, section 5.2.
    """
    count = count_examples("active_units", "x", x)
    require_encoder(model, "active_units")
    if count < 2:
        raise ValueError(f"active_units: a variance needs at least two examples, x holds {count}")
    try:
        means = torch.cat([posterior_of(model, batch).mean for batch in _batches(x, count)])
    except NotImplementedError as error:
        raise TypeError(
            f"active_units: needs the posterior's mean, and what {type(model).__name__}.encode returns has none in "
            "closed form"
        ) from error
    return means.var(0) > threshold


@torch.inference_mode()
def active_units_of_layers(
    model: LatentVariableModel | DrawingModel, x: Any, threshold: float = ACTIVE_UNIT_THRESHOLD, *, seed: int = 0
) -> tuple[Tensor, ...] | None:
    """Return which latent dimensions of each stochastic layer are active, bool ``(Z_l,)``; None for discrete ones.

    Two independent sets of samples estimate each E[z|x]. The covariance over the examples of the one estimate with the
    other is an unbiased estimate of the variance of E[z|x], because only E[z|x] is common to both.

    Parameters
    ----------
    model
        A model that draws samples ``(K, B, Z_l)`` of each layer. Discrete ones carry a ``log_posterior``.
    x, threshold
        See :func:`active_units`.
    seed
        Of the samples.

    Raises
    ------
    ValueError
        If there are fewer than two examples.

    Examples
    --------
    >>> from fastvi.models import HierarchicalVAE
    >>> model = HierarchicalVAE(64, latent_dims=(8, 4), hidden_dims=(8,), upper_hidden_dims=(8,))
    >>> [len(layer) for layer in active_units_of_layers(model, torch.eye(64))]
    [8, 4]
    """
    count = count_examples("active_units_of_layers", "x", x)
    if count < 2:
        raise ValueError(f"active_units_of_layers: a variance needs at least two examples, x holds {count}")
    means: list[list[Tensor]] = []
    for number, batch in enumerate(_batches(x, count)):
        drawn = draw(model, batch, 2 * _SAMPLES_OF_A_MEAN, seed=seed, row_offset=number * _IMAGES_AT_A_TIME)
        if drawn.log_posterior is not None:
            return None
        layers = (drawn.samples,) if isinstance(drawn.samples, Tensor) else drawn.samples
        means.append([layer.unflatten(0, (2, _SAMPLES_OF_A_MEAN)).mean(1) for layer in layers])
    found = []
    for first, second in (torch.cat(parts, 1) for parts in zip(*means, strict=True)):
        covariance = ((first - first.mean(0)) * (second - second.mean(0))).sum(0) / (count - 1)
        found.append(covariance > threshold)
    return tuple(found)


def evaluate(
    model: LatentVariableModel | DrawingModel,
    images: Any,
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
        As the model sees them, binarised where it was trained on binarised ones: what it takes, a tensor of shape
        (M, ...), or a tuple, list or dictionary of such tensors. One image is enough for the bounds alone.
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

    Raises
    ------
    ValueError, TypeError
        If there is no image, ``images`` holds tensors of different lengths or anything but tensors, a number is not a
        positive integer, or the model has no bound on log p(x): see :func:`evaluate_loss`.

    Examples
    --------
    >>> from fastvi.models import VAE
    >>> result = evaluate(VAE(64, 2, (8,)), torch.ones(3, 64), num_samples=100)
    >>> result.images, result.elbo <= result.importance_weighted
    (3, True)
    """
    start = time.monotonic()
    count = count_examples("evaluate", "images", images)
    if count == 0:
        raise ValueError("evaluate: images holds no image")
    if not has_bound(model):
        raise TypeError(
            f"evaluate: {type(model).__name__} has no bound on log p(x): it has neither draw nor encode and "
            "log_likelihood; evaluate_loss takes it"
        )
    num_samples = check_count("evaluate", "num_samples", num_samples)
    training_num_samples = check_count("evaluate", "training_num_samples", training_num_samples)
    parts: list[StreamedBounds] = []
    trained: list[StreamedBounds] = []
    for number, batch in enumerate(_batches(images, count)):
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
    importance_weighted = torch.cat([part.importance_weighted for part in parts]).double()
    effective = torch.cat([part.effective_sample_size for part in parts]).double()
    bias = 0.5 / effective - 0.5 / num_samples
    # Counted from the other end, so that NaN, which a bound without any finite weight has, is unreliable.
    unreliable = count - int((bias <= LARGEST_BIAS).sum()) if num_samples > 1 else count
    latent_dim: int | tuple[int, ...] | None = None
    active: int | tuple[int, ...] | None = None
    if not lacking(model):
        with torch.inference_mode():
            q = posterior_of(model, select_examples(images, slice(0, 1)))
        latent_dim = q.shape[-1]
        active = int(active_units(model, images).sum()) if count > 1 and _has_mean(q) else None
    elif count > 1 and (layers := active_units_of_layers(model, images)) is not None:
        latent_dim, active = tuple(map(len, layers)), tuple(int(units.sum()) for units in layers)
    return Evaluation(
        images=count,
        test_images=count if test_images is None else check_count("evaluate", "test_images", test_images),
        num_samples=num_samples,
        elbo=float(torch.cat([part.elbo for part in parts]).double().mean()),
        training_num_samples=training_num_samples,
        training_bound=float(torch.cat([part.importance_weighted for part in trained]).double().mean()),
        importance_weighted=float(importance_weighted.mean()),
        standard_error=float(importance_weighted.std() / count**0.5) if count > 1 else None,
        effective_sample_size=float(effective.mean()),
        median_effective_sample_size=float(effective.median()),
        unreliable_images=unreliable,
        reliable=unreliable <= UNRELIABLE_SHARE * count,
        active_units=active,
        latent_dim=latent_dim,
        seconds=time.monotonic() - start,
    )


def _has_mean(q: Posterior) -> bool:
    try:
        return q.mean is not None
    except NotImplementedError:
        return False


def evaluate_loss(
    objective: Objective, model: Any, images: Any, *, test_images: int | None = None, seed: int = 0
) -> LossEvaluation:
    """Return the mean of an objective over test images: all there is to tell of a model without a bound on log p(x).

    Parameters
    ----------
    objective
        What was trained.
    model, images, test_images, seed
        See :func:`evaluate`.

    Raises
    ------
    ValueError, TypeError
        If there is no image, or ``images`` holds tensors of different lengths or anything but tensors.
    """
    start = time.monotonic()
    count = count_examples("evaluate_loss", "images", images)
    if count == 0:
        raise ValueError("evaluate_loss: images holds no image")
    total = 0.0
    for number, batch in enumerate(_batches(images, count)):
        values = objective(model, batch, seed=mix_seed(seed, 0), row_offset=number * _IMAGES_AT_A_TIME)
        total += float(values.detach().double().sum())
    return LossEvaluation(
        images=count,
        test_images=count if test_images is None else check_count("evaluate_loss", "test_images", test_images),
        loss=total / count,
        seconds=time.monotonic() - start,
    )


def evaluation_rows(images: int, num_samples: int, training_num_samples: int) -> int:
    """Return the number of decoder rows that `evaluate` computes."""
    return images * (num_samples + training_num_samples)


def _batches(images: Any, count: int) -> Iterator[Any]:
    for start in range(0, count, _IMAGES_AT_A_TIME):
        yield select_examples(images, slice(start, start + _IMAGES_AT_A_TIME))
