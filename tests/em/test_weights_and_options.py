"""Weights of rows have no unit; options, families and weights that are none are refused in one line."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from fastvi import expfam
from fastvi.em import Bernoulli, Categorical, GaussianMixture, HiddenMarkovModel, Mixture, Poisson
from fastvi.em._gaussian import COVARIANCE_TYPES

RANDOM = np.random.default_rng(0)
X = np.concatenate([RANDOM.normal(-2.0, 1.0, (60, 3)), RANDOM.normal(2.0, 0.5, (40, 3))])
BITS = (X > 0).astype(float)
WEIGHTS = RANDOM.uniform(0.5, 2.0, 100)
FACTORS = [1e-300, 1e-100, 1e-18, 1e-16, 1e-3, 3.0, 1e100, 1e300]

ESTIMATORS = [GaussianMixture(2, covariance_type=each, random_state=0) for each in COVARIANCE_TYPES]
ESTIMATORS += [Mixture("bernoulli", 2, random_state=0), Mixture(expfam.Gaussian(), 2, random_state=0)]


def rows_of(estimator: Any) -> np.ndarray:
    return BITS if getattr(estimator, "family", None) == "bernoulli" else X


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_a_factor_of_all_weights_changes_nothing(estimator: Any, dtype: type) -> None:
    """The log-likelihood of weighted rows is multiplied by it: the largest stays where it is."""
    x, tolerance = rows_of(estimator).astype(dtype), 1e-9 if dtype == np.float64 else 1e-4

    def results(weights: Any) -> list[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = estimator.set_params(tol=1e-6).fit(x, sample_weight=weights)
        found = [fitted.means_, fitted.weights_, fitted.bounds_, fitted.lower_bound_, fitted.score(x, None, weights)]
        streamed = type(estimator)(**estimator.get_params()).partial_fit(x, None, weights)
        streamed = streamed.partial_fit(x[::-1].copy(), None, weights)
        return [*found, streamed.means_, streamed.weights_, streamed.lower_bound_]

    expected = results(WEIGHTS)
    for factor in FACTORS:
        for found, value in zip(results(WEIGHTS * factor), expected, strict=True):
            np.testing.assert_allclose(found, value, rtol=tolerance, atol=tolerance, err_msg=f"factor {factor}")
    ones = results(None)
    for least_and_most in (5e-324, 1.7e308):
        for found, value in zip(results(np.full(100, least_and_most)), ones, strict=True):
            np.testing.assert_allclose(found, value, rtol=tolerance, atol=tolerance)


def test_the_weighted_mean() -> None:
    """One Gaussian: its mean and covariance are the weighted ones, in the words of NumPy."""
    for factor in (1e-300, 1.0, 1e300):
        mixture = GaussianMixture(1, reg_covar=0.0).fit(X, sample_weight=torch.from_numpy(WEIGHTS * factor))
        np.testing.assert_allclose(mixture.means_[0], np.average(X, axis=0, weights=WEIGHTS))
        np.testing.assert_allclose(mixture.covariances_[0], np.cov(X.T, aweights=WEIGHTS, ddof=0))


def test_weights_that_are_none() -> None:
    for weights in (
        "a",
        ["a"] * 100,
        [[1.0], [2.0, 3.0]],
        {"a": 1},
        object(),
        np.full(100, 1j),
        torch.full((100,), 1j),
    ):
        for estimator in (GaussianMixture(2), Mixture(expfam.Gaussian(), 2)):
            for fit in (estimator.fit, estimator.partial_fit):
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    assert_one_line(partial(fit, X, None, weights), type(estimator).__name__, "sample_weight")


def assert_one_line(call: Any, owner: str, word: str) -> None:
    with pytest.raises(ValueError, match=f"^{owner}: .*{word}") as raised:
        call()
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 250


WRONG = {
    "number": ["a", None, -1, -0.5, np.nan, np.inf, True, [1.0], 10**400, 1j, np.ones((9, 9))],
    "count": ["a", None, -1, 1.5, True, [1], np.ones((9, 9))],
    "flag": ["no", None, 1, 0, [True], np.ones((9, 9))],
    "word": [None, 1, "a", ["kmeans"], np.ones((9, 9))],
    "array": ["a", ["a", "b"], [[1.0], [2.0, 3.0]], object(), 1.0, np.full((2, 3, 3), 1j)],
}
KINDS = {
    "tol": "number",
    "reg_covar": "number",
    "stepsize_power": "number",
    "stepsize_delay": "number",
    "n_components": "count",
    "max_iter": "count",
    "n_init": "count",
    "warm_start": "flag",
    "init_params": "word",
    "covariance_type": "word",
    "weights_init": "array",
    "means_init": "array",
    "precisions_init": "array",
    "startprob_init": "array",
    "transmat_init": "array",
}


@pytest.mark.parametrize("kind", [GaussianMixture, Mixture, HiddenMarkovModel])
def test_options_that_are_none(kind: Any) -> None:
    options = set(inspect.signature(kind).parameters) - {"random_state", "family"}
    assert options <= set(KINDS)
    for option in sorted(options):
        for value in WRONG[KINDS[option]]:
            estimator = kind(**{"n_components": 2, option: value})
            assert_one_line(partial(estimator.fit, BITS), kind.__name__, option)
            if hasattr(estimator, "partial_fit"):
                assert_one_line(partial(estimator.partial_fit, BITS), kind.__name__, option)


def test_numpy_numbers_are_numbers() -> None:
    options = {"tol": np.float32(0.5), "n_init": np.int64(1), "max_iter": np.int32(5), "warm_start": np.bool_(False)}
    assert GaussianMixture(np.int64(2), reg_covar=np.float64(0.1), **options, random_state=0).fit(X).n_iter_ > 0
    drawn, _ = GaussianMixture(1).fit(X).sample(np.int64(3))
    assert drawn.shape == (3, 3)


@pytest.mark.parametrize("kind", [Mixture, HiddenMarkovModel])
def test_families_that_are_none(kind: Any) -> None:
    @dataclass
    class Half:
        def check_support(self, x: Any) -> None: ...

    words = {
        None: "got None",
        int: "got the class int",
        3: "got 3",
        expfam.Gamma: "got the class Gamma: an object of it",
        Poisson: "got the class Poisson: an object of it",
        "gamma": "got 'gamma'",
    }
    for family, word in [*words.items(), (Half(), "has no method sufficient_statistics"), ([1], r"got \[1\]")]:
        estimator = kind(n_components=2, family=family)
        assert_one_line(partial(estimator.fit, BITS), kind.__name__, f"family must be one of .*{word}")


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "a", None, True])
def test_categories_are_a_number_of_them(wrong: Any) -> None:
    assert_one_line(lambda: Categorical(wrong), "Categorical", "num_categories must be an integer of 1 or more")


@pytest.mark.parametrize("wrong", [0.0, -1.0, "a", None, np.nan, np.inf])
def test_margins_are_numbers_above_zero(wrong: Any) -> None:
    for name, made in (
        ("Bernoulli", lambda: Bernoulli(wrong)),
        ("Poisson", lambda: Poisson(wrong)),
        ("Categorical", lambda: Categorical(3, wrong)),
    ):
        assert_one_line(made, name, "margin must be")
    assert_one_line(lambda: Bernoulli(0.5), "Bernoulli", "margin must be more than 0 and less than 0.5")


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "a", None, True, [1], np.ones(3)])
def test_draws_are_a_number_of_them(wrong: Any) -> None:
    for estimator in (GaussianMixture(1), Mixture("bernoulli", 1), HiddenMarkovModel(1)):
        fitted = estimator.fit(BITS)
        assert_one_line(partial(fitted.sample, wrong), type(fitted).__name__, "n_samples must be an integer")


@pytest.mark.parametrize("wrong", ["a", [[1], [2, 3]], [50.0, 50.0], [True] * 100, 100, [], None.__class__])
def test_lengths_that_are_none(wrong: Any) -> None:
    assert_one_line(lambda: HiddenMarkovModel(1).fit(X, lengths=wrong), "HiddenMarkovModel", "lengths must be integers")


def test_a_sequence_that_cannot_be() -> None:
    """Of probability 0 its states have none either."""

    class EvenOnly(Poisson):
        def log_base_measure(self, x: torch.Tensor) -> torch.Tensor:
            return torch.where(x % 2 == 0, 0.0, -torch.inf).sum(-1)

    model = HiddenMarkovModel(1, EvenOnly()).fit(np.arange(0.0, 20.0, 2.0)[:, None])
    assert model.score([[3.0]]) == -np.inf
    assert_one_line(lambda: model.predict_proba([[3.0]]), "HiddenMarkovModel", "a sequence has probability 0")
