"""The Gaussian distribution of one number: T(x) = (x, x^2), eta = (mean / variance, -1 / (2 variance))."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from fastvi import ops
from fastvi.expfam._noise import Noise
from fastvi.expfam._special import log_gamma
from fastvi.expfam.base import ExponentialFamily

_LOG_TWO_PI = math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Gaussian(ExponentialFamily):
    """x real, with mean m and variance v: A = m^2 / (2 v) + log(2 pi v) / 2; minimal.

    mu = (m, m^2 + v), h = 1. The conjugate prior is normal-gamma: the precision t = 1 / v is
    Gamma((nu + 3) / 2, (chi_2 - chi_1^2 / nu) / 2), and given it m is N(chi_1 / nu, 1 / (nu t)).

    Log-densities and divergences (:func:`fastvi.kl_normal`) keep their digits where mean^2 is much larger than the
    variance.

    Examples
    --------
    >>> import math, torch
    >>> family = Gaussian()
    >>> eta = family.natural_parameters(torch.tensor([1.0, 3.0]))  # mean 1, variance 2
    >>> eta
    tensor([ 0.5000, -0.2500])
    >>> bool(torch.isclose(family.entropy(eta), torch.tensor(0.5 * math.log(2 * math.pi * math.e * 2))))
    True
    """

    natural_range = "(finite, negative)"
    mean_range = "the means of x and x^2, the second above the square of the first"

    @property
    def num_statistics(self) -> int:
        """2."""
        return 2

    def _statistics(self, x: Tensor) -> Tensor:
        return torch.stack([x, x.square()], -1)

    def _log_partition(self, eta: Tensor) -> Tensor:
        mean, logvar = mean_and_logvar(eta)
        return 0.5 * (mean * eta[..., 0] + logvar + _LOG_TWO_PI)

    def _mean(self, eta: Tensor) -> Tensor:
        mean, logvar = mean_and_logvar(eta)
        return torch.stack([mean, mean.square() + logvar.exp()], -1)

    def _fisher(self, eta: Tensor) -> Tensor:
        mean, logvar = mean_and_logvar(eta)
        variance = logvar.exp()
        mixed, square = 2.0 * mean * variance, (4.0 * mean.square() + 2.0 * variance) * variance
        return torch.stack([torch.stack([variance, mixed], -1), torch.stack([mixed, square], -1)], -2)

    def _natural(self, mu: Tensor) -> Tensor:
        mean, square = mu.unbind(-1)
        precision = 1.0 / (square - mean.square())
        return torch.stack([mean * precision, -0.5 * precision], -1)

    def _conjugate(self, mu: Tensor) -> Tensor:
        mean, square = mu.unbind(-1)
        return -0.5 * ((square - mean.square()).log() + math.log(2.0 * math.pi * math.e))

    def _entropy(self, eta: Tensor) -> Tensor:
        return ops.normal_entropy(mean_and_logvar(eta)[1].unsqueeze(-1))

    def _kl(self, eta: Tensor, other: Tensor) -> Tensor:
        mean, logvar = (part.unsqueeze(-1) for part in mean_and_logvar(eta))
        prior_mean, prior_logvar = (part.unsqueeze(-1) for part in mean_and_logvar(other))
        return ops.kl_normal(mean, logvar, prior_mean, prior_logvar)

    def _log_prob(self, x: Tensor, eta: Tensor) -> Tensor:
        mean, logvar = mean_and_logvar(eta)
        return (x - mean).square() * eta[..., 1] - 0.5 * (logvar + _LOG_TWO_PI)

    def _sample(self, eta: Tensor, noise: Noise) -> Tensor:
        mean, logvar = mean_and_logvar(eta.double())
        return torch.addcmul(mean, (0.5 * logvar).exp(), noise.normal(0))

    def _natural_domain(self, eta: Tensor) -> Tensor:
        return torch.isfinite(eta).all(-1) & (eta[..., 1] < 0.0)

    def _mean_domain(self, mu: Tensor) -> Tensor:
        return torch.isfinite(mu).all(-1) & (mu[..., 1] > mu[..., 0].square())

    def _any_natural(self, like: Tensor) -> Tensor:
        return torch.full_like(like, -0.5)

    def _log_prior_normaliser(self, chi: Tensor, nu: Tensor) -> Tensor:
        shape, rate = 0.5 * (nu + 3.0), 0.5 * (chi[..., 1] - chi[..., 0].square() / nu)
        measure = 0.5 * ((1.0 - nu) * _LOG_TWO_PI - nu.log()) - math.log(2.0)
        return measure + log_gamma(shape) - shape * rate.log()

    def to_distribution(self, eta: Tensor) -> Distribution:
        """``torch.distributions.Normal``."""
        mean, logvar = mean_and_logvar(self._natural_values("eta", eta))
        return Normal(mean, (0.5 * logvar).exp())

    def from_distribution(self, distribution: Distribution) -> Tensor:
        """From ``torch.distributions.Normal``."""
        normal = self._expect(distribution, Normal)
        precision = normal.scale**-2.0
        return torch.stack([normal.loc * precision, -0.5 * precision], -1)


def mean_and_logvar(eta: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the log-variance, (...)."""
    twice = -2.0 * eta[..., 1]
    return eta[..., 0] / twice, -twice.log()
