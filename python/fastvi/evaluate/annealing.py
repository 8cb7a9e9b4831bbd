"""log p(x) of a decoder by annealed importance sampling (Wu, Burda, Salakhutdinov and Grosse 2017), beside L_K.

The encoder is no more than a start: L_K, which samples from it, may be nats too low where it misses a part of the
posterior.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastvi._examples import count_examples, select_examples
from fastvi._options import check_count
from fastvi.evaluate._batches import IMAGES_AT_A_TIME, batches, json_figures
from fastvi.evaluate.latents import Latents, latents_of, simulate
from fastvi.evaluate.streaming import ROWS_AT_A_TIME, stream_bounds
from fastvi.mcmc import AnnealedWeights, Annealing, tune_annealing
from fastvi.mcmc.ais import pilot_transitions
from fastvi.objectives.model import has_bound
from fastvi.seeding import mix_seed

_SIMULATED = 1
"""The stream of simulated images: ``mix_seed(seed, _SIMULATED)``."""


@dataclass(frozen=True)
class AnnealedEvaluation:
    """Figures of annealed importance sampling, means over the images; written as a run's ais-....json.

    None stands for what was not asked for, or one image or chain cannot tell.

    Attributes
    ----------
    images, test_images
        Number of images used, and of those that there are.
    num_temperatures, num_chains, num_leapfrogs, schedule, seed
        As asked for.
    start
        ``"prior"`` or ``"encoder"``.
    log_evidence
        log mean w of the chains, nats: on average a lower bound on log p(x), and an estimate of it where the effective
        sample size is not near 1.
    standard_error
        Of it, over images.
    annealing_error
        The part of that error that is the weights': it falls with more temperatures and chains, the rest with images.
    mean_log_weight
        Mean of log w, nats: the lower bound of a single chain.
    effective_sample_size, median_effective_sample_size
        Of the chains' weights, mean and median over images.
    acceptance, least_acceptance
        Mean over all transitions, and least mean over images of one temperature.
    num_samples, importance_weighted
        K, and L_K of the same images by importance sampling from the encoder, nats.
    simulated_images, simulated_lower, simulated_upper
        Images drawn from the model, and bounds on the mean of their log p(x) by annealing from both ends, nats.
    seconds
        Time taken.
    """

    images: int
    test_images: int
    num_temperatures: int
    num_chains: int
    num_leapfrogs: int
    start: str
    schedule: str
    seed: int
    log_evidence: float
    standard_error: float | None
    annealing_error: float | None
    mean_log_weight: float
    effective_sample_size: float
    median_effective_sample_size: float
    acceptance: float | None
    least_acceptance: float | None
    num_samples: int | None
    importance_weighted: float | None
    simulated_images: int
    simulated_lower: float | None
    simulated_upper: float | None
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name, as JSON can hold them: None also for what is infinite or NaN."""
        return json_figures(self)


def annealed_weights(
    model: Any,
    x: Any,
    *,
    num_temperatures: int = 1000,
    num_chains: int = 16,
    num_steps: int = 3,
    start: str = "auto",
    schedule: str = "adaptive",
    seed: int = 0,
    row_offset: int = 0,
    on_step: Callable[[], None] | None = None,
) -> AnnealedWeights:
    """Return the weights of annealed importance sampling of p(x) for each of B images, (B, C).

    Their mean over chains is an unbiased estimate of p(x), whatever the number of temperatures.

    Parameters
    ----------
    model
        ``log_likelihood``, differentiable by z, and a prior in any form, see
        :class:`fastvi.objectives.LatentVariableModel`; its ``encode`` tells the number of latent variables, or else its
        ``latent_dim``. A :class:`fastvi.models.HierarchicalVAE`, and the model within a
        :class:`fastvi.models.HamiltonianPosterior`, are taken too.
    x
        Images: what the model takes, a tensor of shape (B, ...), or a tuple, list or dictionary of such tensors.
    num_temperatures, num_chains, num_steps
        T, C for each image, and leapfrog steps of a transition.
    start
        ``"prior"``, or ``"encoder"`` to anneal from q(z|x), in units of its standard deviations; ``"auto"`` is the
        encoder where that is a diagonal Gaussian. The weights are unbiased from either.
    schedule
        ``"linear"``, ``"sigmoidal"`` or ``"adaptive"``: see :func:`fastvi.mcmc.tune_annealing`.
    seed, row_offset
        All noise of example b depends on (seed, b + row_offset).
    on_step
        Called after each transition, `annealing_steps` times for one batch.

    Returns
    -------
    AnnealedWeights
        The positions are values of z, weighted draws of p(z|x).

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or the model has no continuous latent variables with a prior and a likelihood.

    Examples
    --------
    >>> from fastvi.models import VAE
    >>> found = annealed_weights(VAE(64, 2, (8,)), torch.ones(3, 64), num_temperatures=20, num_chains=4)
    >>> found.log_normalizer.shape, found.position.shape
    (torch.Size([3]), torch.Size([3, 4, 2]))
    """
    latents, annealing = _tuned(model, x, num_temperatures, num_steps, start, schedule, seed, row_offset, on_step)
    found = annealing.forward(num_chains, seed, row_offset, on_step)
    position = latents.values(found.position.transpose(0, 1)).transpose(0, 1)
    return dataclasses.replace(found, position=position)


