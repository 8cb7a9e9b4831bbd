"""What a family gives, and what is made of that where it gives no formula of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from fastvi._options import check_options
from fastvi.expfam._noise import Noise
from fastvi.expfam._special import in_double
from fastvi.expfam.newton import differentiable_natural, natural_by_newton


class Formulas(ABC):
    """The formulas of a family, for arguments that were checked; see :class:`fastvi.expfam.ExponentialFamily`."""

    minimal: ClassVar[bool] = True
    natural_range: ClassVar[str] = "finite"
    mean_range: ClassVar[str] = "finite"
    support: ClassVar[str] = "finite"
    event_dim: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_options(self)

    @property
    @abstractmethod
    def num_statistics(self) -> int:
        """The length n of T(x), of eta and of mu."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one x."""
        return ()

    @abstractmethod
    def _statistics(self, x: Tensor) -> Tensor:
        """T(x), (..., n)."""

    @abstractmethod
    def _log_partition(self, eta: Tensor) -> Tensor:
        """A(eta)."""

    def _log_base_measure(self, x: Tensor) -> Tensor:
        """The log base measure log h(x)."""
        return x.new_zeros(x.shape[: x.dim() - self.event_dim])

    def _mean_log_base_measure(self, eta: Tensor, mu: Tensor) -> Tensor:
        """E[log h(x)]."""
        if type(self)._log_base_measure is not Formulas._log_base_measure:
            raise NotImplementedError(
                f"{type(self).__name__}: the entropy needs E[log h(x)], which a method _mean_log_base_measure gives"
            )
        return eta.new_zeros(eta.shape[:-1])

    def _mean(self, eta: Tensor) -> Tensor:
        """Grad A."""
        gradient: Tensor = torch.func.grad(lambda place: self._log_partition(place).sum())(eta)
        return gradient

    def _fisher(self, eta: Tensor) -> Tensor:
        """The Hessian of A."""
        batch = tuple(range(eta.dim() - 1))
        rows: Tensor = torch.func.jacrev(lambda place: self._mean(place).sum(batch) if batch else self._mean(place))(
            eta
        )
        return rows.movedim(0, -2)

    def _natural(self, mu: Tensor) -> Tensor:
        """The inverse of `_mean`; by Newton's method where the family has no closed form."""
        return differentiable_natural(mu, self)

    def _solve(self, mu: Tensor) -> Tensor:
        """The inverse of `_mean` in float64, without derivatives, for `_natural` of this class."""
        return natural_by_newton(self, mu)

    def _newton_start(self, mu: Tensor) -> Tensor:
        """Natural parameters to begin with."""
        return torch.zeros_like(mu)

    def _conjugate(self, mu: Tensor) -> Tensor:
        """A*(mu), also on the part of the boundary that `_conjugate_domain` has."""
        eta = self._natural(mu)
        return (eta * mu).sum(-1) - self._log_partition(eta)

    def _entropy(self, eta: Tensor) -> Tensor:
        return in_double(self._entropy_by_parts, eta)

    def _entropy_by_parts(self, eta: Tensor) -> Tensor:
        mu = self._mean(eta)
        return self._log_partition(eta) - (eta * mu).sum(-1) - self._mean_log_base_measure(eta, mu)

    def _kl(self, eta: Tensor, other: Tensor) -> Tensor:
        def bregman(eta: Tensor, other: Tensor) -> Tensor:
            return self._log_partition(other) - self._log_partition(eta) - ((other - eta) * self._mean(eta)).sum(-1)

        return not_below_zero(in_double(bregman, eta, other))

    def _log_prob(self, x: Tensor, eta: Tensor) -> Tensor:
        return (self._statistics(x) * eta).sum(-1) - self._log_partition(eta) + self._log_base_measure(x)

    def _moments(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """Means of T over the first axis; weights (N, ...) whose sum over it is 1."""
        statistics = self._statistics(x)
        return statistics.mean(0) if weights is None else (weights.unsqueeze(-1) * statistics).sum(0)

    def _sample(self, eta: Tensor, noise: Noise) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} draws no samples: it has no method _sample")

    def _natural_domain(self, eta: Tensor) -> Tensor:
        """Whether natural parameters are those of a distribution, (...)."""
        return torch.isfinite(eta).all(-1)

    def _any_natural(self, like: Tensor) -> Tensor:
        """Natural parameters of some distribution, in the shape of ``like``."""
        return torch.zeros_like(like)

    def _mean_domain(self, mu: Tensor) -> Tensor:
        """Whether mean parameters are in the interior of what is attainable, (...)."""
        return torch.isfinite(mu).all(-1)

    def _conjugate_domain(self, mu: Tensor) -> Tensor:
        """Where `_conjugate` gives A*; it is infinite elsewhere."""
        return self._mean_domain(mu)

    def _support(self, x: Tensor) -> Tensor:
        """Whether each event can occur."""
        return torch.isfinite(x) if self.event_dim == 0 else torch.isfinite(x).flatten(-self.event_dim).all(-1)

    def _log_prior_normaliser(self, chi: Tensor, nu: Tensor) -> Tensor:
        """The logarithm of the integral of exp(<eta, chi> - nu A(eta)) over eta."""
        raise NotImplementedError(
            f"{type(self).__name__}: the normaliser of the conjugate prior has no closed form here; "
            "posterior, mean and mode need none"
        )

    def _prior_distribution(self, chi: Tensor, nu: Tensor) -> Distribution:
        raise NotImplementedError(f"{type(self).__name__}: PyTorch has no distribution that is the conjugate prior")


def not_below_zero(value: Tensor) -> Tensor:
    """What is never negative but for rounding, without that: the derivatives stay those of ``value``."""
    return value + (-value).clamp_min(0.0).detach()
