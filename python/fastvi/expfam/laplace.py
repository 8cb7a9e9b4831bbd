"""The Laplace distribution with a known location: T(x) = |x - location|, eta = -1 / scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions import Gamma as TorchGamma
from torch.distributions import Laplace as TorchLaplace

from fastvi._options import option
from fastvi.expfam._noise import Noise
from fastvi.expfam._special import log_gamma
from fastvi.expfam.base import ExponentialFamily


@dataclass(frozen=True)
class Laplace(ExponentialFamily):
    """x real, p(x) = exp(eta |x - location| + log(-eta / 2)), eta < 0; minimal.

    mu = the scale, h = 1. The conjugate prior is Gamma(nu + 1, chi) of 1 / scale. With an unknown location the
    distributions are no exponential family.

    Parameters
    ----------
    location
        The median.

    Examples
    --------
    >>> Laplace(1.0).maximum_likelihood(torch.tensor([0.0, 4.0]))  # mean absolute deviation 2
    tensor([-0.5000])
    """

    natural_range = "negative"
    mean_range = "positive"

    location: float = option("the median", 0.0, at_least=-math.inf)

    @property
    def num_statistics(self) -> int:
        """1."""
        return 1

    def _statistics(self, x: Tensor) -> Tensor:
        return (x - self.location).abs().unsqueeze(-1)

    def _log_partition(self, eta: Tensor) -> Tensor:
        return math.log(2.0) - (-eta).log().squeeze(-1)

    def _mean(self, eta: Tensor) -> Tensor:
        return -1.0 / eta

    def _fisher(self, eta: Tensor) -> Tensor:
        return eta.square().reciprocal().unsqueeze(-1)

    def _natural(self, mu: Tensor) -> Tensor:
        return -1.0 / mu

    def _conjugate(self, mu: Tensor) -> Tensor:
        return -(mu.log() + 1.0 + math.log(2.0)).squeeze(-1)

    def _sample(self, eta: Tensor, noise: Noise) -> Tensor:
        centred = 2.0 * noise.uniform(0) - 1.0
        return self.location + centred.sign() * (-centred.abs()).log1p() / eta.double().squeeze(-1)

    def _natural_domain(self, eta: Tensor) -> Tensor:
        return ((eta < 0.0) & eta.isfinite()).all(-1)

    def _mean_domain(self, mu: Tensor) -> Tensor:
        return ((mu > 0.0) & mu.isfinite()).all(-1)

    def _any_natural(self, like: Tensor) -> Tensor:
        return torch.full_like(like, -1.0)

    def _log_prior_normaliser(self, chi: Tensor, nu: Tensor) -> Tensor:
        return log_gamma(nu + 1.0) - (nu + 1.0) * chi.squeeze(-1).log() - nu * math.log(2.0)

    def _prior_distribution(self, chi: Tensor, nu: Tensor) -> Distribution:
        return TorchGamma(nu + 1.0, chi.squeeze(-1))

    def to_distribution(self, eta: Tensor) -> Distribution:
        """``torch.distributions.Laplace``."""
        scale = -1.0 / self._natural_values("eta", eta).squeeze(-1)
        return TorchLaplace(torch.full_like(scale, self.location), scale)

    def from_distribution(self, distribution: Distribution) -> Tensor:
        """From ``torch.distributions.Laplace`` with this location."""
        laplace = self._expect(distribution, TorchLaplace)
        if not bool((laplace.loc == self.location).all()):
            raise ValueError(f"{self._name}: distribution must have the location {self.location} in all of its batch")
        scale: Tensor = laplace.scale
        return -1.0 / scale.unsqueeze(-1)
