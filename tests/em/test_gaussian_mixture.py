"""The Gaussian mixture: bounds, scikit-learn's numbers, weights of rows, mini-batches, and what it refuses."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, xlogy
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as ScikitMixture
from sklearn.utils.estimator_checks import check_estimator

from fastvi.em import GaussianMixture

RANDOM_START = {
    "check_sample_weight_equivalence_on_dense_data": "random starts: a row that is there twice is drawn otherwise than "
    "one of weight 2; from the same start both give the same fit, see test_weights_are_repeated_rows"
}
"""What scikit-learn's `check_estimator` may not expect, and why."""

COVARIANCE_TYPES = ["full", "tied", "diag", "spherical"]


def fit(mixture: GaussianMixture, x: object, weights: object = None) -> GaussianMixture:
    """Without the warning that it did not converge, which most tests do not wait for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(x, sample_weight=weights)


def fit_theirs(mixture: ScikitMixture, x: np.ndarray) -> ScikitMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(x)


def clusters(rows: int, components: int, columns: int, seed: int, spread: float = 2.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = spread * random.normal(size=(components, columns))
    return centres[random.integers(components, size=rows)] + random.normal(size=(rows, columns))


def start(components: int, columns: int, covariance_type: str, x: np.ndarray) -> dict[str, np.ndarray]:
    precisions = {
        "full": np.stack([np.eye(columns)] * components),
        "tied": np.eye(columns),
        "diag": np.ones((components, columns)),
        "spherical": np.ones(components),
    }
    weights = np.full(components, 1 / components)
    return {"weights_init": weights, "means_init": x[:components], "precisions_init": precisions[covariance_type]}


def log_joint(mixture: GaussianMixture, x: np.ndarray) -> np.ndarray:
    """log p(x, k) of the fitted attributes, by SciPy."""
    found = np.empty((len(x), len(mixture.weights_)))
    for k in range(found.shape[1]):
        covariance = {
            "full": lambda k=k: mixture.covariances_[k],
            "tied": lambda: mixture.covariances_,
            "diag": lambda k=k: np.diag(mixture.covariances_[k]),
            "spherical": lambda k=k: mixture.covariances_[k] * np.eye(x.shape[1]),
        }[mixture.covariance_type]()
        density = multivariate_normal(mixture.means_[k], covariance, allow_singular=False).logpdf(x)
        found[:, k] = np.log(mixture.weights_[k]) + density
    return found


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_the_bound_after_each_half_step(covariance_type: str) -> None:
    """F(q, theta) = E_q log p(x, z | theta) + H(q), written out with SciPy: the log-likelihood after an E step, and
    never less after a half step than before it."""
    x = clusters(200, 3, 3, seed=0)
    weights = np.random.default_rng(1).uniform(0.1, 2.0, size=200)
    options = {"covariance_type": covariance_type, "reg_covar": 0.0, "tol": 0.0}
    given = start(3, 3, covariance_type, x)
    bounds = fit(GaussianMixture(3, max_iter=6, **options, **given), x, weights).bounds_
    before = fit(GaussianMixture(3, max_iter=0, **options, **given), x, weights)
    for iteration in range(6):
        joint = log_joint(before, x)
        log_likelihood = logsumexp(joint, axis=1)
        responsibilities = np.exp(joint - log_likelihood[:, None])
        np.testing.assert_allclose(bounds[2 * iteration], weights @ log_likelihood / weights.sum(), rtol=1e-10)
        after = fit(GaussianMixture(3, max_iter=iteration + 1, **options, **given), x, weights)
        free_energy = responsibilities * log_joint(after, x) - xlogy(responsibilities, responsibilities)
        expected = weights @ free_energy.sum(1) / weights.sum()
        np.testing.assert_allclose(bounds[2 * iteration + 1], expected, rtol=1e-10)
        before = after
    assert (np.diff(bounds) > 0).all()


def test_the_bound_never_decreases_in_a_thousand_problems() -> None:
    """Without ``reg_covar``, to the rounding of a mean of log densities."""
    random, runs = np.random.default_rng(0), 0
    for problem in range(1000):
        covariance_type = COVARIANCE_TYPES[problem % 4]
        columns, components = int(random.integers(1, 4)), int(random.integers(1, 5))
        x = clusters(int(random.integers(20, 60)), components, columns, problem, spread=random.uniform(0, 3))
        weights = random.uniform(0.5, 2.0, size=len(x)) if problem % 3 else None
        given = start(components, columns, covariance_type, x)
        mixture = GaussianMixture(
            components, covariance_type=covariance_type, reg_covar=0.0, max_iter=3, tol=0.0, **given
        )
        try:
            bounds = fit(mixture, x, weights).bounds_
        except ValueError:  # a component on too few rows has no covariance; few problems have one
            continue
        runs += 1
        assert (np.diff(bounds) > -1e-11 * np.abs(bounds).max()).all(), f"problem {problem}: {bounds}"
    assert runs > 950


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_the_numbers_of_scikit_learn(covariance_type: str, dtype: type) -> None:
    x = clusters(400, 4, 5, seed=2, spread=1.5).astype(dtype)
    options = {"covariance_type": covariance_type, "max_iter": 20, "tol": 0.0, "reg_covar": 1e-3}
    given = start(4, 5, covariance_type, x.astype(np.float64))
    ours = fit(GaussianMixture(4, **options, **given), x)
    theirs = fit_theirs(ScikitMixture(4, **options, **given), x)
    exact = x.astype(np.float64)
    tolerance = 1e-9 if dtype == np.float64 else 1e-6
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, rel=tolerance)
    if dtype == np.float64:
        assert ours.score(exact) == pytest.approx(theirs.score(exact), rel=tolerance)
        assert ours.bic(exact) == pytest.approx(theirs.bic(exact), rel=tolerance)
        assert ours.aic(exact) == pytest.approx(theirs.aic(exact), rel=tolerance)
        np.testing.assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=tolerance)
        for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-6)
        np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))
        np.testing.assert_allclose(ours.score_samples(x), theirs.score_samples(x), rtol=1e-6)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_weights_are_repeated_rows(covariance_type: str) -> None:
    x = clusters(60, 3, 2, seed=3)
    repeats = np.random.default_rng(0).integers(0, 4, size=60)
    repeats[:3] = 1
    options = {"covariance_type": covariance_type, "max_iter": 10, "tol": 0.0, **start(3, 2, covariance_type, x)}
    weighted = fit(GaussianMixture(3, **options), x, repeats.astype(float))
    repeated = fit(GaussianMixture(3, **options), np.repeat(x, repeats, axis=0))
    np.testing.assert_allclose(weighted.bounds_, repeated.bounds_, rtol=1e-9)
    np.testing.assert_allclose(weighted.means_, repeated.means_, rtol=1e-7)
    np.testing.assert_allclose(weighted.covariances_, repeated.covariances_, rtol=1e-6, atol=1e-9)
    assert weighted.score(x, sample_weight=repeats) == pytest.approx(repeated.score(np.repeat(x, repeats, axis=0)))


def test_scikit_learns_checks() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for mixture, failing in ((GaussianMixture(), {}), (GaussianMixture(2), RANDOM_START)):
            for found in check_estimator(mixture, on_fail=None, expected_failed_checks=failing):
                message = f"{found['check_name']}: {found['exception']}"
                assert found["status"] in ("passed", "skipped", "xfail"), message


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_tensors_are_as_arrays(covariance_type: str) -> None:
    x = clusters(80, 2, 3, seed=4)
    of_array = fit(GaussianMixture(2, covariance_type=covariance_type, random_state=0), x)
    of_tensor = fit(GaussianMixture(2, covariance_type=covariance_type, random_state=0), torch.from_numpy(x))
    np.testing.assert_array_equal(of_array.means_, of_tensor.means_)
    for method in ("predict", "predict_proba", "score_samples"):
        found = getattr(of_tensor, method)(torch.from_numpy(x))
        assert isinstance(found, torch.Tensor)
        np.testing.assert_array_equal(getattr(of_array, method)(x), found.numpy())
    again = pickle.loads(pickle.dumps(of_tensor))
    assert again.score(x) == of_array.score(x)


@pytest.mark.parametrize("method", ["kmeans", "k-means++", "random_from_data", "random"])
def test_starts(method: str) -> None:
    x = clusters(300, 4, 2, seed=5, spread=8.0)
    mixture = GaussianMixture(4, init_params=method, n_init=8, max_iter=300, random_state=0).fit(x)
    singles = [
        fit(GaussianMixture(4, init_params=method, max_iter=300, random_state=seed), x).lower_bound_
        for seed in range(3)
    ]
    truth = log_likelihood_of_the_truth(x)
    assert mixture.lower_bound_ > truth - (0.02 if method != "random" else 0.5)
    assert mixture.lower_bound_ >= max(singles) - 0.5
    # Components may come in any order, and the same seed gives the same fit.
    again = GaussianMixture(4, init_params=method, n_init=8, max_iter=300, random_state=0).fit(x)
    np.testing.assert_array_equal(again.means_, mixture.means_)


def log_likelihood_of_the_truth(x: np.ndarray) -> float:
    random = np.random.default_rng(5)
    centres = 8.0 * random.normal(size=(4, 2))
    return float(logsumexp([multivariate_normal(c, np.eye(2)).logpdf(x) for c in centres], axis=0).mean() - np.log(4))


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_mini_batches(covariance_type: str) -> None:
    """The first step on all rows is a full one; the next moves mean statistics by its size, here 2^-0.7."""
    x = clusters(90, 2, 2, seed=6)
    options = {"covariance_type": covariance_type, **start(2, 2, covariance_type, x)}
    whole = GaussianMixture(2, **options).partial_fit(x)
    once = fit(GaussianMixture(2, max_iter=1, **options), x)
    np.testing.assert_allclose(whole.means_, once.means_)
    np.testing.assert_allclose(whole.covariances_, once.covariances_)
    # Twice the same batch after an E step of the same parameters: a mixture of both batches, weighted.
    size = 2.0**-0.7
    first, second = x[:40], x[40:]
    mixture = GaussianMixture(2, **options).partial_fit(first)
    of_first = GaussianMixture(2, **options)
    joint = log_joint(fit(GaussianMixture(2, max_iter=0, **options), first), first)
    of_first = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    joint = log_joint(mixture, second)
    of_second = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    mixture.partial_fit(second)
    weights = np.concatenate([(1 - size) * of_first / 40, size * of_second / 50])
    count = weights.sum(0)
    means = weights.T @ x / count[:, None]
    np.testing.assert_allclose(mixture.weights_, count)
    np.testing.assert_allclose(mixture.means_, means)
    if covariance_type == "diag":
        np.testing.assert_allclose(mixture.covariances_, weights.T @ x**2 / count[:, None] - means**2 + 1e-6)
    if covariance_type == "tied":
        of_rows = np.concatenate([np.full(40, (1 - size) / 40), np.full(50, size / 50)])
        within = (x.T * of_rows) @ x - (means.T * count) @ means
        np.testing.assert_allclose(mixture.covariances_, within + 1e-6 * np.eye(2))
    assert mixture.n_steps_ == 2


def test_mini_batches_come_near_the_fit() -> None:
    x = clusters(6000, 3, 2, seed=7, spread=6.0)
    whole = GaussianMixture(3, random_state=0).fit(x)
    mixture = GaussianMixture(3, random_state=0)
    for start_row in range(0, 6000, 200):
        mixture.partial_fit(x[start_row : start_row + 200])
    assert mixture.score(x) > whole.score(x) - 0.02


def test_warm_start_goes_on() -> None:
    x = clusters(100, 3, 2, seed=8)
    options = {"tol": 0.0, "random_state": 0}
    twice = fit(GaussianMixture(3, max_iter=4, warm_start=True, **options), x)
    np.testing.assert_array_equal(fit(twice, x).means_, fit(GaussianMixture(3, max_iter=8, **options), x).means_)


def test_warm_start_of_another_size() -> None:
    mixture = fit(GaussianMixture(2, warm_start=True), clusters(50, 2, 2, seed=0))
    with pytest.raises(ValueError, match="warm_start goes on from 2 components in 2 columns, got 2 in 3"):
        mixture.fit(clusters(50, 2, 3, seed=0))


def test_samples() -> None:
    x = clusters(500, 2, 2, seed=9)
    for covariance_type in COVARIANCE_TYPES:
        mixture = fit(GaussianMixture(2, covariance_type=covariance_type, random_state=0), x)
        drawn, components = mixture.sample(20000)
        np.testing.assert_allclose(np.bincount(components) / 20000, mixture.weights_, atol=0.02)
        for k in range(2):
            own = drawn[components == k]
            np.testing.assert_allclose(own.mean(0), mixture.means_[k], atol=0.1)
            covariance = np.cov(own.T)
            expected = log_joint_covariance(mixture, k)
            np.testing.assert_allclose(covariance, expected, atol=0.08 * np.abs(expected).max())


def log_joint_covariance(mixture: GaussianMixture, k: int) -> np.ndarray:
    found = mixture.covariances_ if mixture.covariance_type == "tied" else mixture.covariances_[k]
    return np.eye(2) * found if np.ndim(found) < 2 else found


def test_an_empty_component_keeps_its_parameters() -> None:
    x = clusters(50, 1, 2, seed=10)
    for covariance_type in ("full", "diag", "spherical"):
        given = start(2, 2, covariance_type, np.array([[0.0, 0.0], [1e6, 1e6]]))
        mixture = GaussianMixture(2, covariance_type=covariance_type, reg_covar=0.0, **given).fit(x)
        assert mixture.weights_.tolist() == [1.0, 0.0]
        assert mixture.means_[1].tolist() == [1e6, 1e6]
        assert np.isfinite(mixture.score(x))
        assert (np.diff(mixture.bounds_) > -1e-12).all()


def test_constant_columns() -> None:
    x = np.concatenate([clusters(50, 2, 2, seed=11), np.full((50, 1), 3.0)], axis=1)
    for covariance_type in COVARIANCE_TYPES:
        mixture = fit(GaussianMixture(2, covariance_type=covariance_type, random_state=0), x)
        np.testing.assert_allclose(mixture.means_[:, 2], 3.0)
        assert np.isfinite(mixture.score(x))
        if covariance_type != "spherical":
            with pytest.raises(ValueError, match=r"a covariance is not positive definite: .* a column is constant"):
                fit(GaussianMixture(2, covariance_type=covariance_type, random_state=0, reg_covar=0.0), x)


X = clusters(20, 2, 2, seed=0)


@pytest.mark.parametrize(
    ("options", "x", "weights", "message"),
    [
        ({}, np.where(np.arange(40).reshape(20, 2) == 7, np.nan, X), None, "X contains NaN or infinity"),
        ({}, torch.full((20, 2), float("inf")), None, "X contains NaN or infinity"),
        ({"n_components": 21}, X, None, "got 20 rows for 21 components"),
        ({}, X, -np.arange(20.0), "sample_weight must not be negative, got -19"),
        ({}, X, np.zeros(20), "sample_weight is zero for every row"),
        ({}, X, np.ones(19), r"sample_weight has shape \(19,\), expected \(20,\)"),
        ({}, X, np.full(20, np.nan), "sample_weight contains NaN or infinity"),
        ({}, torch.zeros(20), None, r"X has shape \(20,\), expected \(rows, columns\)"),
        ({"n_components": 0}, X, None, "n_components must be an integer of 1 or more, got 0"),
        ({"n_init": True}, X, None, "n_init must be an integer of 1 or more, got True"),
        ({"tol": -1.0}, X, None, "tol must be a finite number of 0 or more, got -1.0"),
        ({"reg_covar": -1.0}, X, None, "reg_covar must be a finite number of 0 or more, got -1.0"),
        (
            {"covariance_type": "round"},
            X,
            None,
            "covariance_type must be one of full, tied, diag, spherical, got 'round'",
        ),
        ({"init_params": "best"}, X, None, r"init_params must be one of kmeans, .*, got 'best'"),
        ({"stepsize_power": 0.5}, X, None, r"stepsize_power must be in \(0.5, 1\], got 0.5"),
        ({"means_init": np.zeros((2, 3))}, X, None, r"means_init has shape \(2, 3\), expected \(2, 2\)"),
        ({"weights_init": [0.5, 0.6]}, X, None, "weights_init must be 0 or more and sum to 1"),
        ({"precisions_init": np.zeros((2, 2, 2))}, X, None, "precisions_init must be positive definite"),
    ],
)
def test_one_clear_line(options: dict[str, object], x: object, weights: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^GaussianMixture: .*{message}") as raised:
        GaussianMixture(**{"n_components": 2, **options}).fit(x, sample_weight=weights)
    assert "\n" not in str(raised.value)


def test_integers_and_half_precision() -> None:
    assert GaussianMixture(1).fit(np.arange(10).reshape(5, 2)).means_.tolist() == [[4.0, 5.0]]
    with pytest.raises(TypeError, match=r"GaussianMixture: X is torch\.float16, expected float32 or float64"):
        GaussianMixture(1).fit(torch.zeros(5, 2, dtype=torch.float16))
    with pytest.raises(ValueError, match="the first batch has 2 rows for 3 components"):
        GaussianMixture(3).partial_fit(X[:2])
    with pytest.raises(ValueError, match="X has 3 columns, expected the 2 of the fit"):
        GaussianMixture(1).fit(X).predict(torch.zeros(2, 3))


def test_float32_far_from_the_origin() -> None:
    """Sums about the rows' mean: the fit of shifted rows is the shifted fit, which x^2 in float32 could not tell."""
    x = clusters(300, 2, 2, seed=12).astype(np.float32)
    far = (x.astype(np.float64) + 4096.0).astype(np.float32)
    near = (far.astype(np.float64) - 4096.0).astype(np.float32)
    for covariance_type in COVARIANCE_TYPES:
        options = {"covariance_type": covariance_type, "tol": 0.0, "max_iter": 5}
        given = start(2, 2, covariance_type, near.astype(np.float64))
        of_near = fit(GaussianMixture(2, **options, **given), near)
        of_far = fit(GaussianMixture(2, **options, **(given | {"means_init": given["means_init"] + 4096.0})), far)
        np.testing.assert_allclose(of_far.covariances_, of_near.covariances_, rtol=1e-3, atol=1e-4)
        assert of_far.lower_bound_ == pytest.approx(of_near.lower_bound_, rel=1e-4)
