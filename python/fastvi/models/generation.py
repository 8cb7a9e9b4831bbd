"""What a trained model makes up: latent variables of its prior, and data of p(x|z) for them.

Noise follows a seed. Counts come from NumPy's generators, everything else from fastvi's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Laplace, Normal

from fastvi import ops
from fastvi._options import check_count
from fastvi.distributions import seeded
from fastvi.models.likelihoods import (
    LIKELIHOODS,
    LOG_COUNT_RANGE,
    LOGVAR_RANGE,
    REAL_LOGVAR_RANGE,
)
from fastvi.objectives.model import member, optional
from fastvi.seeding import mix_seed

Parts = tuple[Tensor, ...]

_LARGEST_RATE = 1e15
"""NumPy's generators refuse rates of Poisson variables that a whole number of 64 bits might not hold."""


def draw_latents(
    model: Any, count: int, seed: int | None, labels: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Draw z of a model's prior, ``(count, Z)``, and the labels that go with it: classes take turns, None without.

    The model has ``latent_dim``, and its prior in one of the forms of `fastvi.objectives.LatentVariableModel`. Where
    ``labels``, ``(count,)``, are given, z is drawn for them: a row has the same noise whatever its label.

    Raises
    ------
    TypeError
        If the prior cannot be drawn from, or ``count`` is no integer.
    ValueError
        If ``count`` is negative.

    Examples
    --------
    >>> from fastvi.models import VAE
    >>> draw_latents(VAE(16, latent_dim=2, hidden_dims=(8,)), 5, seed=0)[0].shape
    torch.Size([5, 2])
    """
    count = check_count(type(model).__name__, "count", count, at_least=0)
    parameter = next(model.parameters())
    num_classes = getattr(model, "num_classes", None)
    if labels is None and num_classes is not None:
        labels = torch.arange(count, device=parameter.device) % num_classes
    log_prior, conditional_prior = (optional(model, name) for name in ("log_prior", "conditional_prior"))
    if log_prior is not None:
        if not hasattr(log_prior, "sample"):
            raise TypeError(f"{member(model, 'log_prior')} cannot be drawn from: it has no sample(count, seed)")
        return log_prior.sample(count, seed), labels
    zeros = parameter.new_zeros(count, model.latent_dim)
    given = (optional(model, name) for name in ("prior_mean", "prior_logvar"))
    mean, logvar = (zeros if one is None else one.expand_as(zeros) for one in given)
    if conditional_prior is not None:
        found = conditional_prior((None, labels))
        if isinstance(found, Distribution):
            try:
                return _drawn(found, seed), labels
            except NotImplementedError as error:
                raise TypeError(f"{member(model, 'conditional_prior')} cannot be drawn from: {error}") from error
        mean, logvar = found
    return ops.rsample_normal(mean, logvar, (), seed), labels


def draw_values(likelihood: str, parts: Parts, seed: int) -> Tensor:
    """Draw x of p(x|z), of the shape of each of the parts that a decoder gave: see `fastvi.models.Likelihood`.

    Raises
    ------
    ValueError
        If there is no likelihood of this name.

    Examples
    --------
    >>> draw_values("bernoulli", (torch.tensor([[-50.0, 50.0]]),), seed=0)
    tensor([[0., 1.]])
    """
    if likelihood not in _DRAWS:
        raise ValueError(f"draw_values: likelihood must be one of {', '.join(_DRAWS)}, got {likelihood!r}")
    return _DRAWS[likelihood](parts, seed)


def _gaussian(parts: Parts, seed: int) -> Tensor:
    return ops.rsample_normal(LIKELIHOODS["gaussian"].mean(parts), parts[1].clamp(*LOGVAR_RANGE), (), seed)


def _real_gaussian(parts: Parts, seed: int) -> Tensor:
    return ops.rsample_normal(parts[0], parts[1].clamp(*REAL_LOGVAR_RANGE), (), seed)


def _laplace(mean: Tensor, log_scale: Tensor, logvar_range: tuple[float, float], seed: int) -> Tensor:
    lowest, highest = logvar_range
    scale = log_scale.clamp(lowest / 2.0, highest / 2.0).exp()
    return _drawn(Laplace(mean, scale, validate_args=False), seed)


def _continuous_bernoulli(parts: Parts, seed: int) -> Tensor:
    """By the inverse distribution function, log1p(u expm1(l)) / l: PyTorch's loses all digits of large logits."""
    logits = parts[0].double()
    uniform = torch.special.ndtr(_drawn(Normal(torch.zeros_like(logits), 1.0, validate_args=False), seed))
    size = logits.abs()
    is_near = size < 1e-6
    safe = torch.where(is_near, torch.ones_like(size), size)
    # For a logit -l below zero the density falls: x = -log1p(-u (1 - exp(-l))) / l, without an overflow.
    falling = -torch.log1p(uniform * torch.expm1(-safe)) / safe
    falling = torch.where(is_near, uniform, falling).clamp(0.0, 1.0)
    return torch.where(logits > 0, 1.0 - falling, falling).to(parts[0].dtype)


def _poisson(parts: Parts, seed: int) -> Tensor:
    return _counts(lambda rng, rate: rng.poisson(rate), seed, LIKELIHOODS["poisson"].mean(parts))


def _negative_binomial(parts: Parts, seed: int) -> Tensor:
    """Poisson variables whose rates are Gamma variables, of the shape r and the mean r exp(l)."""
    total_count = parts[1].clamp(*LOG_COUNT_RANGE).exp()
    return _counts(
        lambda rng, shape, scale: rng.poisson(np.minimum(rng.gamma(shape, scale), _LARGEST_RATE)),
        seed,
        total_count,
        parts[0].double().exp().clamp_max(_LARGEST_RATE),
    )


def _zero_inflated(parts: Parts, seed: int) -> Tensor:
    is_let_through = _drawn(Bernoulli(logits=-parts[2], validate_args=False), mix_seed(seed, 1))
    return _negative_binomial(parts[:2], mix_seed(seed, 0)) * is_let_through


def _counts(draw: Callable[..., Any], seed: int, *parameters: Tensor) -> Tensor:
    arrays = [parameter.detach().cpu().double().numpy() for parameter in parameters]
    drawn = np.asarray(draw(np.random.default_rng(seed), *arrays), np.float64)
    return torch.from_numpy(drawn).to(parameters[0])


def _drawn(distribution: Distribution, seed: int | None) -> Tensor:
    draw = seeded.rsample if distribution.has_rsample else seeded.sample
    return draw(distribution, 1, seed, 0)[0]


_DRAWS: dict[str, Callable[[Parts, int], Tensor]] = {
    "bernoulli": lambda parts, seed: _drawn(Bernoulli(logits=parts[0], validate_args=False), seed),
    "gaussian": _gaussian,
    "laplace": lambda parts, seed: _laplace(LIKELIHOODS["laplace"].mean(parts), parts[1], LOGVAR_RANGE, seed),
    "real-gaussian": _real_gaussian,
    "real-laplace": lambda parts, seed: _laplace(parts[0], parts[1], REAL_LOGVAR_RANGE, seed),
    "continuous-bernoulli": _continuous_bernoulli,
    "poisson": _poisson,
    "negative-binomial": _negative_binomial,
    "zero-inflated-negative-binomial": _zero_inflated,
}
"""By the names of `fastvi.models.LIKELIHOODS`."""
