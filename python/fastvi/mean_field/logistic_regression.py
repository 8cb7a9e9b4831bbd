"""Bayesian logistic regression by a local quadratic bound on the logistic function.

Jaakkola and Jordan 2000, "Bayesian parameter estimation via variational methods".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from fastvi._estimators import check_integers
from fastvi.mean_field._data import (
    check_positive,
    check_tolerance,
    read_rows,
    read_rows_and_targets,
    warn_not_converged,
)
from fastvi.mean_field._ridge import Ridge, solve_ridge

_NAME = "BayesianLogisticRegression"


class BayesianLogisticRegression(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Logistic regression of two classes with a Gaussian posterior, by coordinate ascent on a bound.

    p(y = 1) = sigma(x'w), w ~ N(0, 1 / weight_precision). The bound sigma(a) >= sigma(xi) exp((a - xi) / 2
    - lambda(xi)(a^2 - xi^2)) of each row makes q(w) Gaussian; q(w) and the rows' xi are updated in turn.

    Parameters
    ----------
    weight_precision
        Of the prior.
    fit_intercept
        Whether a column of ones comes after the others; its weight has the same prior.
    tol, max_iter
        Ascent ends when an iteration raises the bound by less than ``tol`` nats, or after ``max_iter`` iterations.

    Attributes
    ----------
    classes_
        The two classes; the probabilities are those of the second.
    coef_, intercept_, covariance_
        Posterior means (D,), of the intercept, and covariance, with the intercept last.
    bounds_
        The bound on the log evidence in nats: after q(w) at 2 i, after the xi at 2 i + 1; ``lower_bound_`` is the last.
    converged_, n_iter_
        Of coordinate ascent.

    Raises
    ------
    ValueError
        If an option is out of its range, there are not two classes, or the data hold NaN or infinity.

    Notes
    -----
    Source: Jaakkola and Jordan 2000; Bishop 2006, "Pattern Recognition and Machine Learning", equations 10.144 to
    10.163.

    Examples
    --------
    >>> x = np.array([[-2.0], [-1.0], [-0.5], [0.5], [1.0], [2.0]])
    >>> model = BayesianLogisticRegression().fit(x, ["a", "a", "b", "a", "b", "b"])
    >>> model.predict([[-1.0], [1.0]]).tolist()
    ['a', 'b']
    >>> bool((np.diff(model.bounds_) >= 0.0).all())
    True
    """

    def __init__(
        self, weight_precision: float = 1.0, *, fit_intercept: bool = True, tol: float = 1e-8, max_iter: int = 1000
    ) -> None:
        self.weight_precision = weight_precision
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def fit(self, X: Any, y: Any) -> BayesianLogisticRegression:  # noqa: N803  # scikit-learn's name
        """Fit to rows (N, D) and classes, (N,)."""
        check_positive(_NAME, weight_precision=self.weight_precision)
        check_tolerance(_NAME, self.tol)
        check_integers(_NAME, max_iter=self.max_iter)
        rows, targets = read_rows_and_targets(self, X, y, numeric=False)
        check_classification_targets(targets)
        self.classes_, places = np.unique(targets, return_inverse=True)
        if len(self.classes_) != 2:
            kind = type_of_target(targets, input_name="y")
            raise ValueError(
                f"{_NAME}: Only binary classification is supported. The type of the target is {kind}; got "
                f"{len(self.classes_)} class{'' if len(self.classes_) == 1 else 'es'}, expected 2"
            )
        design, signs = self._design(rows), torch.from_numpy(places.astype(np.float64)) - 0.5
        # As for weights of the prior's mean and covariance.
        xi = (design.square().sum(1) / self.weight_precision).sqrt()
        bounds: list[float] = []
        self.converged_ = False
        for iteration in range(1, self.max_iter + 1):
            self.n_iter_ = iteration
            # The bound's quadratic of each row, as if x'w had been seen with a variance of 1 / 2 lambda(xi).
            root = (2.0 * _curvature(xi)).sqrt()
            found = solve_ridge(_NAME, root[:, None] * design, signs / root, self.weight_precision)
            variance, margin, before = found.variances(design), 2.0 * signs * (design @ found.mean), xi
            xi = (variance + margin.square()).sqrt()
            # xi - margin, whose digits would be lost where both are large.
            gap = torch.where(margin > 0.0, variance / (xi + margin), xi - margin)
            bounds.append(self._bound(before, xi, gap, found))
            bounds.append(self._bound(xi, xi, gap, found))
            if len(bounds) > 2 and bounds[-1] - bounds[-3] < self.tol:
                self.converged_ = True
                break
        if not self.converged_:
            warn_not_converged(_NAME, self.max_iter)
        weights = found.mean.numpy()
        self.coef_, self.intercept_ = (weights[:-1], float(weights[-1])) if self.fit_intercept else (weights, 0.0)
        self._found = found
        self.covariance_ = found.covariance.numpy()
        self.bounds_ = np.array(bounds)
        self.lower_bound_ = bounds[-1]
        return self

    def _design(self, rows: Tensor) -> Tensor:
        return torch.cat([rows, rows.new_ones(len(rows), 1)], 1) if self.fit_intercept else rows

    def _bound(self, xi: Tensor, deviation: Tensor, gap: Tensor, found: Ridge) -> float:
        """The expected bound of the rows minus KL(q(w) || p(w)).

        ``deviation`` squared is E[(x'w)^2]; ``gap`` is the deviation minus E[x'w], with a minus before rows of class 0.
        """
        moved = (deviation - xi) * (0.5 - _curvature(xi) * (deviation + xi))
        of_rows = torch.nn.functional.logsigmoid(xi) - 0.5 * gap + moved
        scale = self.weight_precision
        divergence = 0.5 * (
            scale * float(found.mean.square().sum() + found.inverse_root.square().sum())
            - len(found.mean) * (1.0 + math.log(scale))
            + found.log_determinant
        )
        return float(of_rows.sum()) - divergence

    def decision_function(self, X: Any) -> Any:  # noqa: N803  # scikit-learn's name
        """Posterior mean of x'w for each row, (N,)."""
        check_is_fitted(self, "coef_")
        return read_rows(self, X, reset=False).numpy() @ self.coef_ + self.intercept_

    def predict_proba(self, X: Any) -> Any:  # noqa: N803  # scikit-learn's name
        """Probabilities of the classes, (N, 2): sigma(x'w) averaged over q(w), by Gauss-Hermite quadrature."""
        mean = self.decision_function(X)
        deviation = self._found.variances(self._design(read_rows(self, X, reset=False))).sqrt().numpy()
        nodes, weights = np.polynomial.hermite_e.hermegauss(64)
        values = torch.sigmoid(torch.from_numpy(mean[:, None] + deviation[:, None] * nodes)).numpy()
        second = values @ (weights / weights.sum())
        return np.stack([1.0 - second, second], 1)

    def predict(self, X: Any) -> Any:  # noqa: N803  # scikit-learn's name
        """The more probable class of each row, (N,)."""
        places = (self.decision_function(X) > 0.0).astype(int)
        return self.classes_[places]


def _curvature(xi: Tensor) -> Tensor:
    """Return lambda(xi) = tanh(xi / 2) / 4 xi, 1 / 8 at 0."""
    small = xi.abs() < 1e-4
    safe = torch.where(small, 1.0, xi)
    # The next term of the series is below rounding there.
    return torch.where(small, 0.125 - xi.square() / 96.0, torch.tanh(0.5 * safe) / (4.0 * safe))
