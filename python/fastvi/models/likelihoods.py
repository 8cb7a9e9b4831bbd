"""Likelihoods p(x|z) of vectors with independent values, given by the numbers that a decoder has for each value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvi import ops
from fastvi.ops._values import describe_range, range_outside_unit_interval

LOGVAR_RANGE = (-8.0, 2.0)
"""Range of the logvar of a Gaussian, twice the log scale of a Laplace distribution: without a floor, a pixel that never
varies has an infinite density."""
REAL_LOGVAR_RANGE = (-8.0, 16.0)
"""The same where the mean is any real number: the data may have any scale, so the ceiling is one of thousands."""
LOG_COUNT_RANGE = (-8.0, 12.0)
"""Range of log rates and of the logarithm of a negative binomial's number of failures."""
MEAN_MARGIN = 1e-3
"""The data's mean is kept this far from 0, and a probability from 1, before the output bias is made of it."""


@dataclass(frozen=True)
class Likelihood:
    """The distribution of one value of x, and of vectors of them.

    Attributes
    ----------
    parts
        Numbers that a decoder gives for each value: those of the first kind for all values come first.
    log_prob
        Of x, of the shape (..., D), of the parts, each (..., D), and whether to look at the values of x: log p(x|z) in
        nats, of the broadcast leading shape.
    mean
        Of the parts: the mean of x.
    start
        Of the data's mean, (D,): what the first part begins with.
    is_of_counts
        Whether x are counts, 0 or more.
    is_of_reals
        Whether x are any real numbers. Where they are neither counts nor these, they are in [0, 1].
    """

    parts: int
    log_prob: Callable[[Tensor, tuple[Tensor, ...], bool], Tensor]
    mean: Callable[[tuple[Tensor, ...]], Tensor]
    start: Callable[[Tensor], Tensor]
    is_of_counts: bool = False
    is_of_reals: bool = False

    def split(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """The parts of what a decoder gives."""
        return outputs.chunk(self.parts, -1)


def _logit(mean: Tensor) -> Tensor:
    return torch.logit(mean.clamp(MEAN_MARGIN, 1.0 - MEAN_MARGIN))


def _log(mean: Tensor) -> Tensor:
    return mean.clamp_min(MEAN_MARGIN).log()


def _probability(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.sigmoid(parts[0])


def _bernoulli(x: Tensor, parts: tuple[Tensor, ...], validate_args: bool) -> Tensor:
    return ops.bernoulli_log_prob(x, parts[0], validate_args)


def _gaussian(x: Tensor, parts: tuple[Tensor, ...], validate_args: bool) -> Tensor:
    return ops.normal_log_prob(x, torch.sigmoid(parts[0]), parts[1].clamp(*LOGVAR_RANGE))


def _laplace(x: Tensor, parts: tuple[Tensor, ...], validate_args: bool) -> Tensor:
    lowest, highest = LOGVAR_RANGE
    return ops.laplace_log_prob(x, torch.sigmoid(parts[0]), parts[1].clamp(lowest / 2.0, highest / 2.0))


def _real_gaussian(x: Tensor, parts: tuple[Tensor, ...], validate_args: bool) -> Tensor:
    return ops.normal_log_prob(x, parts[0], parts[1].clamp(*REAL_LOGVAR_RANGE))


def _real_laplace(x: Tensor, parts: tuple[Tensor, ...], validate_args: bool) -> Tensor:
    lowest, highest = REAL_LOGVAR_RANGE
    return ops.laplace_log_prob(x, parts[0], parts[1].clamp(lowest / 2.0, highest / 2.0))


def _first(parts: tuple[Tensor, ...]) -> Tensor:
    return parts[0]


def _same(mean: Tensor) -> Tensor:
    return mean


def _continuous_bernoulli(x: Tensor, parts: tuple[Tensor, ...], validate_args: bool) -> Tensor:
    return ops.continuous_bernoulli_log_prob(x, parts[0], validate_args)


def _continuous_bernoulli_mean(parts: tuple[Tensor, ...]) -> Tensor:
    """1 / (1 - exp(-l)) - 1 / l; near 0, where that is a difference of large numbers, its series."""
    logits = parts[0]
    is_near = logits.abs() < 0.1
    far = torch.where(is_near, torch.ones_like(logits), logits)
    square = logits.square()
    series = 0.5 + logits / 12.0 * (1.0 - square / 60.0 * (1.0 - square / 42.0))
    return torch.where(is_near, series, -1.0 / torch.expm1(-far) - 1.0 / far)


def _start_of_continuous_bernoulli(mean: Tensor) -> Tensor:
    """The logits of a mean, by bisection: it grows with them."""
    target = mean.clamp(MEAN_MARGIN, 1.0 - MEAN_MARGIN).double()
    low, high = torch.full_like(target, -1.0 / MEAN_MARGIN), torch.full_like(target, 1.0 / MEAN_MARGIN)
    for _ in range(60):
        middle = 0.5 * (low + high)
        is_below = _continuous_bernoulli_mean((middle,)) < target
        low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
    return (0.5 * (low + high)).to(mean.dtype)


def _poisson(x: Tensor, parts: tuple[Tensor, ...], validate_args: bool) -> Tensor:
    return ops.poisson_log_prob(x, parts[0].clamp(*LOG_COUNT_RANGE), validate_args)


def _total_count(parts: tuple[Tensor, ...]) -> Tensor:
    return parts[1].clamp(*LOG_COUNT_RANGE).exp()


def _negative_binomial(x: Tensor, parts: tuple[Tensor, ...], validate_args: bool) -> Tensor:
    return ops.negative_binomial_log_prob(x, _total_count(parts), parts[0], validate_args)


def _zero_inflated(x: Tensor, parts: tuple[Tensor, ...], validate_args: bool) -> Tensor:
    total_count = _total_count(parts)
    return ops.zero_inflated_negative_binomial_log_prob(x, total_count, parts[0], parts[2], validate_args)


LIKELIHOODS: dict[str, Likelihood] = {
    "bernoulli": Likelihood(1, _bernoulli, _probability, _logit),
    "gaussian": Likelihood(2, _gaussian, _probability, _logit),
    "laplace": Likelihood(2, _laplace, _probability, _logit),
    "continuous-bernoulli": Likelihood(
        1, _continuous_bernoulli, _continuous_bernoulli_mean, _start_of_continuous_bernoulli
    ),
    "real-gaussian": Likelihood(2, _real_gaussian, _first, _same, is_of_reals=True),
    "real-laplace": Likelihood(2, _real_laplace, _first, _same, is_of_reals=True),
    "poisson": Likelihood(1, _poisson, lambda parts: parts[0].clamp(*LOG_COUNT_RANGE).exp(), _log, True),
    # The number of failures starts at one, where the mean is exp(logits).
    "negative-binomial": Likelihood(
        2, _negative_binomial, lambda parts: _total_count(parts) * parts[0].exp(), _log, True
    ),
    # At the start the gate is one half, and the mean of what it lets through twice that of the data.
    "zero-inflated-negative-binomial": Likelihood(
        3,
        _zero_inflated,
        lambda parts: torch.sigmoid(-parts[2]) * _total_count(parts) * parts[0].exp(),
        lambda mean: _log(mean) + math.log(2.0),
        True,
    ),
}
"""By name. A Gaussian and a Laplace distribution have their mean from the first part l, sigmoid(l), and logvar or log
scale from the second; those of real numbers have the mean l itself."""

VALUES = ("values in [0, 1]", "counts", "real numbers")
"""The kinds of values that likelihoods are of, in words."""


def is_of_counts(name: str) -> bool:
    """Whether x are counts."""
    return LIKELIHOODS[name].is_of_counts


def is_of_reals(name: str) -> bool:
    """Whether x are any real numbers."""
    return LIKELIHOODS[name].is_of_reals


def values_of(name: str) -> str:
    """Return the one of `VALUES` that a likelihood is of."""
    return VALUES[1 if is_of_counts(name) else 2 if is_of_reals(name) else 0]


def check_values_of(name: str, values: Tensor, likelihood: str) -> None:
    """Check that values are of the kind that a likelihood is of.

    Raises
    ------
    ValueError
        If they are not; it begins with ``name`` and says which likelihood to take.
    """
    kind = values_of(likelihood)
    if kind == VALUES[1]:
        wrong = values[~((values >= 0.0) & (values == values.floor()) & values.isfinite())]
        if wrong.numel() > 0:
            raise ValueError(f"{name} must hold counts, whole numbers of 0 or more, got {wrong[0].item():g}")
    elif kind == VALUES[2]:
        if not bool(values.isfinite().all()):
            raise ValueError(f"{name} must hold finite numbers, got {values[~values.isfinite()][0].item()}")
    elif (bounds := range_outside_unit_interval(values)) is not None:
        words = describe_range(bounds)
        if "divided" not in words and all(map(math.isfinite, bounds)):
            words += "; `likelihood` real-gaussian takes any real numbers"
        raise ValueError(f"{name} must hold values in [0, 1], got {words}")
