"""The Gaussian distribution of a vector with any covariance: T(x) = x and the products x_i x_j, i >= j."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions import MultivariateNormal as TorchMultivariateNormal

from fastvi._options import option
from fastvi.expfam._checks import check_vector
from fastvi.expfam._noise import Noise
from fastvi.expfam._special import log_gamma
from fastvi.expfam.base import ExponentialFamily
from fastvi.expfam.formulas import not_below_zero

_LOG_TWO_PI = math.log(2.0 * math.pi)


@dataclass(frozen=True)
class MultivariateGaussian(ExponentialFamily):
    """x in R^D with mean m and precision matrix P: A = m' P m / 2 - log det(P) / 2 + D log(2 pi) / 2; minimal.

    T(x) = (x, x_i x_j for i >= j, row by row), D + D (D + 1) / 2 numbers, and eta = (P m, -P_ii / 2 and -P_ij); h = 1.
    :meth:`natural_from_precision` and :meth:`mean_from_covariance` put matrices together, :meth:`mean_and_precision`
    takes them apart. The conjugate prior is normal-Wishart: P is Wishart with nu + D + 2 degrees of freedom and the
    inverse scale S - s s' / nu, for chi = (s, S), and given P the mean is N(s / nu, (nu P)^-1).

    Parameters
    ----------
    size
        D, at least 1.

    Examples
    --------
    >>> family = MultivariateGaussian(2)
    >>> covariance = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    >>> eta = family.natural_parameters(family.mean_from_covariance(torch.zeros(2), covariance))
    >>> eta
    tensor([ 0.0000,  0.0000, -0.3333,  0.3333, -0.3333])
    >>> family.mean_and_precision(eta)[1]
    tensor([[ 0.6667, -0.3333],
            [-0.3333,  0.6667]])
    """

    natural_range = "those of a positive definite precision matrix"
    mean_range = "the means of x and of its products, with a positive definite covariance"
    event_dim = 1

    size: int = option("number of dimensions", at_least=1)

    @property
    def num_statistics(self) -> int:
        """D + D (D + 1) / 2."""
        return self.size + self.size * (self.size + 1) // 2

    @property
    def event_shape(self) -> tuple[int, ...]:
        """(D,)."""
        return (self.size,)

    # Matrices

    def mean_and_precision(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        """Mean, (..., D), and precision matrix, (..., D, D), of natural parameters."""
        eta = self._natural_values("eta", eta)
        return self._location(eta, self._factor(eta)), self._precision(eta)

    def natural_from_precision(self, mean: Tensor, precision: Tensor) -> Tensor:
        """Natural parameters of a mean, (..., D), and a precision matrix, (..., D, D), whose lower part is read."""
        mean = check_vector(self._name, "mean", mean, self.size)
        linear = (precision.tril() + precision.tril(-1).mT) @ mean.unsqueeze(-1)
        rows, columns, diagonal = self._lower(precision)
        packed = -precision[..., rows, columns]
        packed = torch.where(diagonal, 0.5 * packed, packed)
        batch = torch.broadcast_shapes(linear.shape[:-2], packed.shape[:-1])
        return torch.cat([linear.squeeze(-1).expand(*batch, -1), packed.expand(*batch, -1)], -1)

    def mean_from_covariance(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """Mean parameters of a mean, (..., D), and a covariance matrix, (..., D, D), whose lower part is read."""
        mean = check_vector(self._name, "mean", mean, self.size)
        rows, columns, _ = self._lower(covariance)
        products = covariance[..., rows, columns] + mean[..., rows] * mean[..., columns]
        return torch.cat([mean.expand(*products.shape[:-1], -1), products], -1)

    def _lower(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, columns = torch.tril_indices(self.size, self.size, device=like.device)
        return rows, columns, rows == columns

    def _symmetric(self, packed: Tensor) -> Tensor:
        """The matrix whose lower part these are, row by row."""
        rows, columns, _ = self._lower(packed)
        place = torch.zeros((self.size, self.size), dtype=torch.int64, device=packed.device)
        place[rows, columns] = place[columns, rows] = torch.arange(len(rows), device=packed.device)
        return packed[..., place]

    def _precision(self, eta: Tensor) -> Tensor:
        _, _, diagonal = self._lower(eta)
        packed = eta[..., self.size :]
        return -self._symmetric(torch.where(diagonal, 2.0 * packed, packed))

    def _factor(self, eta: Tensor) -> Tensor:
        """Cholesky factor of the precision; NaN where there is none."""
        factor, info = torch.linalg.cholesky_ex(self._precision(eta))
        return torch.where((info == 0)[..., None, None], factor, torch.nan)

    def _location(self, eta: Tensor, factor: Tensor) -> Tensor:
        return torch.cholesky_solve(eta[..., : self.size].unsqueeze(-1), factor).squeeze(-1)

    # The family

    def _statistics(self, x: Tensor) -> Tensor:
        rows, columns, _ = self._lower(x)
        return torch.cat([x, x[..., rows] * x[..., columns]], -1)

    def _log_partition(self, eta: Tensor) -> Tensor:
        factor = self._factor(eta)
        quadratic = (eta[..., : self.size] * self._location(eta, factor)).sum(-1)
        return 0.5 * (quadratic + self.size * _LOG_TWO_PI) - _half_log_det(factor)

    def _mean(self, eta: Tensor) -> Tensor:
        factor = self._factor(eta)
        return self.mean_from_covariance(self._location(eta, factor), torch.cholesky_inverse(factor))

    def _fisher(self, eta: Tensor) -> Tensor:
        factor = self._factor(eta)
        mean, covariance = self._location(eta, factor), torch.cholesky_inverse(factor)
        i, j, _ = self._lower(eta)

        def pick(first: Tensor, second: Tensor) -> Tensor:
            return covariance[..., first[:, None], second[None, :]]

        every = torch.arange(self.size, device=eta.device)
        m_i, m_j = mean[..., None, i], mean[..., None, j]
        mixed = m_i * pick(every, j) + m_j * pick(every, i)  # cov(x_k, x_i x_j)
        square = pick(i, i) * pick(j, j) + pick(i, j) * pick(j, i)
        square = square + m_i.mT * m_i * pick(j, j) + m_i.mT * m_j * pick(j, i)
        square = square + m_j.mT * m_i * pick(i, j) + m_j.mT * m_j * pick(i, i)
        return torch.cat([torch.cat([covariance, mixed], -1), torch.cat([mixed.mT, square], -1)], -2)

    def _natural(self, mu: Tensor) -> Tensor:
        factor = torch.linalg.cholesky(self._covariance(mu))
        return self.natural_from_precision(mu[..., : self.size], torch.cholesky_inverse(factor))

    def _covariance(self, mu: Tensor) -> Tensor:
        mean = mu[..., : self.size]
        return self._symmetric(mu[..., self.size :]) - mean.unsqueeze(-1) * mean.unsqueeze(-2)

    def _conjugate(self, mu: Tensor) -> Tensor:
        return -_half_log_det(torch.linalg.cholesky(self._covariance(mu))) - 0.5 * self.size * (_LOG_TWO_PI + 1.0)

    def _entropy(self, eta: Tensor) -> Tensor:
        return 0.5 * self.size * (_LOG_TWO_PI + 1.0) - _half_log_det(self._factor(eta))

    def _kl(self, eta: Tensor, other: Tensor) -> Tensor:
        factor, second = self._factor(eta), self._factor(other)
        shift = second.mT @ (self._location(other, second) - self._location(eta, factor)).unsqueeze(-1)
        # With the factors L of eta and M of other, the trace is the squared norm of L^-1 M.
        batch = torch.broadcast_shapes(factor.shape[:-2], second.shape[:-2])
        factor, second = (each.expand(*batch, -1, -1) for each in (factor, second))
        ratio = torch.linalg.solve_triangular(factor, second, upper=False)
        log_ratio = _half_log_det(factor) - _half_log_det(second)
        squares = ratio.square().sum((-2, -1)) + shift.square().sum((-2, -1))
        return not_below_zero(0.5 * (squares - self.size) + log_ratio)

    def _log_prob(self, x: Tensor, eta: Tensor) -> Tensor:
        factor = self._factor(eta)
        difference = x - self._location(eta, factor)
        # The axes that x has before those of eta are the rows of one product: no factor is copied for each of them.
        before = difference.shape[: max(x.dim() - eta.dim(), 0)]
        rows = difference.reshape(math.prod(before), *difference.shape[len(before) :]).movedim(0, -2)
        squares = (rows @ factor).square().sum(-1).movedim(-1, 0)
        squares = squares.reshape(difference.shape[:-1])
        return _half_log_det(factor) - 0.5 * (squares + self.size * _LOG_TWO_PI)

    def _moments(self, x: Tensor, weights: Tensor | None) -> Tensor:
        # One matrix product; the statistics of all rows are never made.
        weighted = x / len(x) if weights is None else weights.unsqueeze(-1) * x
        rows, columns, _ = self._lower(x)
        products = torch.einsum("n...i,n...j->...ij", weighted, x)
        return torch.cat([weighted.sum(0), products[..., rows, columns]], -1)

    def _sample(self, eta: Tensor, noise: Noise) -> Tensor:
        factor = self._factor(eta.double())
        # All samples of a distribution in one solution.
        count, batch = math.prod(noise.sample_shape), noise.batch_shape
        normal = noise.normal(0, self.size).reshape(count, *batch, self.size).movedim(0, -1)
        scaled: Tensor = torch.linalg.solve_triangular(factor.mT, normal, upper=True)
        drawn = self._location(eta.double(), factor) + scaled.movedim(-1, 0)
        return drawn.reshape(*noise.shape, self.size)

    def _natural_domain(self, eta: Tensor) -> Tensor:
        return eta.isfinite().all(-1) & _positive_definite(self._precision(eta))

    def _mean_domain(self, mu: Tensor) -> Tensor:
        return mu.isfinite().all(-1) & _positive_definite(self._covariance(mu))

    def _any_natural(self, like: Tensor) -> Tensor:
        identity = torch.eye(self.size, dtype=like.dtype, device=like.device)
        return self.natural_from_precision(torch.zeros_like(like[..., : self.size]), identity)

    def _log_prior_normaliser(self, chi: Tensor, nu: Tensor) -> Tensor:
        size, degrees = self.size, nu + self.size + 2.0
        total = chi[..., :size]
        scale = self._symmetric(chi[..., size:]) - total.unsqueeze(-1) * total.unsqueeze(-2) / nu[..., None, None]
        half_log_det = _half_log_det(torch.linalg.cholesky(scale))
        lower = 0.5 * torch.arange(size, dtype=chi.dtype, device=chi.device)
        gammas = log_gamma(0.5 * degrees.unsqueeze(-1) - lower).sum(-1) + 0.25 * size * (size - 1) * math.log(math.pi)
        wishart = 0.5 * degrees * size * math.log(2.0) - degrees * half_log_det + gammas
        return wishart + 0.5 * size * ((1.0 - nu) * _LOG_TWO_PI - nu.log()) - size * math.log(2.0)

    def to_distribution(self, eta: Tensor) -> Distribution:
        """``torch.distributions.MultivariateNormal``."""
        mean, precision = self.mean_and_precision(eta)
        return TorchMultivariateNormal(mean, precision_matrix=precision)

    def from_distribution(self, distribution: Distribution) -> Tensor:
        """From ``torch.distributions.MultivariateNormal``."""
        normal = self._expect(distribution, TorchMultivariateNormal)
        return self.natural_from_precision(normal.loc, normal.precision_matrix)


def _half_log_det(factor: Tensor) -> Tensor:
    """Half of the log-determinant of the matrix that has this Cholesky factor."""
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _positive_definite(matrix: Tensor) -> Tensor:
    info: Tensor = torch.linalg.cholesky_ex(matrix)[1]
    return info == 0
