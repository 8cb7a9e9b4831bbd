"""The Dirichlet distribution: T(x) = log x, eta = concentration, h(x) = 1 / product of x."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Dirichlet as TorchDirichlet
from torch.distributions import Distribution

from fastvi._options import option
from fastvi.expfam._noise import Noise
from fastvi.expfam._special import (
    digamma,
    digamma_difference,
    in_double,
    inverse_digamma_start,
    log_gamma,
    trigamma,
)
from fastvi.expfam.base import ExponentialFamily


class LogProportions(ExponentialFamily):
    """What the beta and the Dirichlet distribution share: statistics log x of proportions with the sum 1."""

    natural_range = "positive"
    mean_range = "means of logarithms, the sum of whose exponentials is below 1"

    @abstractmethod
    def _proportions(self, logarithms: Tensor) -> Tensor:
        """The event of which these are the statistics."""

    def _log_base_measure(self, x: Tensor) -> Tensor:
        return -self._statistics(x).sum(-1)

    def _mean_log_base_measure(self, eta: Tensor, mu: Tensor) -> Tensor:
        return -mu.sum(-1)

    def _log_partition(self, eta: Tensor) -> Tensor:
        return in_double(lambda eta: log_gamma(eta).sum(-1) - log_gamma(eta.sum(-1)), eta)

    def _mean(self, eta: Tensor) -> Tensor:
        return in_double(self._mean_logarithms, eta)

    def _mean_logarithms(self, eta: Tensor) -> Tensor:
        # The sum of the others, not the sum of all less one: it may be smaller than the rounding of that one.
        nothing = torch.zeros_like(eta[..., :1])
        before = torch.cat([nothing, eta[..., :-1]], -1).cumsum(-1)
        after = torch.cat([eta[..., 1:], nothing], -1).flip(-1).cumsum(-1).flip(-1)
        return -digamma_difference(eta, before + after)

    def _fisher(self, eta: Tensor) -> Tensor:
        return torch.diag_embed(trigamma(eta)) - trigamma(eta.sum(-1))[..., None, None]

    def _newton_start(self, mu: Tensor) -> Tensor:
        # E log x_i is about log m_i - (1 - m_i) / (2 S m_i) for a large sum S of the concentrations.
        slack = -torch.expm1(torch.logsumexp(mu, -1, keepdim=True))
        total = (mu.shape[-1] - 1) / (2.0 * slack)
        return inverse_digamma_start(mu + digamma(total))

    def _log_prob(self, x: Tensor, eta: Tensor) -> Tensor:
        return in_double(self._log_density, x, eta)

    def _log_density(self, x: Tensor, eta: Tensor) -> Tensor:
        return (self._statistics(x) * (eta - 1.0)).sum(-1) - self._log_partition(eta)

    def _sample(self, eta: Tensor, noise: Noise) -> Tensor:
        limits = torch.finfo(eta.dtype)
        proportions = self._proportions(torch.log_softmax(noise.log_gamma_variate(eta), -1))
        return proportions.clamp(limits.tiny, 1.0 - 0.5 * limits.eps)

    def _natural_domain(self, eta: Tensor) -> Tensor:
        return ((eta > 0.0) & eta.isfinite()).all(-1)

    def _mean_domain(self, mu: Tensor) -> Tensor:
        return mu.isfinite().all(-1) & (torch.logsumexp(mu, -1) < 0.0)

    def _any_natural(self, like: Tensor) -> Tensor:
        return torch.ones_like(like)


@dataclass(frozen=True)
class Dirichlet(LogProportions):
    """x in the simplex of K positive numbers with the sum 1, A = sum log Gamma(eta) - log Gamma(sum eta); minimal.

    mu = E log x = digamma(eta) - digamma(sum eta). Natural parameters are found by Newton's method (Minka 2000,
    "Estimating a Dirichlet distribution"). The conjugate prior has no closed normaliser.

    Parameters
    ----------
    size
        K, at least 2.

    Examples
    --------
    >>> family = Dirichlet(3)
    >>> family.natural_parameters(family.mean_parameters(torch.tensor([1.0, 2.0, 3.0])))
    tensor([1., 2., 3.])
    """

    support = "positive, with the sum 1"
    event_dim = 1

    size: int = option("number of proportions", at_least=2)

    @property
    def num_statistics(self) -> int:
        """K."""
        return self.size

    @property
    def event_shape(self) -> tuple[int, ...]:
        """(K,)."""
        return (self.size,)

    def _statistics(self, x: Tensor) -> Tensor:
        return x.log()

    def _proportions(self, logarithms: Tensor) -> Tensor:
        return logarithms.exp()

    def _support(self, x: Tensor) -> Tensor:
        rounding = 8.0 * self.size * torch.finfo(x.dtype).eps
        return (x > 0.0).all(-1) & ((x.sum(-1) - 1.0).abs() <= rounding)

    def to_distribution(self, eta: Tensor) -> Distribution:
        """``torch.distributions.Dirichlet``."""
        return TorchDirichlet(self._natural_values("eta", eta))

    def from_distribution(self, distribution: Distribution) -> Tensor:
        """From ``torch.distributions.Dirichlet``."""
        return self._natural_values("concentration", self._expect(distribution, TorchDirichlet).concentration)
