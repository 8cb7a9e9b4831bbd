"""Mixtures of exponential families: SciPy's densities, the bound, a family of one's own."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, xlogy
from scipy.stats import bernoulli, poisson
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator

from fastvi.em import Bernoulli, Categorical, GaussianMixture, Mixture, Poisson

RANDOM_START = {
    "check_sample_weight_equivalence_on_dense_data": "random starts: a row that is there twice is drawn otherwise than "
    "one of weight 2; from the same start both give the same fit, see test_weights_are_repeated_rows"
}
"""What scikit-learn's `check_estimator` may not expect, and why."""


@dataclass(frozen=True)
class UnitNormal:
    """Independent normals of variance 1, as a family that somebody else writes: T(x) = x, A = theta^2 / 2."""

    def check_support(self, x: torch.Tensor) -> None:
        pass

    def sufficient_statistics(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def log_base_measure(self, x: torch.Tensor) -> torch.Tensor:
        return -0.5 * (x.square() + math.log(2.0 * math.pi)).sum(-1)

    def natural_parameters(self, mean: torch.Tensor) -> torch.Tensor:
        return mean

    def log_normalizer(self, natural: torch.Tensor) -> torch.Tensor:
        return 0.5 * natural.square().sum(-1)

    def num_parameters(self, statistics: int) -> int:
        return statistics

    def sample(self, natural: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
        return natural + torch.randn(count, len(natural), generator=generator, dtype=natural.dtype)


def fit(mixture: Mixture, x: object, weights: object = None) -> Mixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(x, sample_weight=weights)


def problem(family: object, rows: int, columns: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    groups = random.integers(3, size=rows)
    if family == "bernoulli":
        return (random.uniform(size=(rows, columns)) < random.uniform(0.1, 0.9, (3, columns))[groups]).astype(float)
    if family == "poisson":
        return random.poisson(random.uniform(0.5, 9.0, (3, columns))[groups]).astype(float)
    if isinstance(family, Categorical):
        return (groups[:, None] + random.integers(2, size=(rows, columns))) % 4.0
    return 3.0 * groups[:, None] + random.normal(size=(rows, columns))


def log_density(family: object, mixture: Mixture, x: np.ndarray, k: int) -> np.ndarray:
    means = mixture.means_[k]
    if family == "bernoulli":
        return bernoulli.logpmf(x, means).sum(1)
    if family == "poisson":
        return poisson.logpmf(x, means).sum(1)
    if isinstance(family, Categorical):
        table = means.reshape(x.shape[1], 4)
        return np.log([table[range(x.shape[1]), row.astype(int)] for row in x]).sum(1)
    return -0.5 * ((x - means) ** 2 + np.log(2 * np.pi)).sum(1)


FAMILIES = ["bernoulli", "poisson", Categorical(4, margin=1e-12), UnitNormal()]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: str(family).partition("(")[0])
def test_densities_and_bounds(family: object, dtype: type) -> None:
    x = problem(family, 120, 5, seed=0)
    weights = np.random.default_rng(0).uniform(0.5, 2.0, size=120)
    first = fit(Mixture(family, 3, max_iter=2, random_state=0), x, weights)
    joint = np.stack([np.log(first.weights_[k]) + log_density(family, first, x, k) for k in range(3)], axis=1)
    log_likelihood = logsumexp(joint, axis=1)
    responsibilities = np.exp(joint - log_likelihood[:, None])
    tolerance = 1e-6 if dtype == np.float64 else 2e-5  # margins of 1e-8 are in the first
    np.testing.assert_allclose(first.score_samples(x.astype(dtype)), log_likelihood, rtol=tolerance)
    np.testing.assert_allclose(first.predict_proba(x.astype(dtype)), responsibilities, atol=10 * tolerance)
    assert first.score(x.astype(dtype)) == pytest.approx(log_likelihood.mean(), rel=tolerance)
    options = {"weights_init": first.weights_, "means_init": first.means_, "tol": 0.0}
    second = fit(Mixture(family, 3, max_iter=1, **options), x, weights)
    after = np.stack([np.log(second.weights_[k]) + log_density(family, second, x, k) for k in range(3)], axis=1)
    with np.errstate(invalid="ignore"):
        expected = np.where(responsibilities > 1e-30, responsibilities * after, 0.0)
    expected = weights @ (expected - xlogy(responsibilities, responsibilities)).sum(1) / weights.sum()
    np.testing.assert_allclose(second.bounds_, [weights @ log_likelihood / weights.sum(), expected], rtol=1e-6)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: str(family).partition("(")[0])
def test_the_bound_never_decreases(family: object) -> None:
    for seed in range(40):
        x = problem(family, 40, 3, seed)
        mixture = fit(Mixture(family, 1 + seed % 5, max_iter=8, tol=0.0, random_state=seed, init_params="random"), x)
        # Margins, which keep parameters finite, cost at most 1e-8 for each statistic.
        assert (np.diff(mixture.bounds_) > -1e-7).all(), f"seed {seed}: {mixture.bounds_}"


def test_chunks_of_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Families whose statistics are not the rows: the same numbers, however many rows they are made for at once."""
    family = Categorical(4)
    x = problem(family, 200, 3, seed=1)
    whole = fit(Mixture(family, 3, random_state=0), x)
    monkeypatch.setattr("fastvi.em._components.FEATURE_ROWS", 64)
    parts = fit(Mixture(family, 3, random_state=0), x)
    np.testing.assert_allclose(parts.bounds_, whole.bounds_)
    np.testing.assert_allclose(parts.predict_proba(x), whole.predict_proba(x))
    np.testing.assert_allclose(parts.score_samples(x), whole.score_samples(x))


def test_weights_are_repeated_rows() -> None:
    for family in FAMILIES:
        x = problem(family, 40, 3, seed=2)
        repeats = np.random.default_rng(0).integers(1, 4, size=40)
        options = {"weights_init": [0.5, 0.5], "max_iter": 5, "tol": 0.0}
        means = fit(Mixture(family, 2, random_state=0, max_iter=0), x).means_
        weighted = fit(Mixture(family, 2, means_init=means, **options), x, repeats)
        repeated = fit(Mixture(family, 2, means_init=means, **options), np.repeat(x, repeats, axis=0))
        np.testing.assert_allclose(weighted.bounds_, repeated.bounds_)
        np.testing.assert_allclose(weighted.means_, repeated.means_)


def test_samples_and_parameters_are_counted() -> None:
    for family, free in zip(FAMILIES, (5, 5, 5 * 3, 5), strict=True):
        x = problem(family, 300, 5, seed=3)
        mixture = fit(Mixture(family, 3, random_state=0), x)
        drawn, components = mixture.sample(6000)
        assert drawn.shape == (6000, 5)
        for k in range(3):
            own = torch.from_numpy(drawn[components == k])
            statistics = own if not isinstance(family, Categorical) else family.sufficient_statistics(own)
            np.testing.assert_allclose(statistics.mean(0), mixture.means_[k], atol=0.2)
        parameters = (mixture.bic(x) - mixture.aic(x)) / (math.log(300) - 2.0)
        assert parameters == pytest.approx(3 * free + 2)


def test_a_tied_gaussian_of_variance_one() -> None:
    """The same E step as of the Gaussian mixture with that covariance."""
    x = problem(UnitNormal(), 100, 2, seed=4)
    options = {"weights_init": [0.3, 0.7], "means_init": x[:2], "max_iter": 0}
    own = fit(Mixture(UnitNormal(), 2, **options), x)
    gaussian = fit(GaussianMixture(2, covariance_type="spherical", precisions_init=[1.0, 1.0], **options), x)
    np.testing.assert_allclose(own.score_samples(x), gaussian.score_samples(x))
    np.testing.assert_allclose(own.predict_proba(x), gaussian.predict_proba(x), atol=1e-12)


def test_scikit_learns_checks() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for mixture, failing in ((Mixture(UnitNormal()), {}), (Mixture(UnitNormal(), 2), RANDOM_START)):
            for found in check_estimator(mixture, on_fail=None, expected_failed_checks=failing):
                message = f"{found['check_name']}: {found['exception']}"
                assert found["status"] in ("passed", "skipped", "xfail"), message


@pytest.mark.parametrize(
    ("family", "values", "message"),
    [
        ("bernoulli", [0.0, 1.5], r"Bernoulli: x must hold values in \[0, 1\], got 1.5"),
        ("poisson", [0.0, -1.0], r"Poisson: x must hold whole numbers of 0 or more, got -1"),
        (Categorical(3), [0.0, 3.0], "Categorical: x must hold whole numbers from 0 to 2, got 3"),
        (
            "gamma",
            [0.0, 1.0],
            "Mixture: family must be one of bernoulli, poisson, or an ExponentialFamily, got 'gamma'",
        ),
    ],
)
def test_errors(family: object, values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture(family, 1).fit(np.array([values, values]))


def test_families_at_the_edge() -> None:
    """Mean statistics at the edge of their domain have finite parameters, and a mean comes back."""
    for family, means in (
        (Bernoulli(), torch.tensor([[0.0, 1.0, 0.5]])),
        (Poisson(), torch.tensor([[0.0, 3.0, 100.0]])),
        (Categorical(3), torch.tensor([[0.0, 0.5, 0.5, 1.0, 0.0, 0.0]])),
    ):
        natural = family.natural_parameters(means.double()).requires_grad_()
        assert torch.isfinite(natural).all()
        (gradient,) = torch.autograd.grad(family.log_normalizer(natural).sum(), natural)
        torch.testing.assert_close(gradient, means.double(), atol=1e-7, rtol=1e-7)
