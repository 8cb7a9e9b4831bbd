"""The estimator: scikit-learn's own of the same name, its checks of estimators, and what is refused."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import SparseCoder as ScikitSparseCoder
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from fastvi.coding import SparseCoder, active_set
from support.sparse_coding import objectives, some_problem

ALGORITHMS = ["active_set", "fista", "ista"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_the_codes_of_scikit_learn(algorithm: Any, alpha: float) -> None:
    """Its alpha is ours, at an objective within its tolerance."""
    x, dictionary = some_problem(20, 10, 25)
    theirs = ScikitSparseCoder(
        dictionary, transform_algorithm="lasso_cd", transform_alpha=alpha, transform_max_iter=100_000
    ).transform(x)
    ours = SparseCoder(dictionary, alpha=alpha, algorithm=algorithm, num_steps=20_000, tolerance=1e-9).transform(x)
    expected = objectives(x, theirs, dictionary, alpha)
    np.testing.assert_allclose(objectives(x, ours, dictionary, alpha), expected, rtol=1e-4)
    assert (objectives(x, ours, dictionary, alpha) <= expected * (1.0 + 1e-8)).all()


def test_methods() -> None:
    x, dictionary = some_problem(20, 10, 25)
    coder = SparseCoder(dictionary, alpha=0.1)
    codes = coder.fit(x).transform(x)
    np.testing.assert_array_equal(codes, active_set(x, dictionary, 0.1).codes)
    np.testing.assert_array_equal(coder.fit_transform(x), codes)
    np.testing.assert_allclose(coder.inverse_transform(codes), codes @ dictionary, atol=1e-14)
    assert coder.n_features_in_ == 10
    np.testing.assert_array_equal(coder.components_, dictionary)


def test_single_precision_stays() -> None:
    x, dictionary = some_problem(20, 10, 25)
    coder = SparseCoder(dictionary, alpha=0.1).fit(x)
    codes = coder.transform(x.astype(np.float32))
    assert codes.dtype == np.float32
    np.testing.assert_allclose(codes, coder.transform(x), atol=1e-3)


def test_copies_and_parameters() -> None:
    x, dictionary = some_problem(20, 10, 25)
    coder = SparseCoder(dictionary, alpha=0.1, algorithm="fista", num_steps=500, tolerance=1e-5)
    other = clone(coder)
    parameters = coder.get_params()
    assert parameters["alpha"] == 0.1
    assert parameters["dictionary"] is dictionary
    np.testing.assert_array_equal(other.get_params()["dictionary"], dictionary)
    np.testing.assert_array_equal(other.fit_transform(x), coder.fit_transform(x))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(coder)).transform(x), coder.transform(x))
    exact = coder.set_params(algorithm="active_set", alpha=0.3).fit_transform(x)
    np.testing.assert_array_equal(exact, active_set(x, dictionary, 0.3).codes)


def test_in_a_pipeline() -> None:
    x, dictionary = some_problem(20, 10, 25)
    pipeline = make_pipeline(StandardScaler(), SparseCoder(dictionary, alpha=0.1))
    scaled = StandardScaler().fit_transform(x)
    np.testing.assert_allclose(pipeline.fit_transform(x), active_set(scaled, dictionary, 0.1).codes, atol=1e-12)


class CoderOfAnyWidth(SparseCoder):  # type: ignore[misc]
    """Atoms that fit whatever columns the data have: scikit-learn's checks have data of several."""

    def __init__(self, alpha: float = 1.0, algorithm: Any = "active_set") -> None:
        self.alpha = alpha
        self.algorithm = algorithm

    num_steps = None
    tolerance = 1e-6

    @property
    def dictionary(self) -> np.ndarray:
        return np.random.default_rng(0).normal(size=(6, self.n_features_in_))


@pytest.mark.parametrize("algorithm", ["active_set", "fista"])
def test_scikit_learns_checks(algorithm: Any) -> None:
    for found in check_estimator(CoderOfAnyWidth(algorithm=algorithm), on_fail=None, on_skip=None):
        assert found["status"] in ("passed", "skipped"), (found["check_name"], found["exception"])


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            {"algorithm": "lars"},
            ValueError,
            "algorithm must be one of active_set, fista, ista, got 'lars'",
        ),
        ({"alpha": 0.0}, ValueError, "SparseCoder: alpha must be positive"),
        ({"alpha": "1"}, TypeError, "alpha"),
        ({"dictionary": np.zeros((4, 9))}, ValueError, "10 columns, expected 9"),
        ({"dictionary": np.full((4, 10), np.nan)}, ValueError, "dictionary contains NaN"),
        ({"dictionary": None}, (TypeError, ValueError), "dictionary|array"),
        ({"num_steps": 0}, ValueError, "num_steps"),
        ({"algorithm": "ista", "num_steps": -1}, ValueError, "num_steps"),
        ({"algorithm": "fista", "tolerance": -1.0}, ValueError, "tolerance"),
    ],
)
def test_bad_parameters_are_named(wrong: dict[str, Any], error: Any, message: str) -> None:
    x, dictionary = some_problem(20, 10, 25)
    with pytest.raises(error, match=message):
        SparseCoder(**({"dictionary": dictionary} | wrong)).fit(x).transform(x)


def test_bad_data_are_named() -> None:
    x, dictionary = some_problem(20, 10, 25)
    coder = SparseCoder(dictionary).fit(x)
    with pytest.raises(ValueError, match="9 features"):
        coder.transform(x[:, :9])
    with pytest.raises(ValueError, match="contains NaN"):
        coder.transform(np.where(x > x.max() - 1e-9, np.nan, x))
    with pytest.raises(ValueError, match="24 columns, expected 25"):
        coder.inverse_transform(np.zeros((3, 24)))
