"""The Bayesian Gaussian mixture: its bound in Bishop's words, scikit-learn's numbers, and components that die out."""

from __future__ import annotations

import warnings

import mpmath
import numpy as np
import pytest
from scipy.special import digamma, gammaln, multigammaln
from scipy.stats import dirichlet, norm, wishart
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture as ScikitMixture
from sklearn.utils.estimator_checks import check_estimator

from fastvi.mean_field import BayesianGaussianMixture


def clusters(rows: int, centres: int, columns: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    places = 4.0 * random.normal(size=(centres, columns))
    return places[random.integers(centres, size=rows)] + random.normal(size=(rows, columns))


def fit(mixture: BayesianGaussianMixture | ScikitMixture, x: np.ndarray) -> BayesianGaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(x)


@pytest.mark.parametrize("seed", [0, 1])
def test_scikit_learns_numbers(seed: int) -> None:
    """From one start: responsibilities, parameters, and bounds up to the constants that scikit-learn leaves out."""
    x = clusters(120, 3, 2, seed)
    prior = {"weight_concentration_prior": 0.3, "mean_precision_prior": 0.5, "degrees_of_freedom_prior": 3.5}
    options = {"max_iter": 12, "tol": 0.0, "init_params": "random", "random_state": seed} | prior
    theirs = ScikitMixture(
        n_components=4, weight_concentration_prior_type="dirichlet_distribution", reg_covar=0.0, **options
    )
    fit(theirs, x)
    # Its start makes one more M step, before the first iteration.
    ours = fit(BayesianGaussianMixture(4, **(options | {"max_iter": 13})), x)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-6)
    for name in ("weights_", "means_", "covariances_", "degrees_of_freedom_", "mean_precision_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-6, atol=1e-8, err_msg=name)
    # Left out there: pi of the likelihood, the prior's normalisers, and pi of the Gaussians' and the Wisharts'.
    covariance = np.cov(x.T)
    wishart_norm = 3.5 * np.log(2.0) - 1.75 * np.linalg.slogdet(covariance)[1] + multigammaln(1.75, 2)
    of_prior = 4 * gammaln(0.3) - gammaln(1.2) + 4 * (wishart_norm + np.log(2.0 * np.pi / 0.5))
    constant = 4 * (np.log(2.0 * np.pi) + 0.5 * np.log(np.pi)) - of_prior - 120 * np.log(2.0 * np.pi)
    np.testing.assert_allclose(ours.bounds_[2::2], np.array(theirs.lower_bounds_) + constant, rtol=1e-9, atol=1e-5)


def bound_of_bishop(mixture: BayesianGaussianMixture, x: np.ndarray, responsibilities: np.ndarray) -> float:
    """E[log p(X, Z, pi, mu, Lambda)] - E[log q], term by term (equations 10.71 to 10.77), W0^-1 = cov, m0 = mean."""
    count, size = mixture.means_.shape
    alpha, beta, nu = mixture.weight_concentration_, mixture.mean_precision_, mixture.degrees_of_freedom_
    alpha0, beta0, nu0 = 1.0 / count, mixture.mean_precision_prior, float(size)
    centre, scale0 = x.mean(0), np.linalg.inv(np.cov(x.T))
    log_pi = digamma(alpha) - digamma(alpha.sum())
    total = (responsibilities * log_pi).sum() - (responsibilities * np.log(np.maximum(responsibilities, 1e-300))).sum()
    total += gammaln(count * alpha0) - count * gammaln(alpha0) + ((alpha0 - 1.0) * log_pi).sum()
    total += dirichlet(alpha).entropy()
    for k in range(count):
        precision = np.linalg.inv(mixture.covariances_[k])
        matrix = precision / nu[k]
        log_det = digamma(0.5 * (nu[k] - np.arange(size))).sum() + size * np.log(2.0) + np.linalg.slogdet(matrix)[1]
        off = x - mixture.means_[k]
        squares = size / beta[k] + ((off @ precision) * off).sum(1)
        total += (responsibilities[:, k] * 0.5 * (log_det - size * np.log(2.0 * np.pi) - squares)).sum()
        move = mixture.means_[k] - centre
        total += 0.5 * (size * np.log(beta0 / (2.0 * np.pi)) + log_det)
        total -= 0.5 * beta0 * (size / beta[k] + move @ precision @ move)
        total += 0.5 * (nu0 - size - 1.0) * log_det - 0.5 * np.trace(np.linalg.inv(scale0) @ precision)
        total -= 0.5 * nu0 * (size * np.log(2.0) + np.linalg.slogdet(scale0)[1]) + multigammaln(0.5 * nu0, size)
        total -= 0.5 * (log_det + size * np.log(beta[k] / (2.0 * np.pi)) - size)
        total += wishart(nu[k], matrix).entropy()
    return float(total)


def test_the_full_bound_after_both_half_steps() -> None:
    x = clusters(60, 2, 3, 3)
    found = fit(BayesianGaussianMixture(3, max_iter=30, tol=0.0, random_state=0), x)
    assert bool((np.diff(found.bounds_) > -1e-8).all())
    assert found.bounds_[-1] == pytest.approx(bound_of_bishop(found, x, found.predict_proba(x)), abs=1e-7)
    before = fit(BayesianGaussianMixture(3, max_iter=29, tol=0.0, random_state=0), x)
    assert found.bounds_[-2] == pytest.approx(bound_of_bishop(found, x, before.predict_proba(x)), abs=1e-7)


def test_one_component_is_exact() -> None:
    """The bound is the evidence then: by quadrature over mean and precision, and a product of predictive densities."""
    x = np.array([[0.3], [-1.2], [0.8]])
    prior = {"mean_prior": [0.0], "covariance_prior": [[1.5]], "degrees_of_freedom_prior": 2.0}
    found = BayesianGaussianMixture(1, **prior).fit(x)

    # Gauss-Legendre over the mean, between -30 and 30, and over the logarithm of the precision.
    nodes, weights = np.polynomial.legendre.leggauss(400)
    mean, log_precision = 30.0 * nodes[:, None], 12.0 * nodes - 6.0
    precision = np.exp(log_precision)
    log_joint = norm(mean, precision**-0.5).logpdf(0.0) + wishart(2.0, 1 / 1.5).logpdf(precision) + log_precision
    log_joint = log_joint + sum(norm(mean, precision**-0.5).logpdf(value) for value in x[:, 0])
    evidence = 30.0 * 12.0 * weights @ np.exp(log_joint) @ weights
    assert found.lower_bound_ == pytest.approx(np.log(evidence), abs=1e-5)
    wide = clusters(20, 1, 2, 5)
    prior = {"mean_prior": np.zeros(2), "covariance_prior": np.eye(2), "degrees_of_freedom_prior": 2.5}
    seen = [BayesianGaussianMixture(1, **prior).fit(wide[:rows]) for rows in range(2, 21)]
    expected = [before.score_samples(row[None])[0] for before, row in zip(seen, wide[2:], strict=False)]
    np.testing.assert_allclose(np.diff([each.lower_bound_ for each in seen]), expected, atol=1e-8)


def test_components_that_no_row_needs_die_out() -> None:
    x = clusters(200, 2, 2, 8)
    found = BayesianGaussianMixture(6, weight_concentration_prior=1e-3, max_iter=1000, random_state=1).fit(x)
    assert sorted(found.weights_ > 0.01) == [False] * 4 + [True] * 2
    assert found.weights_.sum() == pytest.approx(1.0)
    dead = found.weights_ < 1e-4
    np.testing.assert_allclose(found.means_[dead], np.tile(x.mean(0), (4, 1)), atol=0.1)


def test_it_is_a_scikit_learn_estimator() -> None:
    check_estimator(BayesianGaussianMixture(tol=1e-3), on_skip=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 9}, "got 5 rows for 9 components, expected as many"),
        ({"degrees_of_freedom_prior": 1.0}, "degrees_of_freedom_prior must be more than 1, got 1.0"),
        ({"covariance_prior": -np.eye(2)}, "covariance_prior is not positive definite"),
        ({"mean_prior": [0.0]}, r"mean_prior has shape \(1,\), expected \(2\)"),
        ({"weight_concentration_prior": -1.0}, "weight_concentration_prior must be a positive number, got -1.0"),
        ({"init_params": "best"}, "init_params must be one of kmeans, random, got 'best'"),
    ],
)
def test_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^BayesianGaussianMixture: {message}"):
        BayesianGaussianMixture(**options).fit(np.random.default_rng(0).normal(size=(5, 2)))


