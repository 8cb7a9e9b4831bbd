"""Bayesian logistic regression: below the evidence, which quadrature gives, and rising."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, log_expit
from scipy.stats import multivariate_normal, norm
from sklearn.utils.estimator_checks import check_estimator

from fastvi.mean_field import BayesianLogisticRegression


def data(rows: int, columns: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, columns))
    return x, (random.uniform(size=rows) < expit(x @ (1.5 * random.normal(size=columns)) + 0.5)).astype(int)


def log_joint(x: np.ndarray, y: np.ndarray, weights: np.ndarray, precision: float) -> np.ndarray:
    """For weights (W, D)."""
    prior = norm(0.0, precision**-0.5).logpdf(weights).sum(-1)
    return prior + log_expit((2 * y - 1) * (weights @ x.T)).sum(-1)


@pytest.mark.parametrize(("rows", "seed"), [(1, 0), (8, 1), (40, 2)])
def test_the_bound_is_below_the_evidence(rows: int, seed: int) -> None:
    x, y = data(rows, 2, seed)
    y[0] = 1
    x, y = np.r_[x, -x[:1]], np.r_[y, 0]
    found = BayesianLogisticRegression(0.5, fit_intercept=False).fit(x, y)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    grid = 15.0 * np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    evidence = 225.0 * (weights[:, None] * weights).ravel() @ np.exp(log_joint(x, y, grid, 0.5))
    assert bool((np.diff(found.bounds_) > -1e-10).all())
    gap = np.log(evidence) - found.lower_bound_
    assert 0.0 < gap < 0.25
    # The same bound without the quadratic one, E_q[log p(y, w) - log q(w)], lies between: by quadrature too.
    log_q = multivariate_normal(found.coef_, found.covariance_).logpdf(grid)
    exact = 225.0 * (weights[:, None] * weights).ravel() @ (np.exp(log_q) * (log_joint(x, y, grid, 0.5) - log_q))
    assert found.lower_bound_ < exact < np.log(evidence)


def test_fixed_point() -> None:
    """Bishop 2006, equations 10.156, 10.157 and 10.163."""
    x, y = data(30, 3, 4)
    design = np.c_[x, np.ones(30)]
    found = BayesianLogisticRegression(2.0, tol=0.0).fit(x, y)
    mean = np.r_[found.coef_, found.intercept_]
    xi = np.sqrt(((design @ (found.covariance_ + np.outer(mean, mean))) * design).sum(1))
    precision = 2.0 * np.eye(4) + 2.0 * (design.T * (np.tanh(xi / 2) / (4 * xi))) @ design
    np.testing.assert_allclose(np.linalg.inv(found.covariance_), precision, rtol=1e-4)
    np.testing.assert_allclose(precision @ mean, design.T @ (y - 0.5), rtol=1e-4, atol=1e-4)


def test_predictive_probabilities() -> None:
    """By 400,000 draws of q(w), within 5 standard errors: level 6e-7."""
    x, y = data(20, 2, 5)
    found = BayesianLogisticRegression().fit(x, y)
    mean = np.r_[found.coef_, found.intercept_]
    weights = np.random.default_rng(0).multivariate_normal(mean, found.covariance_, size=400_000)
    drawn = expit(weights @ np.r_[x[3], 1.0])
    assert abs(found.predict_proba(x[3:4])[0, 1] - drawn.mean()) < 5.0 * drawn.std() / 400_000**0.5


def test_it_is_a_scikit_learn_estimator() -> None:
    check_estimator(BayesianLogisticRegression(), on_skip=None)


@pytest.mark.parametrize(
    ("options", "y", "message"),
    [
        ({}, [0, 1, 2], "Only binary classification is supported. The type of the target is multiclass; got 3 classes"),
        ({}, [1, 1, 1], "Only binary classification is supported. The type of the target is binary; got 1 class,"),
        ({"weight_precision": -1.0}, [0, 1, 1], "weight_precision must be a positive number, got -1.0"),
    ],
)
def test_what_is_refused(options: dict[str, float], y: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^BayesianLogisticRegression: {message}"):
        BayesianLogisticRegression(**options).fit([[0.0], [1.0], [2.0]], y)
