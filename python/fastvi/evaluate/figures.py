"""Test figures of a model: bounds, active units, and how far they can be trusted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from fastvi._examples import count_examples, select_examples
from fastvi._options import check_count
from fastvi._pareto import FEWEST_SAMPLES, largest_reliable_k
from fastvi.evaluate._batches import IMAGES_AT_A_TIME, batches, json_figures
from fastvi.evaluate.streaming import StreamedBounds, stream_bounds
from fastvi.evaluate.units import active_units, active_units_of_layers
from fastvi.objectives import DrawingModel, LatentVariableModel, Objective
from fastvi.objectives.latent import Posterior, posterior_of
from fastvi.objectives.model import has_bound, lacking
from fastvi.seeding import mix_seed

LARGEST_BIAS = 0.05
"""An image's L_K is an estimate of log p(x) where it lies some so many nats below it, or fewer.

L_K lies below log p(x) by Var(w) / (2 K E[w]^2) to first order (Domke & Sheldon 2018, "Importance weighting and
variational inference", theorem 3), and the effective sample size ESS estimates K / (1 + Var(w) / E[w]^2) (Kong 1992).
So the bias is 1 / (2 ESS) - 1 / (2 K): with many samples, 0.05 nats where ten of them count. With fewer than ten the
next terms of the series count too, and ESS, made of the same few weights, says too much: the bias may be anything.
"""
UNRELIABLE_SHARE = 0.1
"""The mean over images is called unreliable where more than this share of them has a larger bias."""


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
    pareto_k
        k-hat of the weights' tail, median over images; None where K is below 25.
    heavy_tails
        Images whose k-hat is above 0.7 (less for K below 2,200), so that their weights may have no variance, and their
        L_K and effective sample size say little.
    active_units, latent_dim
        Latent dimensions that vary with x, out of how many; one number for each layer of a model that draws its own
        samples, unless they are discrete: then None. The first is None, too, for a model whose posterior has no mean in
        closed form.
    seconds
        Time taken.
    figures
        What the model tells beside it, by name: the means of its ``figures(x, seed=..., row_offset=...)``, tensors (B,)
        with NaN where an example tells nothing, where it has that method: for models with a classifier, ``error`` in
        per cent.
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
    pareto_k: float | None
    heavy_tails: int | None
    active_units: int | tuple[int, ...] | None
    latent_dim: int | tuple[int, ...] | None
    seconds: float
    figures: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name, as JSON can hold them: None also for what is infinite or NaN."""
        return _without_empty_figures(json_figures(self))


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
    figures
        What the model tells beside it, by name: the means of its ``figures(x, seed=..., row_offset=...)``, tensors
        (B,), where it has that method.
    """

    images: int
    test_images: int
    loss: float
    seconds: float
    figures: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name, as JSON can hold them: None also for what is infinite or NaN."""
        return _without_empty_figures(json_figures(self))


def _without_empty_figures(found: dict[str, Any]) -> dict[str, Any]:
    return found if found["figures"] else {name: value for name, value in found.items() if name != "figures"}


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
        Seed of the samples, which depend on ``chunk`` and an image's place, too; see `fastvi.evaluate.stream_bounds`.
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
    # Bounds are on log p(x), also of a model that can be told the class.
    hide = getattr(model, "without_labels", None)
    labelled, images = images, images if hide is None else hide(images)
    parts: list[StreamedBounds] = []
    trained: list[StreamedBounds] = []
    for number, batch in enumerate(batches(images, count)):
        streams = ((num_samples, parts, 0), (training_num_samples, trained, 1))
        for samples, results, stream in streams:
            results.append(
                stream_bounds(
                    model,
                    batch,
                    samples,
                    chunk=chunk,
                    seed=mix_seed(seed, stream),
                    row_offset=number * IMAGES_AT_A_TIME,
                    on_rows=on_rows,
                )
            )
    importance_weighted = torch.cat([part.importance_weighted for part in parts]).double()
    effective = torch.cat([part.effective_sample_size for part in parts]).double()
    shapes = torch.cat([part.pareto_k for part in parts]).double()
    has_tail = num_samples >= FEWEST_SAMPLES
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
        pareto_k=float(shapes.median()) if has_tail else None,
        heavy_tails=count - int((shapes <= largest_reliable_k(num_samples)).sum()) if has_tail else None,
        active_units=active,
        latent_dim=latent_dim,
        seconds=time.monotonic() - start,
        figures=_own_figures(model, labelled, count, seed),
    )


@torch.inference_mode()
def _own_figures(model: Any, images: Any, count: int, seed: int) -> dict[str, float]:
    """The means of what the model tells of each example, over those that tell something."""
    if not callable(getattr(model, "figures", None)):
        return {}
    found: dict[str, list[torch.Tensor]] = {}
    for number, batch in enumerate(batches(images, count)):
        own = model.figures(batch, seed=mix_seed(seed, 0), row_offset=number * IMAGES_AT_A_TIME)
        for name, values in own.items():
            found.setdefault(name, []).append(values.detach().double())
    means = {name: float(torch.cat(values).nanmean()) for name, values in found.items()}
    return {name: value for name, value in means.items() if not math.isnan(value)}


def _has_mean(q: Posterior) -> bool:
    try:
        return q.mean is not None
    except NotImplementedError:
        return False


def evaluate_loss(
    objective: Objective, model: Any, images: Any, *, test_images: int | None = None, seed: int = 0
) -> LossEvaluation:
    """Return the mean of an objective over test images, with the model's own figures: for one without a bound.

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
    for number, batch in enumerate(batches(images, count)):
        place = {"seed": mix_seed(seed, 0), "row_offset": number * IMAGES_AT_A_TIME}
        total += float(objective(model, batch, **place).detach().double().sum())
    return LossEvaluation(
        images=count,
        test_images=count if test_images is None else check_count("evaluate_loss", "test_images", test_images),
        loss=total / count,
        seconds=time.monotonic() - start,
        figures=_own_figures(model, images, count, seed),
    )


def evaluation_rows(images: int, num_samples: int, training_num_samples: int) -> int:
    """Return the number of decoder rows that `evaluate` computes."""
    return images * (num_samples + training_num_samples)
