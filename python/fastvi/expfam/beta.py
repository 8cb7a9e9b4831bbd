"""The beta distribution: T(x) = (log x, log(1 - x)), eta = its two concentrations, h(x) = 1 / (x (1 - x))."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Beta as TorchBeta
from torch.distributions import Distribution

from fastvi.expfam.dirichlet import LogProportions


@dataclass(frozen=True)
class Beta(LogProportions):
    """x in (0, 1), A = log B(eta_1, eta_2); minimal.

    mu = (E log x, E log(1 - x)). The Dirichlet distribution of two proportions, of which x is the first. The conjugate
    prior has no closed normaliser.

    Examples
    --------
    >>> Beta().mean_parameters(torch.tensor([1.0, 1.0]))  # uniform
    tensor([-1., -1.])
    """

    support = "in (0, 1)"

    @property
    def num_statistics(self) -> int:
        """2."""
        return 2

    def _statistics(self, x: Tensor) -> Tensor:
        return torch.stack([x.log(), (-x).log1p()], -1)

    def _proportions(self, logarithms: Tensor) -> Tensor:
        return logarithms[..., 0].exp()

    def _support(self, x: Tensor) -> Tensor:
        return (x > 0.0) & (x < 1.0)

    def to_distribution(self, eta: Tensor) -> Distribution:
        """``torch.distributions.Beta``."""
        eta = self._natural_values("eta", eta)
        return TorchBeta(eta[..., 0], eta[..., 1])

    def from_distribution(self, distribution: Distribution) -> Tensor:
        """From ``torch.distributions.Beta``."""
        beta = self._expect(distribution, TorchBeta)
        return torch.stack([beta.concentration1, beta.concentration0], -1)
