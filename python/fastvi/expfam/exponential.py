"""The exponential distribution: T(x) = x, eta = -rate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions import Exponential as TorchExponential
from torch.distributions import Gamma as TorchGamma

from fastvi.expfam._noise import Noise
from fastvi.expfam._special import log_gamma
from fastvi.expfam.base import ExponentialFamily


@dataclass(frozen=True)
class Exponential(ExponentialFamily):
    """x >= 0, p(x) = exp(eta x + log(-eta)), eta < 0; minimal.

    mu = 1 / rate, h = 1. The conjugate prior is Gamma(nu + 1, chi) of the rate.

    Examples
    --------
    >>> Exponential().natural_parameters(torch.tensor([0.25]))
    tensor([-4.])
    """

    natural_range = "negative"
    mean_range = "positive"
    support = "not negative"

    @property
    def num_statistics(self) -> int:
        """1."""
        return 1

    def _statistics(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-1)

    def _log_partition(self, eta: Tensor) -> Tensor:
        return -(-eta).log().squeeze(-1)

    def _mean(self, eta: Tensor) -> Tensor:
        return -1.0 / eta

    def _fisher(self, eta: Tensor) -> Tensor:
        return eta.square().reciprocal().unsqueeze(-1)

    def _natural(self, mu: Tensor) -> Tensor:
        return -1.0 / mu

    def _conjugate(self, mu: Tensor) -> Tensor:
        return -(mu.log() + 1.0).squeeze(-1)

    def _sample(self, eta: Tensor, noise: Noise) -> Tensor:
        return noise.uniform(0).log() / eta.double().squeeze(-1)

    def _natural_domain(self, eta: Tensor) -> Tensor:
        return ((eta < 0.0) & eta.isfinite()).all(-1)

    def _mean_domain(self, mu: Tensor) -> Tensor:
        return ((mu > 0.0) & mu.isfinite()).all(-1)

    def _support(self, x: Tensor) -> Tensor:
        return (x >= 0.0) & x.isfinite()

    def _any_natural(self, like: Tensor) -> Tensor:
        return torch.full_like(like, -1.0)

    def _log_prior_normaliser(self, chi: Tensor, nu: Tensor) -> Tensor:
        return log_gamma(nu + 1.0) - (nu + 1.0) * chi.squeeze(-1).log()

    def _prior_distribution(self, chi: Tensor, nu: Tensor) -> Distribution:
        return TorchGamma(nu + 1.0, chi.squeeze(-1))

    def to_distribution(self, eta: Tensor) -> Distribution:
        """``torch.distributions.Exponential``."""
        return TorchExponential(-self._natural_values("eta", eta).squeeze(-1))

    def from_distribution(self, distribution: Distribution) -> Tensor:
        """From ``torch.distributions.Exponential``."""
        rate: Tensor = self._expect(distribution, TorchExponential).rate
        return -rate.unsqueeze(-1)
