"""The gamma distribution: T(x) = (log x, x), eta = (shape, -rate), h(x) = 1 / x."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions import Gamma as TorchGamma

from fastvi.expfam._noise import Noise
from fastvi.expfam._special import (
    STIRLING_FROM,
    digamma,
    in_double,
    log_gamma,
    stirling_remainder,
    stirling_slope,
    trigamma,
)
from fastvi.expfam.base import ExponentialFamily


@dataclass(frozen=True)
class Gamma(ExponentialFamily):
    """x > 0 with shape a and rate b: A = log Gamma(a) - a log b; minimal.

    mu = (digamma(a) - log b, a / b). Natural parameters are found by Newton's method in one variable (Minka 2002,
    "Estimating a Gamma distribution"). The conjugate prior has no closed normaliser.

    Examples
    --------
    >>> eta = torch.tensor([3.0, -2.0])  # shape 3, rate 2
    >>> Gamma().mean_parameters(eta)
    tensor([0.2296, 1.5000])
    """

    natural_range = "(positive, negative)"
    mean_range = "the means of log x and x, the first below the logarithm of the second"
    support = "positive"

    @property
    def num_statistics(self) -> int:
        """2."""
        return 2

    def _statistics(self, x: Tensor) -> Tensor:
        return torch.stack([x.log(), x], -1)

    def _log_base_measure(self, x: Tensor) -> Tensor:
        return -x.log()

    def _mean_log_base_measure(self, eta: Tensor, mu: Tensor) -> Tensor:
        return -mu[..., 0]

    def _log_partition(self, eta: Tensor) -> Tensor:
        shape, rate = eta[..., 0], -eta[..., 1]
        return log_gamma(shape) - shape * rate.log()

    def _mean(self, eta: Tensor) -> Tensor:
        shape, rate = eta[..., 0], -eta[..., 1]
        return torch.stack([digamma(shape) - rate.log(), shape / rate], -1)

    def _fisher(self, eta: Tensor) -> Tensor:
        shape, rate = eta[..., 0], -eta[..., 1]
        mixed = 1.0 / rate
        first = torch.stack([trigamma(shape), mixed], -1)
        return torch.stack([first, torch.stack([mixed, shape * mixed.square()], -1)], -2)

    def _solve(self, mu: Tensor) -> Tensor:
        mean = mu[..., 1]
        # With b = a / E x, what is left is log a - digamma(a) = log E x - E log x > 0.
        target = mean.log() - mu[..., 0]
        root = ((target - 3.0).square() + 24.0 * target).sqrt()
        shape = (3.0 - target + root) / (12.0 * target)
        for _ in range(6):  # Minka's step, whose relative error is cubed each time
            slope = 1.0 / shape - trigamma(shape)
            shape = 1.0 / (1.0 / shape + (target + digamma(shape) - shape.log()) / (-slope * shape.square()))
        return torch.stack([shape, -shape / mean], -1)

    def _log_prob(self, x: Tensor, eta: Tensor) -> Tensor:
        return in_double(self._log_density, x, eta)

    def _log_density(self, x: Tensor, eta: Tensor) -> Tensor:
        plain = (eta[..., 0] - 1.0) * x.log() + eta[..., 1] * x - self._log_partition(eta)
        # For a large shape by the ratio of x and the mean, near 1, so that terms of the shape's size do not cancel.
        large = eta[..., 0] >= STIRLING_FROM
        shape, rate = torch.where(large, eta[..., 0], STIRLING_FROM), -eta[..., 1]
        ratio = torch.where(large, rate * x / shape, 1.0)
        near = (ratio - 1.0).abs() < 0.5
        by_logarithms = rate.log() + x.log() - shape.log()
        log_ratio = torch.where(near, torch.where(near, ratio - 1.0, 0.0).log1p(), by_logarithms)
        peak = 0.5 * (shape / (2.0 * math.pi)).log() - stirling_remainder(shape) - x.log()
        return torch.where(large, peak - shape * ((ratio - 1.0) - log_ratio), plain)

    def _entropy(self, eta: Tensor) -> Tensor:
        return in_double(self._entropy_of_shape, eta)

    def _entropy_of_shape(self, eta: Tensor) -> Tensor:
        large, log_rate = eta[..., 0] >= STIRLING_FROM, (-eta[..., 1]).log()
        small, shape = torch.where(large, 1.0, eta[..., 0]), torch.where(large, eta[..., 0], STIRLING_FROM)
        plain = small + log_gamma(small) + (1.0 - small) * digamma(small)
        normal = 0.5 * (2.0 * math.pi * math.e * shape).log() - 0.5 / shape
        series = normal + stirling_remainder(shape) + (1.0 - shape) * stirling_slope(shape)
        return torch.where(large, series, plain) - log_rate

    def _sample(self, eta: Tensor, noise: Noise) -> Tensor:
        shape, rate = eta.double()[..., 0], -eta.double()[..., 1]
        drawn = (noise.log_gamma_variate(shape) - rate.log()).exp()
        return drawn.clamp_min(torch.finfo(eta.dtype).tiny)

    def _natural_domain(self, eta: Tensor) -> Tensor:
        return eta.isfinite().all(-1) & (eta[..., 0] > 0.0) & (eta[..., 1] < 0.0)

    def _mean_domain(self, mu: Tensor) -> Tensor:
        return mu.isfinite().all(-1) & (mu[..., 1] > 0.0) & (mu[..., 0] < mu[..., 1].log())

    def _support(self, x: Tensor) -> Tensor:
        return (x > 0.0) & x.isfinite()

    def _any_natural(self, like: Tensor) -> Tensor:
        return torch.stack([torch.ones_like(like[..., 0]), -torch.ones_like(like[..., 1])], -1)

    def to_distribution(self, eta: Tensor) -> Distribution:
        """``torch.distributions.Gamma``."""
        eta = self._natural_values("eta", eta)
        return TorchGamma(eta[..., 0], -eta[..., 1])

    def from_distribution(self, distribution: Distribution) -> Tensor:
        """From ``torch.distributions.Gamma``."""
        gamma = self._expect(distribution, TorchGamma)
        return torch.stack([gamma.concentration, -gamma.rate], -1)
