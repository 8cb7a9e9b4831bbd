"""Mean field where the posterior is known: a correlated Gaussian, and linear regression with a normal-gamma prior."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_t
from sklearn.utils.estimator_checks import check_estimator

from fastvi.mean_field import BayesianLinearRegression, factorised_gaussian


def correlated(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A precision matrix and a mean."""
    random = np.random.default_rng(seed)
    root = random.normal(size=(size, size + 2))
    return root @ root.T + 0.3 * np.eye(size), random.normal(size=size)


def divergence(mean: np.ndarray, variance: np.ndarray, precision: np.ndarray, centre: np.ndarray) -> float:
    """KL(N(mean, diag(variance)) || N(centre, precision^-1))."""
    off = mean - centre
    log_determinants = np.linalg.slogdet(precision)[1] + np.log(variance).sum()
    return 0.5 * float((precision.diagonal() * variance).sum() + off @ precision @ off - len(mean) - log_determinants)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 10_000))
def test_a_factorised_gaussian_has_the_mean_and_loses_the_variance(size: int, seed: int) -> None:
    precision, mean = correlated(size, seed)
    found = factorised_gaussian(precision, mean)
    np.testing.assert_allclose(found.mean, mean, rtol=0, atol=1e-9 * np.linalg.cond(precision))
    np.testing.assert_allclose(found.variance, 1.0 / precision.diagonal(), rtol=1e-14)
    assert bool((found.variance.numpy() <= np.linalg.inv(precision).diagonal() * (1.0 + 1e-12)).all())
    lost = 0.5 * (np.log(precision.diagonal()).sum() - np.linalg.slogdet(precision)[1])
    assert float(found.bounds[-1]) == pytest.approx(-lost, abs=1e-9)


