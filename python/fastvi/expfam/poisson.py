"""The Poisson distribution: T(x) = x, eta = log of the rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions import Gamma as TorchGamma
from torch.distributions import Poisson as TorchPoisson

from fastvi.expfam._noise import Noise
from fastvi.expfam._special import in_double, log_gamma, minus_x_log_x, relative_excess, stirling_remainder
from fastvi.expfam.base import ExponentialFamily
from fastvi.ops._values import has_values

_SERIES_FROM = 1000.0
"""Rate from which four terms of the entropy's asymptotic series are exact to rounding."""


@dataclass(frozen=True)
class Poisson(ExponentialFamily):
    """x in {0, 1, 2, ...}, p(x) = exp(eta x - e^eta) / x!; minimal.

    mu = the rate, h = 1 / x!. The conjugate prior is Gamma(chi, nu) of the rate. The entropy is a sum over all x that
    are not too unlikely to matter, and for rates of 1,000 and more its asymptotic series.

    Examples
    --------
    >>> Poisson().natural_parameters(torch.tensor([1.0]))
    tensor([0.])
    """

    mean_range = "positive"
    support = "a whole number, not negative"

    @property
    def num_statistics(self) -> int:
        """1."""
        return 1

    def _statistics(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-1)

    def _log_base_measure(self, x: Tensor) -> Tensor:
        return in_double(lambda x: -torch.lgamma(x + 1.0), x)

    def _log_prob(self, x: Tensor, eta: Tensor) -> Tensor:
        return in_double(self._log_probability, x, eta)

    def _log_probability(self, x: Tensor, eta: Tensor) -> Tensor:
        # Loader 2000: the log-probability under the rate x, and how much less it is under another one.
        eta = eta.squeeze(-1)
        rate, count = eta.exp(), torch.where(x > 0.0, x, 1.0)
        near = (count - rate).abs() < 0.5 * rate
        mean, counted = torch.where(near, rate, 1.0), torch.where(near, count, 1.0)
        by_difference = mean * relative_excess((counted - mean) / mean)
        by_logarithms = count * (count.log() - eta - 1.0) + rate
        peak = -0.5 * (2.0 * math.pi * count).log() - stirling_remainder(count)
        return torch.where(x > 0.0, peak - torch.where(near, by_difference, by_logarithms), -rate)

    def _log_partition(self, eta: Tensor) -> Tensor:
        return eta.exp().squeeze(-1)

    def _mean(self, eta: Tensor) -> Tensor:
        return eta.exp()

    def _fisher(self, eta: Tensor) -> Tensor:
        return eta.exp().unsqueeze(-1)

    def _natural(self, mu: Tensor) -> Tensor:
        return mu.log()

    def _conjugate(self, mu: Tensor) -> Tensor:
        return -(minus_x_log_x(mu) + mu).squeeze(-1)

    def _entropy(self, eta: Tensor) -> Tensor:
        return in_double(self._entropy_of_rate, eta)

    def _entropy_of_rate(self, eta: Tensor) -> Tensor:
        rate = eta.exp().squeeze(-1)
        large = rate >= _SERIES_FROM
        small_eta = torch.where(large, 0.0, eta.squeeze(-1))
        # Beyond this, for no small rate is what is left out more than 1e-17.
        most = _SERIES_FROM
        if has_values(rate) and rate.numel():
            most = rate.detach().where(~large, rate.new_zeros(())).amax().item()
        values = torch.arange(math.ceil(most + 12.0 * math.sqrt(most) + 40.0), dtype=eta.dtype, device=eta.device)
        log_prob = self._log_prob(values, small_eta[..., None, None])
        by_sum = -(log_prob.exp() * log_prob).sum(-1)
        inverse = 1.0 / torch.where(large, rate, _SERIES_FROM)
        terms = inverse * (1.0 / 12.0 + inverse * (1.0 / 24.0 + inverse * (19.0 / 360.0)))
        series = 0.5 * (math.log(2.0 * math.pi * math.e) + torch.where(large, eta.squeeze(-1), 0.0)) - terms
        return torch.where(large, series, by_sum)

    def _sample(self, eta: Tensor, noise: Noise) -> Tensor:
        # The least k with P(x <= k) > u, by bisection.
        rate = eta.double().exp().squeeze(-1).expand(noise.shape)
        uniform = noise.uniform(0)
        reach = 12.0 * rate.sqrt() + 60.0
        low, high = (rate - reach).floor().clamp_min(-1.0), (rate + reach).ceil()
        if not bool(torch.isfinite(high.to(eta.dtype)).all()):
            raise ValueError(
                f"{self._name}: sample needs rates below the largest {eta.dtype}, got eta {eta.amax():.6g}"
            )
        middle = (0.5 * (low + high)).floor()
        # Beyond 2^53 neighbouring floats are more than 1 apart, and nothing may be between low and high before that.
        while bool(((low < middle) & (middle < high)).any()):
            above = torch.special.gammaincc(middle + 1.0, rate) > uniform
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
            middle = (0.5 * (low + high)).floor()
        return high

    def _mean_domain(self, mu: Tensor) -> Tensor:
        return ((mu > 0.0) & mu.isfinite()).all(-1)

    def _conjugate_domain(self, mu: Tensor) -> Tensor:
        return ((mu >= 0.0) & mu.isfinite()).all(-1)

    def _support(self, x: Tensor) -> Tensor:
        return (x >= 0.0) & x.isfinite() & (x == x.floor())

    def _log_prior_normaliser(self, chi: Tensor, nu: Tensor) -> Tensor:
        return log_gamma(chi.squeeze(-1)) - chi.squeeze(-1) * nu.log()

    def _prior_distribution(self, chi: Tensor, nu: Tensor) -> Distribution:
        return TorchGamma(chi.squeeze(-1), nu)

    def to_distribution(self, eta: Tensor) -> Distribution:
        """``torch.distributions.Poisson``."""
        return TorchPoisson(self._natural_values("eta", eta).exp().squeeze(-1))

    def from_distribution(self, distribution: Distribution) -> Tensor:
        """From ``torch.distributions.Poisson``."""
        rate: Tensor = self._expect(distribution, TorchPoisson).rate
        return rate.log().unsqueeze(-1)
