"""The categorical distribution: T(x) = the one-hot vector of x, eta = unnormalised log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Dirichlet as TorchDirichlet
from torch.distributions import Distribution

from fastvi._options import option
from fastvi.expfam._noise import Noise
from fastvi.expfam._special import log_gamma, minus_x_log_x
from fastvi.expfam.base import ExponentialFamily


@dataclass(frozen=True)
class Categorical(ExponentialFamily):
    """x in {0, ..., K - 1}, log p(x) = eta_x - log sum_k e^eta_k; overcomplete.

    mu = the probabilities, h = 1. A constant added to eta changes nothing; ``natural_parameters`` gives the one with
    A = 0, log mu. The Fisher information is singular. The conjugate prior, with nu = sum(chi), is Dirichlet(chi) of mu.
    x may be a tensor of any integer or floating-point dtype.

    Parameters
    ----------
    categories
        K, at least 2.

    Examples
    --------
    >>> Categorical(3).mean_parameters(torch.zeros(3))
    tensor([0.3333, 0.3333, 0.3333])
    """

    minimal = False
    mean_range = "positive, with the sum 1"
    support = "a whole number from 0 to the number of categories - 1"

    categories: int = option("number of categories", at_least=2)

    @property
    def num_statistics(self) -> int:
        """K."""
        return self.categories

    def _statistics(self, x: Tensor) -> Tensor:
        return (x.unsqueeze(-1) == torch.arange(self.categories, device=x.device)).to(x.dtype)

    def _log_partition(self, eta: Tensor) -> Tensor:
        return torch.logsumexp(eta, -1)

    def _mean(self, eta: Tensor) -> Tensor:
        return torch.softmax(eta, -1)

    def _fisher(self, eta: Tensor) -> Tensor:
        mean = self._mean(eta)
        return torch.diag_embed(mean) - mean.unsqueeze(-1) * mean.unsqueeze(-2)

    def _natural(self, mu: Tensor) -> Tensor:
        return mu.log()

    def _conjugate(self, mu: Tensor) -> Tensor:
        return -minus_x_log_x(mu).sum(-1)

    def _log_prob(self, x: Tensor, eta: Tensor) -> Tensor:
        log_probabilities = torch.log_softmax(eta, -1)
        batch = torch.broadcast_shapes(x.shape, eta.shape[:-1])
        index = x.detach().to(torch.int64).expand(batch).unsqueeze(-1)
        return log_probabilities.expand(*batch, -1).gather(-1, index).squeeze(-1)

    def _sample(self, eta: Tensor, noise: Noise) -> Tensor:
        return noise.choices(eta)

    def _mean_domain(self, mu: Tensor) -> Tensor:
        return (mu > 0.0).all(-1) & _sums_to_one(mu)

    def _conjugate_domain(self, mu: Tensor) -> Tensor:
        return (mu >= 0.0).all(-1) & _sums_to_one(mu)

    def _support(self, x: Tensor) -> Tensor:
        return (x >= 0.0) & (x < self.categories) & (x == x.floor())

    def _log_prior_normaliser(self, chi: Tensor, nu: Tensor) -> Tensor:
        return log_gamma(chi).sum(-1) - log_gamma(chi.sum(-1))

    def _prior_distribution(self, chi: Tensor, nu: Tensor) -> Distribution:
        return TorchDirichlet(chi)

    def to_distribution(self, eta: Tensor) -> Distribution:
        """``torch.distributions.Categorical``."""
        return TorchCategorical(logits=self._natural_values("eta", eta))

    def from_distribution(self, distribution: Distribution) -> Tensor:
        """From ``torch.distributions.Categorical``."""
        return self._natural_values("logits", self._expect(distribution, TorchCategorical).logits)


def _sums_to_one(mu: Tensor) -> Tensor:
    rounding = 8.0 * mu.shape[-1] * torch.finfo(mu.dtype).eps
    return (mu.sum(-1) - 1.0).abs() <= rounding
