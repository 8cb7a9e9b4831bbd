"""Rows far from all components, against arithmetic of hundreds of digits: exact probabilities, or one clear refusal."""

from __future__ import annotations

import itertools
import warnings

import mpmath
import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from fastvi import expfam
from fastvi.em import GaussianMixture, HiddenMarkovModel, Mixture
from fastvi.em._data import read_rows
from fastvi.em._gaussian import COVARIANCE_TYPES
from fastvi.em._start import START_METHODS
from fastvi.em._step import CHUNK_ROWS

DTYPES = [np.float64, np.float32]
RANDOM = np.random.default_rng(0)
X = np.concatenate([RANDOM.normal(-2.0, 1.0, (60, 3)), RANDOM.normal(2.0, 0.5, (40, 3))])
DISTANCES = [3.0, 30.0, 300.0, 1e4, 1e6, 1e9, 1e15, 1e20, 1e30, 1e37, 1e100, 1e150]
REFUSED = r"row {} of X is too far from the components, with a value of {} in size: its log density overflows float64$"


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(400):
        yield


def exact_log_densities(x: np.ndarray, means: np.ndarray, roots: np.ndarray, covariance_type: str) -> list[mpmath.mpf]:
    """Of one row under each Gaussian, whose precision is a root times its transpose."""
    columns = len(x)
    found = []
    for k, mean in enumerate(means):
        root = roots if covariance_type == "tied" else roots[k]
        if covariance_type in ("diag", "spherical"):
            root = np.diag(np.full(columns, root))
        away = [mpmath.mpf(float(x[d])) - mpmath.mpf(float(mean[d])) for d in range(columns)]
        total = -columns * mpmath.log(2 * mpmath.pi) / 2
        for e in range(columns):
            total += mpmath.log(float(root[e, e]))
            total -= mpmath.fsum(away[d] * mpmath.mpf(float(root[d, e])) for d in range(columns)) ** 2 / 2
        found.append(total)
    return found


def exact(mixture: GaussianMixture, x: np.ndarray) -> tuple[np.ndarray, mpmath.mpf]:
    """Responsibilities and log-likelihood of one row."""
    densities = exact_log_densities(x, mixture.means_, mixture.precisions_cholesky_, mixture.covariance_type)
    joint = [mpmath.log(float(w)) + value for w, value in zip(mixture.weights_, densities, strict=True)]
    return normalised(joint)


