"""The binomial distribution: T(x) = x, eta = log-odds of one trial."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Beta, Distribution
from torch.distributions import Binomial as TorchBinomial

from fastvi._options import option
from fastvi.expfam._noise import Noise
from fastvi.expfam._special import in_double, log_gamma, minus_x_log_x, relative_excess, softplus, stirling_remainder
from fastvi.expfam.base import ExponentialFamily

MAX_TABLE = 10**7
"""Trials up to which there are an entropy and samples: about ten seconds, and two gigabytes."""


@dataclass(frozen=True)
class Binomial(ExponentialFamily):
    """x successes in N trials, p(x) = C(N, x) exp(eta x - N log(1 + e^eta)); minimal.

    mu = N P(success), h = C(N, x). The conjugate prior is Beta(chi, N nu - chi) of P(success). The entropy and samples
    are made of all N + 1 probabilities, in float64, and are refused for more than 10,000,000 trials.

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
        def logarithm(x: Tensor) -> Tensor:
            share, rest, log_share, log_rest, inner = self._shares(x)
            found = self._log_peak(share, rest) - self.trials * (share * log_share + rest * log_rest)
            return torch.where(inner, found, 0.0)

        return in_double(logarithm, x)

    def _shares(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Give x / N, 1 - x / N, their logarithms, and whether x is neither 0 nor N; a half where it is."""
        inner = (x > 0.0) & (x < self.trials)
        successes = torch.where(inner, x, 0.5 * self.trials)
        share, rest = successes / self.trials, (self.trials - successes) / self.trials
        log_share = torch.where(share < 0.5, share.log(), (-rest).log1p())
        log_rest = torch.where(rest < 0.5, rest.log(), (-share).log1p())
        return share, rest, log_share, log_rest, inner

    def _log_peak(self, share: Tensor, rest: Tensor) -> Tensor:
        """The log-probability of x where the probability of success is x / N (Loader 2000)."""
        trials = torch.full_like(share, self.trials)
        remainders = stirling_remainder(trials * share) + stirling_remainder(trials * rest) - stirling_remainder(trials)
        return -0.5 * (2.0 * math.pi * self.trials * share * rest).log() - remainders

    def _log_prob(self, x: Tensor, eta: Tensor) -> Tensor:
        return in_double(self._log_probability, x, eta)

    def _log_probability(self, x: Tensor, eta: Tensor) -> Tensor:
        eta = eta.squeeze(-1)
        share, rest, log_share, log_rest, inner = self._shares(x)
        success, failure = torch.sigmoid(eta), torch.sigmoid(-eta)
        # N times the divergence of (share, rest) from (success, failure): by their difference where that is small.
        difference = torch.where(eta > 0.0, failure - rest, share - success)
        near = difference.abs() < 0.5 * torch.minimum(success, failure)
        difference = torch.where(near, difference, 0.0)
        p, q = torch.where(near, success, 0.5), torch.where(near, failure, 0.5)
        by_difference = p * relative_excess(difference / p) + q * relative_excess(-difference / q)
        by_logarithms = share * (log_share + softplus(-eta)) + rest * (log_rest + softplus(eta))
        inside = self._log_peak(share, rest) - self.trials * torch.where(near, by_difference, by_logarithms)
        at_end = -(x * softplus(-eta) + (self.trials - x) * softplus(eta))
        return torch.where(inner, inside, at_end)

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

    def _table(self, what: str, eta: Tensor) -> Tensor:
        """The log-probabilities of all x, float64."""
        if self.trials > MAX_TABLE:
            raise ValueError(
                f"{self._name}: {what} is made of the probabilities of all x and has at most {MAX_TABLE} trials, "
                f"got {self.trials}"
            )
        values = torch.arange(self.trials + 1, dtype=torch.float64, device=eta.device)
        return self._log_probability(values, eta.double().unsqueeze(-2))

    def _entropy(self, eta: Tensor) -> Tensor:
        # Not A - eta mu - E[log h]: h has logarithms of the size N, of which the error is what is left.
        log_prob = self._table("entropy", eta)
        return -(log_prob.exp() * log_prob).sum(-1).to(eta.dtype)

    def _sample(self, eta: Tensor, noise: Noise) -> Tensor:
        return noise.choices(self._table("sample", eta)).to(eta.dtype)

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