def test_the_bound_after_each_factor() -> None:
    """Written out for the factors of that moment, by an ascent of the test's own."""
    precision, centre = correlated(3, 7)
    mean, variance, expected = np.array([4.0, -3.0, 2.0]), np.ones(3), []
    for step in range(12):
        i = step % 3
        others = [j for j in range(3) if j != i]
        mean[i] = centre[i] - precision[i, others] @ (mean - centre)[others] / precision[i, i]
        variance[i] = 1.0 / precision[i, i]
        expected.append(-divergence(mean, variance, precision, centre))
    found = factorised_gaussian(precision, centre, start=[4.0, -3.0, 2.0])
    np.testing.assert_allclose(found.bounds[:12], expected, rtol=1e-10)
    assert bool((found.bounds.diff() >= 0.0).all())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1.0, 2.0], [2.0, 1.0]], [0.0, 0.0]), "precision must be symmetric and positive definite"),
        (([[1.0, 0.5], [0.0, 1.0]], [0.0, 0.0]), "precision must be symmetric and positive definite"),
        (([[1.0]], [0.0, 0.0]), r"precision has shape \(1, 1\), expected \(2, 2\)"),
        (([[1.0]], [math.nan]), "mean contains NaN or infinity"),
    ],
)
def test_what_is_no_gaussian(arguments: tuple[object, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^factorised_gaussian: {message}"):
        factorised_gaussian(*arguments)


# Linear regression


def regression(rows: int, columns: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, columns)) @ random.normal(size=(columns, columns))
    return x, x @ random.normal(size=columns) + 1.0 + 0.5 * random.normal(size=rows)


PRIOR = {"weight_precision": 0.7, "noise_shape": 1.5, "noise_rate": 0.8}


def test_the_evidence_is_that_of_a_multivariate_t() -> None:
    """y, with weights and precision integrated out: t with 2 a degrees of freedom, shape (b / a)(1 + X X' / lambda)."""
    x, y = regression(12, 3, 0)
    design = np.c_[x, np.ones(12)]
    shape = 0.8 / 1.5 * (np.eye(12) + design @ design.T / 0.7)
    expected = multivariate_t(np.zeros(12), shape, df=3.0).logpdf(y)
    exact = BayesianLinearRegression("joint", **PRIOR).fit(x, y)
    assert exact.lower_bound_ == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("factors", ["weights", "full"])
def test_coordinate_ascent_on_regression(factors: str) -> None:
    """Bounds never fall and stay below the evidence; the factors satisfy their fixed-point equations."""
    x, y = regression(20, 3, 1)
    design = np.c_[x, np.ones(20)]
    matrix = 0.7 * np.eye(4) + design.T @ design
    exact = BayesianLinearRegression("joint", **PRIOR).fit(x, y)
    found = BayesianLinearRegression(factors, **PRIOR, tol=0.0).fit(x, y)
    assert bool((np.diff(found.bounds_) > -1e-9).all())
    assert found.lower_bound_ < exact.lower_bound_
    weights = np.r_[found.coef_, found.intercept_]
    np.testing.assert_allclose(weights, np.linalg.solve(matrix, design.T @ y), rtol=1e-5)
    expected = found.noise_rate_ / found.noise_shape_ * np.linalg.inv(matrix)
    if factors == "full":
        expected = np.diag(found.noise_rate_ / found.noise_shape_ / matrix.diagonal())
    np.testing.assert_allclose(found.covariance_, expected, rtol=1e-8)
    residual = ((y - design @ weights) ** 2).sum() + 0.7 * (weights**2).sum()
    rate = 0.8 + 0.5 * (residual + (matrix * expected).sum())
    assert found.noise_rate_ == pytest.approx(rate, rel=1e-8)
    assert found.noise_shape_ == 1.5 + 12.0


@pytest.mark.parametrize("factors", ["weights", "full"])
def test_the_bound_of_regression_is_an_expectation(factors: str) -> None:
    """E_q[log p(y, w, tau) - log q(w, tau)] by 200,000 draws, within 5 standard errors: level 6e-7."""
    x, y = regression(8, 2, 2)
    found = BayesianLinearRegression(factors, **PRIOR, fit_intercept=False).fit(x, y)
    q_weights = torch.distributions.MultivariateNormal(
        torch.from_numpy(found.coef_), torch.from_numpy(found.covariance_)
    )
    q_noise = torch.distributions.Gamma(*torch.tensor([found.noise_shape_, found.noise_rate_], dtype=torch.float64))
    prior = torch.distributions.Gamma(*torch.tensor([1.5, 0.8], dtype=torch.float64))
    torch.manual_seed(0)
    w, tau = q_weights.sample((200_000,)), q_noise.sample((200_000,))
    normal = torch.distributions.Normal
    means, values = w @ torch.from_numpy(x).mT, torch.from_numpy(y)
    log_joint = normal(means, tau.rsqrt()[:, None]).log_prob(values).sum(-1) + prior.log_prob(tau)
    log_joint += normal(0.0, (0.7 * tau).rsqrt()[:, None]).log_prob(w).sum(-1)
    draws = log_joint - q_weights.log_prob(w) - q_noise.log_prob(tau)
    assert abs(float(draws.mean()) - found.lower_bound_) < 5.0 * float(draws.std()) / 200_000**0.5


def test_the_predictive_distribution_of_the_joint_posterior() -> None:
    """A Student t with 2 a degrees of freedom: its variance by the formula of the t distribution."""
    x, y = regression(15, 2, 3)
    found = BayesianLinearRegression("joint", **PRIOR, fit_intercept=False).fit(x, y)
    mean, deviation = found.predict(x[:1], return_std=True)
    matrix = 0.7 * np.eye(2) + x.T @ x
    scale = found.noise_rate_ / found.noise_shape_ * (1.0 + x[0] @ np.linalg.solve(matrix, x[0]))
    degrees = 2.0 * found.noise_shape_
    assert mean[0] == pytest.approx(x[0] @ np.linalg.solve(matrix, x.T @ y))
    assert deviation[0] ** 2 == pytest.approx(scale * degrees / (degrees - 2.0))


def test_regression_is_a_scikit_learn_estimator() -> None:
    check_estimator(BayesianLinearRegression(), on_skip=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factors": "pairs"}, "factors must be one of joint, weights, full, got 'pairs'"),
        ({"weight_precision": 0.0}, "weight_precision must be a positive number, got 0.0"),
        ({"max_iter": 0}, "max_iter must be an integer of 1 or more, got 0"),
        ({"tol": -1.0}, "tol must be 0 or more, got -1.0"),
    ],
)
def test_options_of_regression(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^BayesianLinearRegression: {message}"):
        BayesianLinearRegression(**options).fit(np.zeros((3, 1)), np.zeros(3))