def normalised(joint: list[mpmath.mpf]) -> tuple[np.ndarray, mpmath.mpf]:
    largest = max(joint)
    total = mpmath.fsum(mpmath.exp(each - largest) for each in joint)
    return np.array([float(mpmath.exp(each - largest) / total) for each in joint]), largest + mpmath.log(total)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_probabilities_at_any_distance(covariance_type: str, dtype: type) -> None:
    mixture = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(X.astype(dtype))
    for distance, direction in itertools.product(DISTANCES, ([1.0, 0.0, 0.0], [-1.0, 0.3, 2.0])):
        if distance > 1e37 and dtype == np.float32:
            continue
        # A near row beside the far one, which must not be touched by it.
        x = np.stack([np.array(direction) * distance, X[0]]).astype(dtype)
        responsibilities, log_likelihood = exact(mixture, x[0])
        found = mixture.predict_proba(x)
        np.testing.assert_allclose(found[0], responsibilities, atol=1e-9 if dtype == np.float64 else 1e-3)
        np.testing.assert_allclose(found[1], mixture.predict_proba(x[1:])[0], rtol=1e-6)
        assert mixture.predict(x)[0] == responsibilities.argmax()
        assert abs(mixture.score(x[:1]) / log_likelihood - 1) < 1e-5
        if log_likelihood < -np.finfo(dtype).max:
            with pytest.raises(ValueError, match=r"^GaussianMixture: the log-likelihood of row 0 of X, .* float32"):
                mixture.score_samples(x)
        else:
            assert abs(float(mixture.score_samples(x)[0]) / log_likelihood - 1) < 1e-5


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_what_overflows_is_refused_by_every_method(covariance_type: str) -> None:
    options = {"covariance_type": covariance_type, "random_state": 0}
    for size in (1e155, 1e300, -1.7e308):
        x = np.concatenate([X, [[0.0, size, 0.0]]])
        for fitted in (GaussianMixture(2, **options).fit(X), HiddenMarkovModel(2, **options).fit(X)):
            message = f"^{type(fitted).__name__}: " + REFUSED.format(100, f"{abs(size):g}").replace("+", r"\+")
            for name in ("predict", "predict_proba", "score", "score_samples", "partial_fit"):
                if hasattr(fitted, name):
                    with pytest.raises(ValueError, match=message):
                        getattr(fitted, name)(x)
            for init_params in START_METHODS:
                with pytest.raises(ValueError, match=f"^{type(fitted).__name__}: sums over the rows of X overflow"):
                    type(fitted)(2, init_params=init_params, **options).fit(x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_log_odds_are_constant_along_the_border(covariance_type: str, dtype: type) -> None:
    """Components of one covariance: log-odds are linear, and do not change orthogonally to the discriminant.

    With the precision P = ((2, 1), (1, 3)), or 2 for all columns, P times the difference of the means is along the
    first column; halfway between the means the odds are those of the weights, .6 to .4, whatever the second column.
    """
    is_matrix = covariance_type in ("full", "tied")
    difference = np.array([3.0, -1.0]) if is_matrix else np.array([2.0, 0.0])
    precision = np.array([[2.0, 1.0], [1.0, 3.0]])
    given = {"full": [precision, precision], "tied": precision, "diag": np.full((2, 2), 2.0), "spherical": [2.0, 2.0]}
    middle = np.array([0.5, 1.5])
    mixture = GaussianMixture(
        2,
        covariance_type=covariance_type,
        weights_init=[0.6, 0.4],
        means_init=[middle + difference / 2, middle - difference / 2],
        precisions_init=given[covariance_type],
        max_iter=0,
    ).fit(X[:, :2].astype(dtype))
    powers = (0, 6, 10, 20, 21) if dtype == np.float32 else (0, 10, 20, 30, 40)
    for distance in 2.0 ** np.array(powers):  # which the dtype holds exactly beside 1.5
        found = mixture.predict_proba((middle + np.array([[0.0, distance], [0.0, -distance]])).astype(dtype))
        tolerance = 1e-15 * max(distance, 1e4) if dtype == np.float64 else 1e-3
        np.testing.assert_allclose(found, [[0.6, 0.4]] * 2, atol=tolerance)
    far = np.array([[1e17, 0.0], [-1e17, 0.0]], dtype=dtype)
    assert mixture.predict_proba(far).tolist() == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_sums_contain_far_rows(covariance_type: str, dtype: type) -> None:
    """What an M step reads: counts, sums and squares are those of exact responsibilities."""
    mixture = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(X.astype(dtype))
    state = mixture._state
    x = np.concatenate([X, X[:5] * 3e5, X[5:10] * 4e6]).astype(dtype)
    weights = np.linspace(0.5, 1.9, len(x)).astype(dtype)
    rows = read_rows(mixture, x, weights, reset=False)
    found = state.run(rows, moments=None).statistics
    responsibilities, log_likelihoods = zip(*[exact(mixture, row) for row in x], strict=True)
    weighted = np.array(responsibilities) * weights[:, None]
    y = x - state.origin.to(torch.from_numpy(x).dtype).double().numpy()
    tolerance = 1e-9 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(found.count, weighted.sum(0), rtol=tolerance)
    assert found.log_likelihood == pytest.approx(
        float(weights.astype(float) @ np.array(log_likelihoods)), rel=tolerance
    )
    scale = np.abs(weighted.T @ y).max()
    np.testing.assert_allclose(found.first, weighted.T @ y, rtol=tolerance, atol=tolerance * scale)
    if covariance_type == "full":
        expected = np.einsum("nk,nd,ne->kde", weighted, y, y)
        np.testing.assert_allclose(found.second, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_a_far_row_in_a_sequence(covariance_type: str, dtype: type) -> None:
    """Posteriors of all rows of a sequence against all its paths: the ordinary rows keep theirs."""
    rows = np.concatenate([X[:10], X[60:70], X[10:20]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = HiddenMarkovModel(2, covariance_type=covariance_type, random_state=0, max_iter=5).fit(
            rows.astype(dtype)
        )
    roots = model._state.emissions.precisions_cholesky.numpy()
    transmat = model.transmat_ * 0.9 + 0.05  # no path is impossible
    start = model.startprob_ * 0.9 + 0.05
    model._state.log_transition.copy_(torch.from_numpy(np.log(transmat)))
    model._state.log_start.copy_(torch.from_numpy(np.log(start)))
    for distance in (1e4, 1e9, 1e15, 1e20):
        x = np.stack([X[0], X[61], [distance, 0.0, 0.0], X[62], X[1]]).astype(dtype)
        densities = [exact_log_densities(row, model.means_, roots, covariance_type) for row in x]
        paths = list(itertools.product(range(2), repeat=len(x)))
        joint = []
        for path in paths:
            total = mpmath.log(start[path[0]]) + mpmath.fsum(densities[n][k] for n, k in enumerate(path))
            joint.append(total + mpmath.fsum(mpmath.log(transmat[i, j]) for i, j in itertools.pairwise(path)))
        probabilities, log_likelihood = normalised(joint)
        posteriors = np.array(
            [[probabilities[[path[n] == k for path in paths]].sum() for k in range(2)] for n in range(len(x))]
        )
        found = model.predict_proba(x)
        np.testing.assert_allclose(found, posteriors, atol=1e-9 if dtype == np.float64 else 1e-4)
        assert model.predict(x).tolist() == list(paths[int(np.argmax(probabilities))])
        assert abs(model.score(x) * len(x) / log_likelihood - 1) < 1e-5


def test_other_families() -> None:
    """Rates of 1 and 4: the log-odds of a count n are n log 4 - 3 for the second."""
    mixture = Mixture("poisson", 2, means_init=[[1.0], [4.0]], weights_init=[0.5, 0.5], max_iter=0)
    for dtype in (np.float64, np.float32):
        fitted = mixture.fit(np.array([[1.0], [4.0]], dtype=dtype))
        sizes = [2.0, 1e6, 1e30, 1e37] + ([1e100, 1e300] if dtype == np.float64 else [])
        for size in sizes:
            x = np.array([[size]], dtype=dtype)
            odds = mpmath.exp(mpmath.mpf(float(x[0, 0])) * mpmath.log(4) - 3) if size < 1e3 else mpmath.inf
            expected = 1.0 if odds == mpmath.inf else float(odds / (1 + odds))
            assert fitted.predict_proba(x)[0, 1] == pytest.approx(expected, rel=1e-6)
            assert fitted.predict(x).tolist() == [1 if odds > 1 else 0]
    # -n log n: below all numbers of float32 at 1e37, no overflow in float64.
    with pytest.raises(ValueError, match=r"^Mixture: the log-likelihood of row 0 of X, -8\..*e\+38, overflows float32"):
        fitted.score_samples(np.array([[1e37]], dtype=np.float32))
    n = mpmath.mpf(float(np.float32(1e37)))
    value = n * mpmath.log(4) - mpmath.loggamma(n + 1)
    assert abs(fitted.score(np.array([[1e37]], dtype=np.float32)) / value - 1) < 1e-6
    gaussian = Mixture(expfam.Gaussian(), 2, random_state=0).fit(X)
    with pytest.raises(ValueError, match="^Mixture: " + REFUSED.format(1, r"1e\+155")):
        gaussian.predict_proba(np.array([[0.0, 0.0, 0.0], [0.0, -1e155, 0.0]]))


def test_sums_that_overflow_are_refused() -> None:
    for covariance_type in COVARIANCE_TYPES:
        mixture = GaussianMixture(2, covariance_type=covariance_type, random_state=0)
        with pytest.raises(
            ValueError, match=r"^GaussianMixture: sums over the rows of X overflow float32; expected rows"
        ):
            mixture.fit((X * 1e30).astype(np.float32))
        scaled = mixture.fit(X * 1e30)
        np.testing.assert_allclose(scaled.means_, mixture.fit(X).means_ * 1e30, rtol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_several_chunks(dtype: type) -> None:
    """Far rows behind many near ones, which are taken in chunks: they keep their places, in messages too."""
    mixture = GaussianMixture(2, covariance_type="tied", random_state=0).fit(X.astype(dtype))
    few = np.concatenate([X, X[:3] * 1e6]).astype(dtype)
    x = np.concatenate([np.tile(X, (700, 1)), X[:3] * 1e6]).astype(dtype)
    assert len(x) > CHUNK_ROWS
    for name in ("predict", "predict_proba", "score_samples"):
        found, expected = getattr(mixture, name)(x), getattr(mixture, name)(few)
        assert found.dtype == (np.int64 if name == "predict" else dtype)
        np.testing.assert_allclose(found[-3:], expected[-3:])
        np.testing.assert_allclose(found[-103:-3], expected[:100], rtol=1e-4)
    values = mixture.score_samples(x).astype(np.float64)
    assert mixture.score(x) == pytest.approx(values.mean(), rel=1e-6)
    gaussian = Mixture(expfam.Gaussian(), 1).fit(X)
    for fitted in (mixture, gaussian):
        far = np.concatenate([x.astype(np.float64), [[0.0, -3e200, 0.0]]])
        with pytest.raises(ValueError, match=f"^{type(fitted).__name__}: " + REFUSED.format(len(x), r"3e\+200")):
            fitted.score(far)


@pytest.mark.parametrize("kind", [GaussianMixture, HiddenMarkovModel])
def test_a_message_names_its_estimator(kind: type) -> None:
    with pytest.raises(ValueError, match=f"^{kind.__name__}: a covariance is not positive definite"):
        kind(1, reg_covar=0.0).fit(np.ones((5, 2)))
