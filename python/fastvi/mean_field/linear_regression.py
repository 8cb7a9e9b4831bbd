"""Bayesian linear regression with a normal-gamma prior, exactly or by coordinate ascent over factors.

Bishop 2006, "Pattern Recognition and Machine Learning", sections 3.3 and 10.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from fastvi._estimators import check_choice, check_integers
from fastvi.mean_field._data import (
    check_positive,
    check_tolerance,
    read_rows,
    read_rows_and_targets,
    warn_not_converged,
)
from fastvi.mean_field._ridge import solve_ridge

FACTORS = ("joint", "weights", "full")

_NAME = "BayesianLinearRegression"


@dataclass(frozen=True)
class _Posterior:
    """What the bound needs of the weights' factors, which are best at whatever precision E[tau] they were made for.

    Their means are those of the joint posterior, for any factors; their covariance is ``inverse_root`` times its
    transpose over E[tau], so that E[|y - X w|^2 + lambda |w|^2] = ``squares`` + D / E[tau].
    """

    mean: Tensor
    inverse_root: Tensor
    log_determinant: float  # of the precision of the weights over tau
    squares: float  # |y - X mean|^2 + lambda |mean|^2
    rows: int


class BayesianLinearRegression(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Linear regression whose weights and noise precision have distributions.

    y ~ N(x'w, 1 / tau), w ~ N(0, 1 / (tau lambda)), tau ~ Gamma(shape, rate), which is conjugate: with
    ``factors="joint"`` the posterior and the evidence are exact. Factors lose variance, and their bound is lower.

    Parameters
    ----------
    factors
        ``"joint"``: q(w, tau), exact. ``"weights"``: q(w) q(tau). ``"full"``: q(w_1) ... q(w_D) q(tau).
    weight_precision
        The lambda of the prior.
    noise_shape, noise_rate
        Of the prior of tau.
    fit_intercept
        Whether a column of ones comes after the others; its weight has the same prior.
    tol, max_iter
        Ascent ends when an iteration raises the bound by less than ``tol`` nats, or moves nothing, or after
        ``max_iter`` iterations.

    Attributes
    ----------
    coef_, intercept_
        Posterior means of the weights, (D,), and of the intercept.
    covariance_
        Posterior covariance of the weights, with the intercept last.
    noise_shape_, noise_rate_
        Of q(tau).
    bounds_
        The bound on the log evidence in nats: after the weights' factors, of ``"full"`` all at once, at 2 i, and after
        q(tau) at 2 i + 1; ``lower_bound_`` is the last. The evidence itself with ``"joint"``.
    converged_, n_iter_
        Of coordinate ascent.

    Raises
    ------
    ValueError
        If an option is out of its range, or the data hold NaN or infinity, or their squares overflow.

    Notes
    -----
    Given variances and E[tau] the bound is a quadratic of the means of all factors, whose maximum is the mean of the
    joint posterior: it is solved for at once, since a sweep over the factors moves little where columns are correlated.
    Source: Bishop 2006, equations 3.49 to 3.54 and 10.94 to 10.106, with the prior of w scaled by 1 / tau.

    Examples
    --------
    >>> x = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> exact = BayesianLinearRegression("joint").fit(x, [1.0, 2.9, 5.1, 7.0])
    >>> factorised = BayesianLinearRegression("full").fit(x, [1.0, 2.9, 5.1, 7.0])
    >>> exact.coef_.round(2), factorised.coef_.round(2)
    (array([2.02]), array([2.02]))
    >>> bool(factorised.lower_bound_ < exact.lower_bound_)
    True
    """

    def __init__(
        self,
        factors: str = "weights",
        *,
        weight_precision: float = 1e-3,
        noise_shape: float = 1e-2,
        noise_rate: float = 1e-2,
        fit_intercept: bool = True,
        tol: float = 1e-10,
        max_iter: int = 10_000,
    ) -> None:
        self.factors = factors
        self.weight_precision = weight_precision
        self.noise_shape = noise_shape
        self.noise_rate = noise_rate
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any) -> BayesianLinearRegression:  # noqa: N803  # scikit-learn's name
        """Fit to rows (N, D) and targets (N,)."""
        check_choice(_NAME, "factors", self.factors, FACTORS)
        check_positive(
            _NAME,
            weight_precision=self.weight_precision,
            noise_shape=self.noise_shape,
            noise_rate=self.noise_rate,
        )
        check_tolerance(_NAME, self.tol)
        check_integers(_NAME, max_iter=self.max_iter)
        rows, targets = read_rows_and_targets(self, X, y, numeric=True)
        design, values = self._design(rows), torch.from_numpy(np.array(targets, dtype=np.float64))
        posterior = self._posterior(design, values)
        found = self._exact(posterior) if self.factors == "joint" else self._ascend(posterior, values)
        self.noise_shape_, self.noise_rate_, scale, bounds = found
        if not self.converged_:
            warn_not_converged(_NAME, self.max_iter)
        self.bounds_ = np.array(bounds)
        self.lower_bound_ = bounds[-1]
        weights = posterior.mean.numpy()
        self.coef_, self.intercept_ = (weights[:-1], float(weights[-1])) if self.fit_intercept else (weights, 0.0)
        self._root = math.sqrt(scale) * posterior.inverse_root.numpy()
        self.covariance_ = scale * (posterior.inverse_root @ posterior.inverse_root.mT).numpy()
        return self

    def _posterior(self, design: Tensor, values: Tensor) -> _Posterior:
        solved = solve_ridge(_NAME, design, values, self.weight_precision)
        residuals = values - design @ solved.mean
        squares = float(residuals @ residuals + self.weight_precision * (solved.mean @ solved.mean))
        if not math.isfinite(squares) or not math.isfinite(float(values @ values)):
            raise ValueError(f"{_NAME}: the squares of y overflow float64; rescale it")
        inverse_root, log_determinant = solved.inverse_root, solved.log_determinant
        if self.factors == "full":
            precisions = design.square().sum(0) + self.weight_precision
            inverse_root, log_determinant = precisions.rsqrt().diag(), float(precisions.log().sum())
        return _Posterior(solved.mean, inverse_root, log_determinant, squares, len(values))

    def _design(self, rows: Tensor) -> Tensor:
        return torch.cat([rows, rows.new_ones(len(rows), 1)], 1) if self.fit_intercept else rows

    def _exact(self, posterior: _Posterior) -> tuple[float, float, float, list[float]]:
        """Shape and rate of tau, the scale of the weights' covariance, and the log evidence."""
        shape = self.noise_shape + 0.5 * posterior.rows
        rate = self.noise_rate + 0.5 * posterior.squares
        self.n_iter_, self.converged_ = 1, True
        evidence = (
            -0.5 * posterior.rows * math.log(2.0 * math.pi)
            + 0.5 * (len(posterior.mean) * math.log(self.weight_precision) - posterior.log_determinant)
            + self.noise_shape * math.log(self.noise_rate)
            - shape * math.log(rate)
            + math.lgamma(shape)
            - math.lgamma(self.noise_shape)
        )
        scale = rate / (shape - 1.0) if shape > 1.0 else math.inf  # of a t distribution
        return shape, rate, scale, [evidence]

    def _ascend(self, posterior: _Posterior, values: Tensor) -> tuple[float, float, float, list[float]]:
        """Shape and rate of q(tau), the scale of the weights' covariance, and the bounds on the way."""
        size = len(posterior.mean)
        shape = self.noise_shape + 0.5 * (posterior.rows + size)
        # The rate begins where weights of 0 have it.
        rate = self.noise_rate + 0.5 * float(values @ values)
        bounds: list[float] = []
        self.converged_ = False
        for iteration in range(1, self.max_iter + 1):
            self.n_iter_ = iteration
            precision, before = shape / rate, rate
            bounds.append(self._bound(posterior, precision, shape, rate))
            rate = self.noise_rate + 0.5 * (posterior.squares + size / precision)
            bounds.append(self._bound(posterior, precision, shape, rate))
            if rate == before or (iteration > 1 and bounds[-1] - bounds[-3] < self.tol):
                self.converged_ = True
                break
        return shape, rate, 1.0 / precision, bounds

    def _bound(self, posterior: _Posterior, weights_precision: float, shape: float, rate: float) -> float:
        """E[log p(y, w, tau)] + H(q(w)) + H(q(tau)), for factors of weights that were made for such an E[tau]."""
        size, precision = len(posterior.mean), shape / rate
        count = posterior.rows + size
        log_precision = float(torch.digamma(torch.tensor(shape, dtype=torch.float64))) - math.log(rate)
        log_joint = (
            0.5 * count * (log_precision - math.log(2.0 * math.pi))
            + 0.5 * size * math.log(self.weight_precision)
            - 0.5 * precision * (posterior.squares + size / weights_precision)
            + self.noise_shape * math.log(self.noise_rate)
            - math.lgamma(self.noise_shape)
            + (self.noise_shape - 1.0) * log_precision
            - self.noise_rate * precision
        )
        log_determinant = -posterior.log_determinant - size * math.log(weights_precision)
        of_weights = 0.5 * (size * math.log(2.0 * math.pi * math.e) + log_determinant)
        of_precision = shape + math.lgamma(shape) - math.log(rate)
        of_precision += (1.0 - shape) * (log_precision + math.log(rate))
        return log_joint + of_weights + of_precision

    def predict(self, X: Any, return_std: bool = False) -> Any:  # noqa: N803  # scikit-learn's name
        """Predictive mean of each row, (N,), and on request its standard deviation, infinite where there is none."""
        check_is_fitted(self, "coef_")
        rows = read_rows(self, X, reset=False)
        mean = rows.numpy() @ self.coef_ + self.intercept_
        if not return_std:
            return mean
        design = self._design(rows).numpy()
        noise = self.noise_rate_ / (self.noise_shape_ - 1.0) if self.noise_shape_ > 1.0 else math.inf
        return mean, np.sqrt(noise + ((design @ self._root) ** 2).sum(1))