def evaluate_by_annealing(
    model: Any,
    images: Any,
    *,
    num_temperatures: int = 1000,
    num_chains: int = 16,
    num_steps: int = 3,
    start: str = "auto",
    schedule: str = "adaptive",
    num_samples: int | None = 5000,
    simulated_images: int = 0,
    test_images: int | None = None,
    seed: int = 0,
    on_step: Callable[[], None] | None = None,
) -> AnnealedEvaluation:
    """Evaluate a model's p(x) on images by annealed importance sampling, with L_K of the same images beside it.

    Parameters
    ----------
    model, num_temperatures, num_chains, num_steps, start, schedule
        See :func:`annealed_weights`.
    images
        As the model sees them, binarised where it was trained on binarised ones.
    num_samples
        K; None leaves L_K out, as for a model without an encoder.
    simulated_images
        So many images are drawn from the model, whose exact posterior draw is then known, to enclose log p(x) from
        below and above (bidirectional Monte Carlo): how far the estimate may be off for images like the model's own.
    test_images
        How many test images there are, where ``images`` are only some of them.
    seed
        Of all noise.
    on_step
        Called after each transition; `annealing_steps` tells how often.

    Raises
    ------
    TypeError, ValueError
        See :func:`annealed_weights`; also if there is no image, or images of this model cannot be simulated.

    Examples
    --------
    >>> from fastvi.models import VAE
    >>> result = evaluate_by_annealing(VAE(64, 2, (8,)), torch.ones(3, 64), num_temperatures=50, num_samples=100)
    >>> abs(result.log_evidence - result.importance_weighted) < 1.0
    True
    """
    began = time.monotonic()
    owner = "evaluate_by_annealing"
    count = count_examples(owner, "images", images)
    if count == 0:
        raise ValueError(f"{owner}: images holds no image")
    num_temperatures = check_count(owner, "num_temperatures", num_temperatures)
    num_chains = check_count(owner, "num_chains", num_chains)
    num_steps = check_count(owner, "num_steps", num_steps)
    simulated_images = check_count(owner, "simulated_images", simulated_images, at_least=0)
    test_images = count if test_images is None else check_count(owner, "test_images", test_images)
    num_samples = None if num_samples is None else check_count(owner, "num_samples", num_samples)
    options: dict[str, Any] = {"num_temperatures": num_temperatures, "num_chains": num_chains, "num_steps": num_steps}
    options |= {"start": start, "schedule": schedule, "on_step": on_step}
    bounds: tuple[float, float] | None = None
    if simulated_images > 0:  # first, because it may be refused
        bounds = _enclose(model, images, simulated_images, mix_seed(seed, _SIMULATED), options)
    at_a_time = images_at_a_time(num_chains)
    parts = [
        annealed_weights(model, batch, seed=seed, row_offset=number * at_a_time, **options)
        for number, batch in enumerate(batches(images, count, at_a_time))
    ]
    evidence = torch.cat([part.log_normalizer for part in parts]).cpu()
    effective = torch.cat([part.effective_sample_size for part in parts]).cpu()
    errors = torch.cat([part.standard_error for part in parts]).cpu()
    log_weights = torch.cat([part.log_weights for part in parts]).cpu()
    acceptance = torch.cat([part.acceptance for part in parts], 1).double().cpu()
    importance_weighted = None
    if num_samples is not None and has_bound(model):
        streamed = [
            stream_bounds(model, batch, num_samples, seed=mix_seed(seed, 0), row_offset=number * IMAGES_AT_A_TIME)
            for number, batch in enumerate(batches(images, count))
        ]
        importance_weighted = float(torch.cat([part.importance_weighted for part in streamed]).double().mean())
    return AnnealedEvaluation(
        images=count,
        test_images=test_images,
        num_temperatures=num_temperatures,
        num_chains=num_chains,
        num_leapfrogs=num_steps,
        start=latents_of(model, select_examples(images, slice(0, 1)), start).name,
        schedule=schedule,
        seed=seed,
        log_evidence=float(evidence.mean()),
        standard_error=float(evidence.std() / count**0.5) if count > 1 else None,
        annealing_error=float(errors.square().sum().sqrt() / count) if num_chains > 1 else None,
        mean_log_weight=float(log_weights.mean()),
        effective_sample_size=float(effective.mean()),
        median_effective_sample_size=float(effective.median()),
        acceptance=float(acceptance.mean()) if len(acceptance) else None,
        least_acceptance=float(acceptance.mean(1).min()) if len(acceptance) else None,
        num_samples=None if importance_weighted is None else num_samples,
        importance_weighted=importance_weighted,
        simulated_images=simulated_images,
        simulated_lower=None if bounds is None else bounds[0],
        simulated_upper=None if bounds is None else bounds[1],
        seconds=time.monotonic() - began,
    )


