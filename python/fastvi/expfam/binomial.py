"""The binomial distribution: T(x) = x, eta = log-odds of one trial."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Beta, Distribution
from torch.distributions import Binomial as TorchBinomial

from fastvi._options import option
from fastvi.expfam._noise import Noise
from fastvi.expfam._special import log_gamma, minus_x_log_x, softplus
from fastvi.expfam.base import ExponentialFamily


@dataclass(frozen=True)
class Binomial(ExponentialFamily):
    """x successes in N trials, p(x) = C(N, x) exp(eta x - N log(1 + e^eta)); minimal.

    mu = N P(success), h = C(N, x). The conjugate prior is Beta(chi, N nu - chi) of P(success). The entropy and samples
    are made of all N + 1 probabilities.

    Parameters
    ----------
    trials
        N, at least 1.

    Examples
    --------
    >>> Binomial(10).mean_parameters(torch.tensor([0.0]))
    tensor([5.])
    """

    mean_range = "above 0 and below the number of trials"
    support = "a whole number from 0 to the number of trials"

    trials: int = option("number of trials", at_least=1)

    @property
    def num_statistics(self) -> int:
        """1."""
        return 1

    def _statistics(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-1)

    def _log_base_measure(self, x: Tensor) -> Tensor:
        count = torch.full((), self.trials + 1.0, dtype=x.dtype, device=x.device)
        return torch.lgamma(count) - torch.lgamma(x + 1.0) - torch.lgamma(count - x)

    def _log_partition(self, eta: Tensor) -> Tensor:
        return self.trials * softplus(eta).squeeze(-1)

    def _mean(self, eta: Tensor) -> Tensor:
        return self.trials * torch.sigmoid(eta)

    def _fisher(self, eta: Tensor) -> Tensor:
        return (self.trials * torch.sigmoid(eta) * torch.sigmoid(-eta)).unsqueeze(-1)

    def _natural(self, mu: Tensor) -> Tensor:
        return mu.log() - (self.trials - mu).log()

    def _conjugate(self, mu: Tensor) -> Tensor:
        share = mu / self.trials
        return -self.trials * (minus_x_log_x(share) + minus_x_log_x(1.0 - share)).squeeze(-1)

    def _mean_log_base_measure(self, eta: Tensor, mu: Tensor) -> Tensor:
        values = torch.arange(self.trials + 1, dtype=eta.dtype, device=eta.device)
        return (self._log_prob(values, eta.unsqueeze(-2)).exp() * self._log_base_measure(values)).sum(-1)

    def _sample(self, eta: Tensor, noise: Noise) -> Tensor:
        values = torch.arange(self.trials + 1, dtype=torch.float64, device=eta.device)
        return noise.choices(self._log_prob(values, eta.double().unsqueeze(-2))).to(eta.dtype)

    def _mean_domain(self, mu: Tensor) -> Tensor:
        return ((mu > 0.0) & (mu < self.trials)).all(-1)

    def _conjugate_domain(self, mu: Tensor) -> Tensor:
        return ((mu >= 0.0) & (mu <= self.trials)).all(-1)

    def _support(self, x: Tensor) -> Tensor:
        return (x >= 0.0) & (x <= self.trials) & (x == x.floor())

    def _log_prior_normaliser(self, chi: Tensor, nu: Tensor) -> Tensor:
        chi, total = chi.squeeze(-1), self.trials * nu
        return log_gamma(chi) + log_gamma(total - chi) - log_gamma(total)

    def _prior_distribution(self, chi: Tensor, nu: Tensor) -> Distribution:
        return Beta(chi.squeeze(-1), self.trials * nu - chi.squeeze(-1))

    def to_distribution(self, eta: Tensor) -> Distribution:
        """``torch.distributions.Binomial``."""
        return TorchBinomial(self.trials, logits=self._natural_values("eta", eta).squeeze(-1))

    def from_distribution(self, distribution: Distribution) -> Tensor:
        """From ``torch.distributions.Binomial`` with this number of trials."""
        binomial = self._expect(distribution, TorchBinomial)
        if not bool((binomial.total_count == self.trials).all()):
            raise ValueError(f"{self._name}: distribution must have {self.trials} trials in all of its batch")
        logits: Tensor = binomial.logits
        return logits.unsqueeze(-1)
