"""The Bernoulli distribution of one bit: T(x) = x, eta = log-odds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Beta, Distribution

from fastvi.expfam._noise import Noise
from fastvi.expfam._special import log_gamma, minus_x_log_x, softplus
from fastvi.expfam.base import ExponentialFamily


@dataclass(frozen=True)
class Bernoulli(ExponentialFamily):
    """x in {0, 1}, p(x) = exp(eta x - log(1 + e^eta)); minimal.

    mu = P(x = 1), h = 1. The conjugate prior is Beta(chi, nu - chi) of mu.

    Examples
    --------
    >>> Bernoulli().mean_parameters(torch.tensor([0.0]))
    tensor([0.5000])
    """

    mean_range = "in (0, 1)"
    support = "0 or 1"

    @property
    def num_statistics(self) -> int:
        """1."""
        return 1

    def _statistics(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-1)

    def _log_partition(self, eta: Tensor) -> Tensor:
        return softplus(eta).squeeze(-1)

    def _mean(self, eta: Tensor) -> Tensor:
        return torch.sigmoid(eta)

    def _fisher(self, eta: Tensor) -> Tensor:
        return (torch.sigmoid(eta) * torch.sigmoid(-eta)).unsqueeze(-1)

    def _natural(self, mu: Tensor) -> Tensor:
        return mu.log() - (-mu).log1p()

    def _conjugate(self, mu: Tensor) -> Tensor:
        return -(minus_x_log_x(mu) + minus_x_log_x(1.0 - mu)).squeeze(-1)

    def _sample(self, eta: Tensor, noise: Noise) -> Tensor:
        return (noise.uniform(0) < torch.sigmoid(eta.squeeze(-1))).to(eta.dtype)

    def _mean_domain(self, mu: Tensor) -> Tensor:
        return ((mu > 0.0) & (mu < 1.0)).all(-1)

    def _conjugate_domain(self, mu: Tensor) -> Tensor:
        return ((mu >= 0.0) & (mu <= 1.0)).all(-1)

    def _support(self, x: Tensor) -> Tensor:
        return (x == 0.0) | (x == 1.0)

    def _log_prior_normaliser(self, chi: Tensor, nu: Tensor) -> Tensor:
        chi = chi.squeeze(-1)
        return log_gamma(chi) + log_gamma(nu - chi) - log_gamma(nu)

    def _prior_distribution(self, chi: Tensor, nu: Tensor) -> Distribution:
        return Beta(chi.squeeze(-1), nu - chi.squeeze(-1))

    def to_distribution(self, eta: Tensor) -> Distribution:
        """``torch.distributions.Bernoulli``."""
        return TorchBernoulli(logits=self._natural_values("eta", eta).squeeze(-1))

    def from_distribution(self, distribution: Distribution) -> Tensor:
        """From ``torch.distributions.Bernoulli``."""
        logits: Tensor = self._expect(distribution, TorchBernoulli).logits
        return logits.unsqueeze(-1)