def test_a_constant_column_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="the covariance of the rows is not positive definite"):
        BayesianGaussianMixture(1).fit(np.c_[np.arange(5.0), np.ones(5)])


def two_clusters() -> np.ndarray:
    random = np.random.default_rng(0)
    return np.concatenate([random.normal(-2.0, 1.0, (60, 3)), random.normal(2.0, 0.5, (40, 3))])


@pytest.mark.parametrize("size", [1e30, 1e61, 1e100, 1e154, 1e155, 1e200, 1e307])
def test_rows_however_far_have_a_density_and_probabilities(size: float) -> None:
    """By the definitions in 60 digits: Bishop 2006, equations 10.46, 10.64, 10.65, 10.67 and 10.81."""
    found = BayesianGaussianMixture(2, random_state=0).fit(two_clusters())
    rows = np.array([[size, 0.0, 0.0], [-size, size, 3.0], [0.0, -size / 3.0, size]])
    weights = found.weight_concentration_ / found.weight_concentration_.sum()
    log_responsibilities, log_densities = [], []
    with mpmath.workdps(60):
        for k in range(2):
            degrees, scale = (mpmath.mpf(float(v[k])) for v in (found.degrees_of_freedom_, found.mean_precision_))
            inverse = degrees * mpmath.matrix(found.covariances_[k].tolist())
            precision, determinant = mpmath.inverse(inverse), mpmath.det(inverse)
            offs = mpmath.matrix((rows - found.means_[k]).tolist())
            squares = [(offs[i, :] * precision * offs[i, :].T)[0] for i in range(3)]
            # The constants are drowned by the distances.
            log_responsibilities.append([-degrees * each / 2 for each in squares])
            of_t = degrees - 2
            ratio = scale / (1 + scale)
            log_densities.append(
                [
                    mpmath.log(float(weights[k]))
                    + mpmath.loggamma((of_t + 3) / 2)
                    - mpmath.loggamma(of_t / 2)
                    + 1.5 * mpmath.log(ratio / mpmath.pi)
                    - mpmath.log(determinant) / 2
                    - (of_t + 3) / 2 * mpmath.log1p(ratio * each)
                    for each in squares
                ]
            )
        best = [int(second > first) for first, second in zip(*log_responsibilities, strict=True)]
        scores = [float(mpmath.log(mpmath.exp(a) + mpmath.exp(b))) for a, b in zip(*log_densities, strict=True)]
    np.testing.assert_array_equal(found.predict_proba(rows), np.eye(2)[best])
    np.testing.assert_array_equal(found.predict(rows), best)
    np.testing.assert_allclose(found.score_samples(rows), scores, rtol=1e-12)


@pytest.mark.parametrize("init", ["kmeans", "random"])
@pytest.mark.parametrize("size", [1e153, 1e160, 1e300])
def test_squares_beyond_float64_are_refused(size: float, init: str) -> None:
    with pytest.raises(ValueError, match=r"^BayesianGaussianMixture: the squares of X overflow float64, with a value"):
        BayesianGaussianMixture(2, init_params=init, covariance_prior=np.eye(3)).fit(two_clusters() * size)