def images_at_a_time(num_chains: int) -> int:
    """Return how many images are annealed at once: as many chains in all as a chunk of `stream_bounds` has rows."""
    return max(1, ROWS_AT_A_TIME // num_chains)


def annealing_steps(images: int, num_temperatures: int, num_chains: int, simulated_images: int = 0) -> int:
    """Return how often `evaluate_by_annealing` calls ``on_step``."""
    pilot, run, at_a_time = pilot_transitions(num_temperatures), num_temperatures - 1, images_at_a_time(num_chains)
    return -(-images // at_a_time) * (pilot + run) + -(-simulated_images // at_a_time) * (pilot + 2 * run)


def _tuned(
    model: Any,
    x: Any,
    num_temperatures: int,
    num_steps: int,
    start: str,
    schedule: str,
    seed: int,
    row_offset: int,
    on_step: Callable[[], None] | None,
) -> tuple[Latents, Annealing]:
    latents = latents_of(model, x, start)
    annealing = tune_annealing(
        latents.target(),
        latents.start,
        num_temperatures=num_temperatures,
        schedule=schedule,
        num_steps=num_steps,
        seed=seed,
        row_offset=row_offset,
        on_step=on_step,
    )
    return latents, annealing


def _enclose(model: Any, images: Any, count: int, seed: int, options: dict[str, Any]) -> tuple[float, float]:
    """The mean lower and upper bound of images drawn from the model."""
    settings = {name: value for name, value in options.items() if name != "num_chains"}
    chains, on_step, at_a_time = options["num_chains"], options["on_step"], images_at_a_time(options["num_chains"])
    x, z = simulate(model, count, images, seed)
    lower: list[Tensor] = []
    upper: list[Tensor] = []
    for offset in range(0, count, at_a_time):
        rows = slice(offset, offset + at_a_time)
        latents, annealing = _tuned(model, select_examples(x, rows), seed=seed, row_offset=offset, **settings)
        lower.append(annealing.forward(chains, seed, offset, on_step).log_normalizer)
        exact = latents.units(z[rows])
        upper.append(annealing.reverse(exact, chains, seed, offset, on_step).log_normalizer)
    return float(torch.cat(lower).mean()), float(torch.cat(upper).mean())
