"""Bayesian linear regression with a normal-gamma prior, exactly or by coordinate ascent over factors.

Bishop 2006, "Pattern Recognition and Machine Learning", sections 3.3 and 10.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from fastvi.mean_field._data import (
    check_choice,
    check_integers,
    check_positive,
    check_tolerance,
    read_rows,
    read_rows_and_targets,
    warn_not_converged,
)

FACTORS = ("joint", "weights", "full")

_NAME = "BayesianLinearRegression"


@dataclass(frozen=True)
class _Sums:
    """What the bound needs of the data and of the prior: P = lambda + X'X, X'y, y'y, N."""

    matrix: Tensor
    product: Tensor
    square: float
    rows: int

    def spread(self, mean: Tensor, covariance: Tensor) -> float:
        """E[|y - X w|^2 + lambda |w|^2] for weights of such a mean and covariance."""
        of_mean = self.square - 2.0 * float(self.product @ mean) + float(mean @ self.matrix @ mean)
        return of_mean + float((self.matrix * covariance).sum())


@dataclass(frozen=True)
class _Factors:
    """q(w) = N(mean, covariance), or its part that is multiplied by 1 / tau, and q(tau) = Gamma(shape, rate)."""

    mean: Tensor
    covariance: Tensor
    shape: float
    rate: float

    @property
    def precision(self) -> float:
        return self.shape / self.rate


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
        Ascent ends when an iteration raises the bound by less than ``tol`` nats, or after ``max_iter`` iterations.

    Attributes
    ----------
    coef_, intercept_
        Posterior means of the weights, (D,), and of the intercept.
    covariance_
        Posterior covariance of the weights, with the intercept last.
    noise_shape_, noise_rate_
        Of q(tau).
    bounds_
        The bound on the log evidence in nats after every update of a factor; ``lower_bound_`` is the last.
    converged_, n_iter_
        Of coordinate ascent.

    Raises
    ------
    ValueError
        If an option is out of its range, or the data hold NaN or infinity.

    Notes
    -----
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
        identity = torch.eye(design.shape[1], dtype=torch.float64)
        sums = _Sums(
            design.mT @ design + self.weight_precision * identity,
            design.mT @ values,
            float(values @ values),
            len(values),
        )
        found, bounds, self.converged_ = self._exact(sums) if self.factors == "joint" else self._ascend(sums)
        if not self.converged_:
            warn_not_converged(_NAME, self.max_iter)
        self.bounds_ = np.array(bounds)
        self.lower_bound_ = bounds[-1]
        self.noise_shape_, self.noise_rate_ = found.shape, found.rate
        scale = found.rate / (found.shape - 1.0) if self.factors == "joint" and found.shape > 1.0 else 1.0
        if self.factors == "joint" and found.shape <= 1.0:
            scale = math.inf
        weights = found.mean.numpy()
        self.coef_, self.intercept_ = (weights[:-1], float(weights[-1])) if self.fit_intercept else (weights, 0.0)
        self.covariance_ = scale * found.covariance.numpy()
        return self

    def _design(self, rows: Tensor) -> Tensor:
        return torch.cat([rows, rows.new_ones(len(rows), 1)], 1) if self.fit_intercept else rows

    def _exact(self, sums: _Sums) -> tuple[_Factors, list[float], bool]:
        inverse = torch.linalg.inv(sums.matrix)
        mean = inverse @ sums.product
        shape = self.noise_shape + 0.5 * sums.rows
        rate = self.noise_rate + 0.5 * sums.spread(mean, torch.zeros_like(inverse))
        self.n_iter_ = 1
        evidence = (
            -0.5 * sums.rows * math.log(2.0 * math.pi)
            + 0.5 * (len(mean) * math.log(self.weight_precision) - float(torch.linalg.slogdet(sums.matrix)[1]))
            + self.noise_shape * math.log(self.noise_rate)
            - shape * math.log(rate)
            + math.lgamma(shape)
            - math.lgamma(self.noise_shape)
        )
        return _Factors(mean, inverse, shape, rate), [evidence], True

    def _ascend(self, sums: _Sums) -> tuple[_Factors, list[float], bool]:
        size = len(sums.product)
        inverse = torch.linalg.inv(sums.matrix) if self.factors == "weights" else sums.matrix.diagonal().pow(-1).diag()
        shape = self.noise_shape + 0.5 * (sums.rows + size)
        # The rate begins where weights of 0 have it.
        found = _Factors(torch.zeros_like(sums.product), inverse, shape, self.noise_rate + 0.5 * sums.square)
        found = replace(found, covariance=inverse / found.precision)
        bounds: list[float] = []
        last = -math.inf
        for iteration in range(1, self.max_iter + 1):
            self.n_iter_ = iteration
            covariance = inverse / found.precision
            if self.factors == "weights":
                found = replace(found, mean=inverse @ sums.product, covariance=covariance)
                bounds.append(self._bound(sums, found))
            else:
                for place in range(size):
                    mean, variances = found.mean.clone(), found.covariance.clone()
                    residual = sums.product[place] - sums.matrix[place] @ mean
                    mean[place] += residual / sums.matrix[place, place]
                    variances[place, place] = covariance[place, place]
                    found = replace(found, mean=mean, covariance=variances)
                    bounds.append(self._bound(sums, found))
            spread = sums.spread(found.mean, found.covariance)
            found = replace(found, rate=self.noise_rate + 0.5 * spread)
            bounds.append(self._bound(sums, found))
            if bounds[-1] - last < self.tol:
                return found, bounds, True
            last = bounds[-1]
        return found, bounds, False

    def _bound(self, sums: _Sums, found: _Factors) -> float:
        """E[log p(y, w, tau)] + H(q(w)) + H(q(tau))."""
        size, count = len(found.mean), sums.rows + len(found.mean)
        log_precision = float(torch.digamma(torch.tensor(found.shape, dtype=torch.float64))) - math.log(found.rate)
        log_joint = (
            0.5 * count * (log_precision - math.log(2.0 * math.pi))
            + 0.5 * size * math.log(self.weight_precision)
            - 0.5 * found.precision * sums.spread(found.mean, found.covariance)
            + self.noise_shape * math.log(self.noise_rate)
            - math.lgamma(self.noise_shape)
            + (self.noise_shape - 1.0) * log_precision
            - self.noise_rate * found.precision
        )
        of_weights = 0.5 * (size * math.log(2.0 * math.pi * math.e) + float(torch.linalg.slogdet(found.covariance)[1]))
        of_precision = found.shape + math.lgamma(found.shape) - math.log(found.rate)
        of_precision += (1.0 - found.shape) * (log_precision + math.log(found.rate))
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
        return mean, np.sqrt(noise + ((design @ self.covariance_) * design).sum(1))
