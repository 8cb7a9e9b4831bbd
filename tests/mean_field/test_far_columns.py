"""Regression on columns that lie far from 0: what 60 digits give, and bounds that do not fall."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning

from fastvi.mean_field import BayesianLinearRegression, BayesianLogisticRegression

OFFSETS = [0.0, 1e4, 1e6]


@pytest.fixture(autouse=True)
def digits() -> Any:
    with mpmath.workdps(60):
        yield


def exactly(values: np.ndarray) -> Any:
    return mpmath.matrix(values.tolist())


def rows(offset: float) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(20, 3))
    return x + offset, x @ [1.0, -1.0, 0.5] + 2.0 + offset


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("factors", ["joint", "weights", "full"])
def test_linear_regression(factors: str, offset: float) -> None:
    """Means solve the normal equations; the rate of q(tau) its fixed-point equation, which is linear."""
    x, y = rows(offset)
    found = BayesianLinearRegression(factors, tol=0.0).fit(x, y)
    design, targets = exactly(np.c_[x, np.ones(20)]), exactly(y)
    matrix = design.T * design + mpmath.mpf(0.001) * mpmath.eye(4)
    mean = mpmath.lu_solve(matrix, design.T * targets)
    residual = targets - design * mean
    squares = (residual.T * residual)[0] + mpmath.mpf(0.001) * (mean.T * mean)[0]
    shape = 10.01 if factors == "joint" else 12.01
    # rate = b + (squares + D rate / shape) / 2
    rate = (mpmath.mpf(0.01) + squares / 2) / (1 if factors == "joint" else 1 - mpmath.mpf(2.0) / mpmath.mpf(shape))
    tolerance = 1e-12 + 1e-15 * offset  # a few roundings of x
    np.testing.assert_allclose(np.r_[found.coef_, found.intercept_], [float(each) for each in mean], rtol=tolerance)
    assert found.converged_
    assert found.noise_shape_ == pytest.approx(shape, rel=1e-15)
    assert found.noise_rate_ == pytest.approx(float(rate), rel=1e-7)  # at which the bound moves by a rounding
    assert bool((np.diff(found.bounds_) >= -1e-12).all())


@pytest.mark.parametrize("offset", OFFSETS)
def test_the_evidence(offset: float) -> None:
    """A multivariate t of 2 a degrees of freedom, with the scale (b / a)(1 + X X' / lambda)."""
    x, y = rows(offset)
    design, targets = exactly(np.c_[x, np.ones(20)]), exactly(y)
    a, b = mpmath.mpf(0.01), mpmath.mpf(0.01)
    scale = b / a * (mpmath.eye(20) + design * design.T / mpmath.mpf(0.001))
    distance = (targets.T * mpmath.lu_solve(scale, targets))[0]
    expected = (
        mpmath.loggamma(a + 10)
        - mpmath.loggamma(a)
        - 10 * mpmath.log(2 * a * mpmath.pi)
        - mpmath.log(mpmath.det(scale)) / 2
        - (a + 10) * mpmath.log1p(distance / (2 * a))
    )
    assert BayesianLinearRegression("joint").fit(x, y).lower_bound_ == pytest.approx(float(expected), abs=1e-7)


@pytest.mark.parametrize("factors", ["joint", "weights", "full"])
def test_predictive_deviations_far_from_0(factors: str) -> None:
    """x' P^-1 x of a row far away, where P^-1 itself has entries that cancel: by 60 digits."""
    x, y = rows(1e6)
    found = BayesianLinearRegression(factors).fit(x, y)
    _, deviation = found.predict(x[:5], return_std=True)
    design = exactly(np.c_[x, np.ones(20)])
    matrix = design.T * design + mpmath.mpf(0.001) * mpmath.eye(4)
    if factors == "full":
        matrix = mpmath.diag([matrix[i, i] for i in range(4)])
    solved = design[:5, :] * mpmath.inverse(matrix) * design[:5, :].T
    noise = found.noise_rate_ / (found.noise_shape_ - 1.0)
    scale = noise if factors == "joint" else found.noise_rate_ / found.noise_shape_
    expected = [float(mpmath.sqrt(noise + scale * solved[i, i])) for i in range(5)]
    np.testing.assert_allclose(deviation, expected, rtol=1e-6)


def test_squares_beyond_float64_are_refused() -> None:
    x, y = rows(0.0)
    for factors in ("joint", "weights", "full"):
        with pytest.raises(ValueError, match=r"^BayesianLinearRegression: the squares of y overflow float64"):
            BayesianLinearRegression(factors).fit(x, y * 1e160)


@pytest.mark.parametrize("offset", OFFSETS)
def test_bounds_of_logistic_regression(offset: float) -> None:
    """The first three iterations by Bishop 2006, equations 10.156 to 10.163, in 60 digits."""
    x, _ = rows(offset)
    y = (np.random.default_rng(1).uniform(size=20) < expit(x[:, 0] - offset)).astype(int)
    with pytest.warns(ConvergenceWarning, match="did not converge in 3 iterations"):
        found = BayesianLogisticRegression(0.01, max_iter=3).fit(x, y)
    design, signs = exactly(np.c_[x, np.ones(20)]), exactly(y - 0.5)
    precision = mpmath.mpf(0.01)

    def curvature(value: Any) -> Any:
        return mpmath.tanh(value / 2) / (4 * value)

    def bound() -> Any:
        of_rows = mpmath.fsum(
            -mpmath.log1p(mpmath.exp(-each)) - each / 2 - curvature(each) * (square - each**2)
            for each, square in zip(xi, squares, strict=True)
        )
        trace = mpmath.fsum(covariance[i, i] for i in range(4))
        divergence = precision * ((mean.T * mean)[0] + trace) - 4 * (1 + mpmath.log(precision))
        return of_rows + (signs.T * design * mean)[0] - (divergence - mpmath.log(mpmath.det(covariance))) / 2

    xi = [mpmath.sqrt(mpmath.fsum(value**2 for value in design[i, :]) / precision) for i in range(20)]
    expected = []
    for _ in range(3):
        weights = mpmath.diag([2 * curvature(each) for each in xi])
        covariance = mpmath.inverse(precision * mpmath.eye(4) + design.T * weights * design)
        mean = covariance * design.T * signs
        second = design * (covariance + mean * mean.T) * design.T
        squares = [second[i, i] for i in range(20)]
        expected.append(bound())
        xi = [mpmath.sqrt(each) for each in squares]
        expected.append(bound())
    np.testing.assert_allclose(found.bounds_, [float(each) for each in expected], rtol=1e-9)


@pytest.mark.parametrize("offset", OFFSETS)
def test_logistic_regression_rises(offset: float) -> None:
    x, _ = rows(offset)
    y = np.random.default_rng(2).uniform(size=20) < expit(x[:, 0] - offset)
    found = BayesianLogisticRegression(1e-3).fit(x, y)
    assert found.converged_
    assert bool((np.diff(found.bounds_) >= -1e-9).all())


def test_logistic_regression_of_separated_classes_rises() -> None:
    """Margins of 1e8, in which the digits of the bound would be lost."""
    x, _ = rows(0.0)
    found = BayesianLogisticRegression(1e-8).fit(1e4 * x, x[:, 0] > 0.0)
    assert found.converged_
    assert bool((np.diff(found.bounds_) >= -1e-10).all())
