"""The Bayesian Gaussian mixture (Bishop 2006, "Pattern Recognition and Machine Learning", section 10.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.cluster import KMeans
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from fastvi._estimators import check_choice, check_integers
from fastvi.mean_field._data import (
    check_concentrations,
    check_positive,
    check_tolerance,
    read_rows,
    read_tensor,
    warn_not_converged,
)

STARTS = ("kmeans", "random")

_NAME = "BayesianGaussianMixture"
_FAR = 2.0**200
"""Rows with larger numbers are taken in units of their own."""


@dataclass(frozen=True)
class _Components:
    """Dirichlet and Gaussian-Wishart factors of K components; a prior is those of K components that are alike.

    q(pi) = Dirichlet(concentration), (K,); q(mu_k, Lambda_k) = N(mean_k, 1 / (scale_k Lambda_k)) W(W_k, degrees_k) with
    inverse_k = W_k^-1, (K, D, D).
    """

    concentration: Tensor
    scale: Tensor
    mean: Tensor
    degrees: Tensor
    inverse: Tensor

    @property
    def root(self) -> Tensor:
        """Cholesky factors L of W^-1 = L L'."""
        root: Tensor = torch.linalg.cholesky(self.inverse)
        return root

    def log_normaliser(self) -> Tensor:
        """The logarithm of the normalisers of all factors, in sum: of Dirichlet, Gaussians and Wisharts."""
        size = self.mean.shape[1]
        log_determinant = 2.0 * self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        of_gaussians = 0.5 * size * (2.0 * math.pi / self.scale).log()
        of_wisharts = 0.5 * self.degrees * (size * math.log(2.0) - log_determinant)
        of_wisharts = of_wisharts + torch.special.multigammaln(0.5 * self.degrees, size)
        dirichlet = torch.lgamma(self.concentration).sum() - torch.lgamma(self.concentration.sum())
        total: Tensor = dirichlet + (of_gaussians + of_wisharts).sum()
        return total

    def log_determinants(self) -> Tensor:
        """E[log det Lambda_k], (K,)."""
        size = self.mean.shape[1]
        halves = 0.5 * (self.degrees[:, None] - torch.arange(size, dtype=torch.float64))
        log_determinant = 2.0 * self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        total: Tensor = torch.digamma(halves).sum(-1) + size * math.log(2.0) - log_determinant
        return total

    def log_weights(self) -> Tensor:
        """E[log pi_k], (K,)."""
        return torch.digamma(self.concentration) - torch.digamma(self.concentration.sum())

    def distances(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(x - m_k)' W_k (x - m_k) over a unit squared, (N, K), and the unit, (N, 1), by which no square overflows.

        The unit is 1 but for rows that are far away, where it is a power of two, so that nothing is rounded.
        """
        largest = rows.abs().amax(1, keepdim=True)
        unit = torch.where(largest > _FAR, torch.ldexp(torch.ones_like(largest), torch.frexp(largest)[1] - 1), 1.0)
        centred = (rows / unit - self.mean[:, None] / unit).mT
        squares: Tensor = torch.linalg.solve_triangular(self.root, centred, upper=False).square().sum(1)
        return squares.mT, unit

    def log_densities(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """E[log pi_k + log N(x | mu_k, Lambda_k)], (N, K), less what all components of a row have in common, (N, 1)."""
        size = rows.shape[1]
        constants = self.log_weights() + 0.5 * (
            self.log_determinants() - size / self.scale - size * math.log(2.0 * math.pi)
        )
        squares, unit = self.distances(rows)
        squares = 0.5 * self.degrees * squares
        least = squares.amin(1, keepdim=True)
        return constants - (squares - least) * unit * unit, -least * unit * unit

    def divergence(self, prior: _Components) -> float:
        """KL of all factors from the prior: <eta_q - eta_p, E[T]> - A(q) + A(p)."""
        size = self.mean.shape[1]
        expected = self.degrees[:, None, None] * torch.cholesky_inverse(self.root)
        off = (self.mean - prior.mean)[:, :, None]
        # E[(mu - m0)' Lambda (mu - m0)], E[(mu - m)' Lambda (mu - m)] and traces with E[Lambda].
        around_prior = size / self.scale + (off.mT @ expected @ off)[:, 0, 0]
        traces = ((prior.inverse - self.inverse) * expected).sum((-2, -1))
        of_components = (
            0.5 * (self.degrees - prior.degrees) * self.log_determinants()
            - 0.5 * size
            + 0.5 * prior.scale * around_prior
            + 0.5 * traces
        )
        of_weights = ((self.concentration - prior.concentration) * self.log_weights()).sum()
        return float(of_weights + of_components.sum() - self.log_normaliser() + prior.log_normaliser())


class BayesianGaussianMixture(DensityMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A mixture of Gaussians with full covariances whose weights, means and precisions have distributions.

    Weights are Dirichlet, means and precisions Gaussian-Wishart. Components that the rows do not need fall back to the
    prior, and their weights vanish where ``weight_concentration_prior`` is small.

    Parameters
    ----------
    n_components
        K, at most.
    weight_concentration_prior
        Of the Dirichlet distribution, for each component; 1 / K if None.
    mean_precision_prior, mean_prior
        How many rows the prior of a mean weighs, and its centre (D,), the mean of the rows if None.
    degrees_of_freedom_prior, covariance_prior
        Of the Wishart distribution, more than D - 1, D if None; and W^-1, (D, D), the covariance of the rows if None.
    tol, max_iter
        Ascent ends when an iteration raises the bound by less than ``tol`` nats for each row, or after ``max_iter``.
    n_init, init_params
        Number of starts, and what they are: ``"kmeans"`` or ``"random"``, scikit-learn's responsibilities.
    random_state
        As in scikit-learn.

    Attributes
    ----------
    weights_, means_, covariances_
        Expected weights (K,) and means (K, D); inverses of the expected precisions, (K, D, D).
    weight_concentration_, mean_precision_, degrees_of_freedom_
        Parameters of the factors, (K,).
    bounds_
        The bound on the log evidence of all rows in nats, constants included: after M step i, which makes q(pi, mu,
        Lambda), at 2 i, and after the E step that follows at 2 i + 1.
    lower_bound_, converged_, n_iter_
        Of the best start.

    Raises
    ------
    ValueError
        If an option is out of its range, there are fewer rows than components, a value is NaN or infinite, or the
        squares of the rows to fit to overflow.

    Notes
    -----
    Priors and factors are those of scikit-learn's class of this name with ``covariance_type="full"``,
    ``weight_concentration_prior_type="dirichlet_distribution"`` and ``reg_covar=0``. Source: Bishop 2006, equations
    10.58 to 10.77, and 10.81 for the predictive density.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> x = np.concatenate([random.normal(-4.0, 1.0, (100, 2)), random.normal(4.0, 1.0, (50, 2))])
    >>> mixture = BayesianGaussianMixture(5, weight_concentration_prior=0.01, max_iter=500, random_state=0).fit(x)
    >>> sorted(mixture.weights_.round(2).tolist())
    [0.0, 0.0, 0.0, 0.33, 0.67]
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        weight_concentration_prior: float | None = None,
        mean_precision_prior: float = 1.0,
        mean_prior: Any = None,
        degrees_of_freedom_prior: float | None = None,
        covariance_prior: Any = None,
        tol: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> BayesianGaussianMixture:  # noqa: N803  # scikit-learn's name
        """Fit to rows (N, D), from ``n_init`` starts, of which the best is kept; ``y`` is not used."""
        check_integers(_NAME, n_components=self.n_components, max_iter=self.max_iter, n_init=self.n_init)
        check_tolerance(_NAME, self.tol)
        check_choice(_NAME, "init_params", self.init_params, STARTS)
        rows = read_rows(self, X, reset=True, least=2)
        if len(rows) < self.n_components:
            raise ValueError(f"{_NAME}: got {len(rows)} rows for {self.n_components} components, expected as many")
        if not bool(rows.square().sum().isfinite()):
            raise ValueError(
                f"{_NAME}: the squares of X overflow float64, with a value of {float(rows.abs().max()):g} in size; "
                "rescale it"
            )
        prior = self._prior(rows)
        random_state = check_random_state(self.random_state)
        best: list[float] = []
        for _ in range(self.n_init):
            found, bounds, converged = self._ascend(rows, prior, self._start(rows, random_state))
            if not best or bounds[-1] > best[-1]:
                best, self._found, self.converged_ = bounds, found, converged
        if not self.converged_:
            warn_not_converged(_NAME, self.max_iter)
        self.bounds_ = np.array(best)
        self.lower_bound_ = best[-1]
        self.n_iter_ = len(best) // 2
        found = self._found
        self.weight_concentration_ = found.concentration.numpy()
        self.weights_ = (found.concentration / found.concentration.sum()).numpy()
        self.mean_precision_, self.means_ = found.scale.numpy(), found.mean.numpy()
        self.degrees_of_freedom_ = found.degrees.numpy()
        self.covariances_ = (found.inverse / found.degrees[:, None, None]).numpy()
        return self

    def _prior(self, rows: Tensor) -> _Components:
        count, size = self.n_components, rows.shape[1]
        concentration = 1.0 / count if self.weight_concentration_prior is None else self.weight_concentration_prior
        degrees = float(size) if self.degrees_of_freedom_prior is None else self.degrees_of_freedom_prior
        check_concentrations(_NAME, weight_concentration_prior=concentration)
        check_positive(_NAME, mean_precision_prior=self.mean_precision_prior, degrees_of_freedom_prior=degrees)
        if degrees <= size - 1:
            raise ValueError(f"{_NAME}: degrees_of_freedom_prior must be more than {size - 1}, got {degrees!r}")
        mean = rows.mean(0) if self.mean_prior is None else read_tensor(_NAME, "mean_prior", self.mean_prior, (size,))
        if self.covariance_prior is None:
            inverse = torch.atleast_2d(rows.mT.cov())
        else:
            inverse = read_tensor(_NAME, "covariance_prior", self.covariance_prior, (size, size))
        if int(torch.linalg.cholesky_ex(inverse)[1]):
            given = "the covariance of the rows" if self.covariance_prior is None else "covariance_prior"
            raise ValueError(f"{_NAME}: {given} is not positive definite; a covariance_prior has to be")
        full = torch.full((count,), 1.0, dtype=torch.float64)
        return _Components(
            concentration * full,
            self.mean_precision_prior * full,
            mean.expand(count, size),
            degrees * full,
            inverse.expand(count, size, size),
        )

    def _start(self, rows: Tensor, random_state: np.random.RandomState) -> Tensor:
        if self.init_params == "random":
            uniform = torch.from_numpy(random_state.uniform(size=(len(rows), self.n_components)))
            return uniform / uniform.sum(1, keepdim=True)
        labels = KMeans(self.n_components, n_init=1, random_state=random_state).fit(rows.numpy()).labels_
        return torch.nn.functional.one_hot(torch.from_numpy(labels).long(), self.n_components).double()

    def _ascend(
        self, rows: Tensor, prior: _Components, responsibilities: Tensor
    ) -> tuple[_Components, list[float], bool]:
        constant = float(prior.log_normaliser()) + 0.5 * rows.numel() * math.log(2.0 * math.pi)
        bounds: list[float] = []
        for _ in range(self.max_iter):
            found = _updated(prior, rows, responsibilities)
            # Of a conjugate model right after its update: the entropy of z, and a ratio of normalisers.
            bounds.append(float(torch.special.entr(responsibilities).sum() + found.log_normaliser()) - constant)
            log_densities, common = found.log_densities(rows)
            responsibilities = log_densities.softmax(1)
            bounds.append(float((log_densities.logsumexp(1) + common[:, 0]).sum()) - found.divergence(prior))
            if len(bounds) > 2 and bounds[-1] - bounds[-3] < self.tol * len(rows):
                return found, bounds, True
        return found, bounds, False

    def _read(self, X: Any) -> tuple[_Components, Tensor]:  # noqa: N803  # scikit-learn's name
        check_is_fitted(self, "weights_")
        return self._found, read_rows(self, X, reset=False)

    def predict_proba(self, X: Any) -> Any:  # noqa: N803  # scikit-learn's name
        """Responsibilities of the components for each row, (N, K)."""
        found, rows = self._read(X)
        return found.log_densities(rows)[0].softmax(1).numpy()

    def predict(self, X: Any) -> Any:  # noqa: N803  # scikit-learn's name
        """The most probable component of each row, (N,)."""
        return self.predict_proba(X).argmax(1)

    def fit_predict(self, X: Any, y: Any = None) -> Any:  # noqa: N803  # scikit-learn's name
        """Fit, and return the most probable component of each row, (N,)."""
        return self.fit(X, y).predict(X)

    def score_samples(self, X: Any) -> Any:  # noqa: N803  # scikit-learn's name
        """Log predictive density of each row, (N,): a mixture of Student's t, whose parameters are integrated out."""
        found, rows = self._read(X)
        size = rows.shape[1]
        degrees = found.degrees + 1.0 - size
        # t with this many degrees of freedom and the scale matrix W^-1 (1 + scale) / (scale degrees).
        ratio = found.scale / (1.0 + found.scale)
        log_determinant = 2.0 * found.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        squares, unit = found.distances(rows)
        # log(1 + ratio squares unit^2), whose square may overflow.
        log_distances = torch.nn.functional.softplus((ratio * squares).log() + 2.0 * unit.log(), threshold=40.0)
        log_densities = (
            torch.lgamma(0.5 * (degrees + size))
            - torch.lgamma(0.5 * degrees)
            - 0.5 * size * math.log(math.pi)
            + 0.5 * (size * ratio.log() - log_determinant)
            - 0.5 * (degrees + size) * log_distances
        )
        log_weights = (found.concentration / found.concentration.sum()).log()
        return (log_weights + log_densities).logsumexp(1).numpy()

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803  # scikit-learn's name
        """Mean log predictive density of a row."""
        return float(self.score_samples(X).mean())


def _updated(prior: _Components, rows: Tensor, responsibilities: Tensor) -> _Components:
    """The factors that are best for given responsibilities (Bishop 2006, equations 10.58 to 10.63)."""
    counts = responsibilities.sum(0)
    scale = prior.scale + counts
    mean = (prior.scale[:, None] * prior.mean + responsibilities.mT @ rows) / scale[:, None]
    # About the new mean the scatter of the rows and that of the prior's centre need no correction.
    inverse = torch.stack(
        [
            prior.inverse[k]
            + prior.scale[k] * torch.outer(prior.mean[k] - mean[k], prior.mean[k] - mean[k])
            + (responsibilities[:, k : k + 1] * (rows - mean[k])).mT @ (rows - mean[k])
            for k in range(len(counts))
        ]
    )
    return _Components(prior.concentration + counts, scale, mean, prior.degrees + counts, inverse)
