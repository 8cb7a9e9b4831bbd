"""The score function and ADVI: exact posteriors, the variance of gradients in closed form, Pareto k-hat."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fastvi._pareto import pareto_k_hat
from fastvi.mean_field import ADVI, ScoreFunctionVI
from fastvi.mean_field._black_box import Approximation
from fastvi.objectives import ScoreFunction

PRECISION = torch.tensor([[2.0, 1.2], [1.2, 3.0]], dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)


def log_gaussian(z: Tensor) -> Tensor:
    """N(MEAN, PRECISION^-1), normalised."""
    off = z - MEAN
    squares = ((off @ PRECISION) * off).sum(-1)
    return 0.5 * (PRECISION.logdet() - squares) - math.log(2.0 * math.pi)


def test_advi_of_full_rank_is_exact_for_a_gaussian() -> None:
    """Its gradient has no variance there, so that nothing but Adam's rate keeps it from the posterior."""
    found = ADVI("full", max_iter=400, learning_rate=0.1, random_state=0).fit(log_gaussian, 2)
    np.testing.assert_allclose(found.mean_, MEAN, atol=1e-4)
    np.testing.assert_allclose(found.covariance_, torch.linalg.inv(PRECISION), atol=1e-4)
    assert found.lower_bound_ == pytest.approx(0.0, abs=1e-4)
    assert found.pareto_k(1000) < 0.7


def test_mean_field_loses_the_variance_that_theory_says() -> None:
    """Variances 1 / Lambda_ii to 1 %, and the gap (sum log Lambda_ii - log det Lambda) / 2."""
    gap = 0.5 * float(PRECISION.diagonal().log().sum() - PRECISION.logdet())
    advi = ADVI(max_iter=300, num_samples=400, learning_rate=0.1, random_state=0).fit(log_gaussian, 2)
    score = ScoreFunctionVI(num_samples=1000, max_iter=300, learning_rate=0.1, random_state=0).fit(log_gaussian, 2)
    for found, error in ((advi, 0.01), (score, 0.02)):
        np.testing.assert_allclose(found.mean_, MEAN, atol=error)
        np.testing.assert_allclose(found.covariance_.diagonal(), 1.0 / PRECISION.diagonal(), rtol=error)
        draws = found.log_weights(10_000)
        assert abs(float(draws.mean()) + gap) < 5.0 * float(draws.std()) / 100.0 + 1e-3


def gradients(baseline: str, samples: int, mean: float, level: float, repeats: int) -> Tensor:
    """Gradients in the mean of q = N(mean, 1) for p = exp(level) N(0, 1), one of each repeat."""

    def log_joint(z: Tensor) -> Tensor:
        return level - 0.5 * z.square().sum(-1) - 0.5 * math.log(2.0 * math.pi)

    start = torch.tensor([mean], dtype=torch.float64)
    model = Approximation("test", log_joint, "mean-field", start, 1.0)
    objective = ScoreFunction(samples, baseline)
    found = [
        torch.autograd.grad(objective(model, model.example, seed=seed).sum(), model.location)[0]
        for seed in range(repeats)
    ]
    return torch.cat(found)


@pytest.mark.parametrize("baseline", ["constant", "leave-one-out", "control-variate"])
def test_the_variance_of_the_score_functions_gradient(baseline: str) -> None:
    """With log w = c - m^2 / 2 - m e and the score e, e ~ N(0, 1), and K samples, the gradient has the mean -m and the
    variance ((c - m^2 / 2)^2 + 2 m^2) / K without a baseline, 2 m^2 / (K - 1) with the mean of the others, and 0 with
    the control variate, which is log w itself. Means and variances within 5 standard errors: level 6e-7 each."""
    samples, mean, level, repeats = 5, 0.6, 3.0, 500
    found = gradients(baseline, samples, mean, level, repeats)
    expected = {
        "constant": ((level - 0.5 * mean**2) ** 2 + 2.0 * mean**2) / samples,
        "leave-one-out": 2.0 * mean**2 / (samples - 1),
        "control-variate": 0.0,
    }[baseline]
    if expected == 0.0:
        torch.testing.assert_close(found, torch.full_like(found, -mean))
        return
    assert abs(float(found.mean()) + mean) < 5.0 * (expected / repeats) ** 0.5
    squares = (found - found.mean()).square()
    assert abs(float(squares.mean()) - expected) < 5.0 * float(squares.std()) / repeats**0.5


def test_bits_by_the_score_function() -> None:
    """Independent bits are their own mean field: log-odds to 0.1, and the bound log Z."""
    odds = torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64)
    found = ScoreFunctionVI("bernoulli", num_samples=200, max_iter=200, learning_rate=0.1, random_state=1).fit(
        lambda z: z @ odds, 3
    )
    np.testing.assert_allclose(np.log(found.mean_ / (1.0 - found.mean_)), odds, atol=0.1)
    assert found.lower_bound_ == pytest.approx(float(torch.log1p(odds.exp()).sum()), abs=0.01)


def test_pareto_k_hat() -> None:
    """Of weights that are Pareto with shape k, at the quantiles of 10,000, and of a Gaussian that is too narrow: q =
    N(0, s^2) for p = N(0, 1) has k = 1 - s^2, up to a logarithm in the tail."""
    quantiles = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    for k in (0.2, 0.5, 0.9):
        assert pareto_k_hat(-k * (1.0 - quantiles).log()) == pytest.approx(k, abs=0.05)
    z = 0.5 * torch.special.ndtri(quantiles)
    narrow = -0.5 * z.square() + 0.5 * (z / 0.5).square()
    assert pareto_k_hat(narrow) == pytest.approx(0.75, abs=0.15)
    wide = 2.0 * torch.special.ndtri(quantiles)
    assert pareto_k_hat(-0.5 * wide.square() + 0.5 * (wide / 2.0).square()) < 0.1
    assert pareto_k_hat(torch.zeros(100)) == -math.inf


def test_a_seed_repeats_a_fit() -> None:
    first, second = (ADVI(max_iter=20, random_state=3).fit(log_gaussian, 2) for _ in range(2))
    np.testing.assert_array_equal(first.bounds_, second.bounds_)
    assert first.get_params()["random_state"] == 3


@pytest.mark.parametrize(
    ("inference", "log_joint", "message"),
    [
        (ADVI("half"), log_gaussian, "ADVI: rank must be one of mean-field, full, got 'half'"),
        (ADVI(num_samples=0), log_gaussian, "ADVI: num_samples must be an integer of 1 or more, got 0"),
        (ADVI(), lambda z: z, r"ADVI: log_joint must return the shape \(samples,\) = \(10,\) for z of shape \(10, 2\)"),
        (ADVI(), lambda z: z.sum(-1).log(), "ADVI: the bound is nan at step 0"),
        (ScoreFunctionVI("poisson"), log_gaussian, "ScoreFunctionVI: family must be one of gaussian, bernoulli"),
        (ScoreFunctionVI(baseline="network"), log_gaussian, "ScoreFunctionVI: baseline must be one of leave-one-out"),
        (ScoreFunctionVI(num_samples=1), log_gaussian, "ScoreFunction: num_samples must be at least 2"),
        (
            ScoreFunctionVI("bernoulli", baseline="control-variate"),
            log_gaussian,
            "ScoreFunctionVI: baseline='control-variate' needs family='gaussian'",
        ),
    ],
)
def test_what_is_refused(inference: ADVI, log_joint: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        inference.fit(log_joint, 2)


def test_a_start_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"^ADVI: start has shape \(3,\), expected \(2\)"):
        ADVI().fit(log_gaussian, 2, start=np.zeros(3))
