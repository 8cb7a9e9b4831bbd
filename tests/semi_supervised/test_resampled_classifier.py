"""Classifiers of re-sampled latent variables: what they are trained on, how they predict, and scikit-learn's rules."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, Perceptron, SGDClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.estimator_checks import check_estimator

import fastvi
from fastvi.semi_supervised import LatentFeatures, ResampledClassifier
from support.latent_models import LinearEncoder

MIXING = np.random.default_rng(1).standard_normal((6, 2))
"""Of two latent variables into six values: the encoder below undoes it."""
SEPARABLE = LatentFeatures(LinearEncoder(np.linalg.pinv(MIXING).T, logvar=-6.0))


def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of three classes, whose latent variables lie around the corners of a triangle of side 3 and more."""
    generator = np.random.default_rng(seed)
    y = np.arange(count) % 3
    z = np.array([[0.0, 2.0], [-2.0, -1.0], [2.0, -1.0]])[y] + 0.2 * generator.standard_normal((count, 2))
    return z @ MIXING.T, y


class Recorder(ClassifierMixin, BaseEstimator):
    """Keeps what it is given."""

    def fit(self, x, y):
        self.x_, self.y_, self.classes_ = x, y, np.unique(y)
        return self

    def predict(self, x):
        return self.classes_[(x[:, 0] > 0).astype(int)]


class EpochRecorder(Recorder):
    def partial_fit(self, x, y, classes=None):
        self.epochs_ = [*getattr(self, "epochs_", []), (x, y)]
        self.classes_ = np.unique(y) if classes is None else classes
        return self


class Squares(Recorder):
    """The decision z^2 - 1/2."""

    def decision_function(self, x):
        return x[:, 0] ** 2 - 0.5

    def predict(self, x):
        return self.classes_[(self.decision_function(x) > 0).astype(int)]


# What the classifier is trained on


def test_one_training_set_of_all_draws() -> None:
    x, y = rows(30, 0)
    fitted = ResampledClassifier(Recorder(), SEPARABLE, num_draws=40).fit(x, y)
    draws = fitted.classifier_.x_.reshape(40, 30, 2)
    np.testing.assert_array_equal(fitted.classifier_.y_, np.tile(y, 40))
    means = fitted.features_.transform(x)
    deviations = (draws - means) / np.exp(-3.0)
    assert len(np.unique(draws)) == draws.size  # none is drawn twice
    assert abs(deviations.mean()) < 4.5 / deviations.size**0.5
    assert abs(deviations.var() - 1.0) < 4.5 * (2 / deviations.size) ** 0.5


def test_a_new_draw_for_each_epoch() -> None:
    x, y = rows(30, 0)
    fitted = ResampledClassifier(EpochRecorder(), SEPARABLE, num_draws=7).fit(x, y)
    epochs = fitted.classifier_.epochs_
    assert len(epochs) == 7
    assert all(np.array_equal(labels, y) for _, labels in epochs)
    draws = np.stack([features for features, _ in epochs])
    assert len(np.unique(draws)) == draws.size
    once = ResampledClassifier(Recorder(), SEPARABLE, num_draws=7).fit(x, y)
    np.testing.assert_array_equal(once.classifier_.x_, draws.reshape(-1, 2))
    assert fitted.classes_.tolist() == [0, 1, 2]


def test_draws_depend_on_the_seed_alone() -> None:
    x, y = rows(12, 0)
    first, same, other = (
        ResampledClassifier(Recorder(), SEPARABLE, num_draws=3, seed=seed).fit(x, y) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.classifier_.x_, same.classifier_.x_)
    assert not np.isin(first.classifier_.x_, other.classifier_.x_).any()


def test_rows_without_a_label_choose_the_features_alone() -> None:
    """Of the labelled rows the second latent variable is constant, of all it is not."""
    x = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 5.0], [0.0, -5.0]])
    y = np.array([1, 0, -1, -1])
    features = LatentFeatures(LinearEncoder())
    fitted = ResampledClassifier(Recorder(), features, num_draws=2).fit(x, y)
    assert fitted.features_.dimensions_.tolist() == [0, 1]
    np.testing.assert_allclose(fitted.classifier_.x_, np.tile(x[:2], (2, 1)), atol=1e-7)
    assert fitted.classifier_.y_.tolist() == [1, 0, 1, 0]
    assert not hasattr(features, "dimensions_")
    words = ResampledClassifier(Recorder(), features, unlabelled="?").fit(x, np.array(["b", "a", "?", "?"]))
    assert words.classes_.tolist() == ["a", "b"]
    every = ResampledClassifier(Recorder(), features, unlabelled=None).fit(x, y)
    assert every.classes_.tolist() == [-1, 0, 1]


MISSING = np.arange(30) >= 12


@pytest.mark.parametrize(
    ("labels", "unlabelled", "classes"),
    [
        (lambda y, words: np.where(MISSING, -1, y), -1, [0, 1, 2]),
        (lambda y, words: np.where(MISSING, "-1", words), -1, ["a", "b", "c"]),
        (
            lambda y, words: np.array([-1 if none else word for none, word in zip(MISSING, words, strict=True)]),
            -1,
            "abc",
        ),
        (lambda y, words: [-1 if none else word for none, word in zip(MISSING, words, strict=True)], -1, "abc"),
        (lambda y, words: np.where(MISSING, np.nan, y), np.nan, [0.0, 1.0, 2.0]),
        (lambda y, words: np.where(MISSING, None, words), np.nan, ["a", "b", "c"]),
        (lambda y, words: np.where(MISSING, None, y).tolist(), float("nan"), [0, 1, 2]),
        (lambda y, words: np.where(MISSING, "-1", words), None, ["-1", "a", "b", "c"]),
    ],
)
def test_what_marks_a_row_without_a_label(labels: Callable, unlabelled: object, classes: Sequence) -> None:
    x, y = rows(30, 0)
    given = labels(y, np.array(["a", "b", "c"])[y])
    made = ResampledClassifier(KNeighborsClassifier(1), SEPARABLE, num_draws=2, unlabelled=unlabelled).fit(x, given)
    assert made.classes_.tolist() == list(classes)
    if unlabelled is not None:
        assert made.score(x, given) == 1.0
    assert clone(made).fit(x, given).classes_.tolist() == list(classes)


def test_scores_are_of_the_rows_with_a_label() -> None:
    """Of three rows with a label one is wrong; by their weights, 3 of 4 are right."""
    x, y = np.array([[-3.0], [3.0], [0.5], [0.5]]), np.array([0, 1, -1, 0])
    made = ResampledClassifier(Recorder(), LatentFeatures(LinearEncoder())).fit(x[:2], y[:2])
    assert made.score(x, y) == pytest.approx(2 / 3)
    assert made.score(x, y, [2.0, 1.0, 9.0, 1.0]) == pytest.approx(3 / 4)
    x, y = rows(60, 0)
    made = ResampledClassifier(LinearSVC(), SEPARABLE, num_draws=5)
    assert cross_val_score(made, x, np.where(np.arange(60) % 4, -1, y), cv=3).tolist() == [1.0, 1.0, 1.0]


def test_names_of_columns_reach_the_features() -> None:
    """Features that were fitted to a data frame are given frames, of which scikit-learn does not warn."""
    pandas = pytest.importorskip("pandas")
    x, y = rows(30, 0)
    frame = pandas.DataFrame(x, columns=list("abcdef"))
    labels = pandas.Series(np.where(MISSING, -1, y))
    frozen = FrozenEstimator(clone(SEPARABLE).fit(frame))
    for count in (0, 3):
        made = ResampledClassifier(LinearSVC(), frozen, num_draws=3, num_prediction_draws=count).fit(frame, labels)
        assert made.score(frame, labels) == 1.0
    of_arrays = ResampledClassifier(LinearSVC(), SEPARABLE, num_draws=3).fit(x, labels.to_numpy())
    of_frames = ResampledClassifier(LinearSVC(), SEPARABLE, num_draws=3).fit(frame, labels)
    np.testing.assert_array_equal(of_frames.decision_function(frame), of_arrays.decision_function(x))


def test_features_that_are_fitted_stay_where_they_are_frozen() -> None:
    x, y = rows(30, 0)
    frozen = FrozenEstimator(LatentFeatures(LinearEncoder(np.linalg.pinv(MIXING).T), min_spread=1.5).fit(x))
    kept = frozen.estimator.dimensions_
    assert kept.tolist() == [0]  # the corners of the triangle have the deviations 1.63 and 1.41
    few = ResampledClassifier(Recorder(), frozen, num_draws=1).fit(x[y == 0], y[y == 0])  # they would keep none
    assert few.features_.estimator.dimensions_ is kept
    assert few.classifier_.x_.shape == (10, 1)


# How it predicts


@pytest.mark.parametrize("num_prediction_draws", [0, 5])
@pytest.mark.parametrize(
    "classifier",
    [
        LinearSVC(),
        LogisticRegression(),
        KNeighborsClassifier(1),
        SVC(),
        SVC(decision_function_shape="ovo"),
        SGDClassifier(random_state=0),
        Perceptron(random_state=0),
        GaussianNB(),
        make_pipeline(StandardScaler(), LinearSVC()),
    ],
)
def test_separable_latents_are_classified_without_an_error(classifier: object, num_prediction_draws: int) -> None:
    x, y = rows(30, 0)
    labels = np.where(np.arange(30) < 12, y, -1)
    names = np.array(["red", "green", "blue"])
    for given in (labels, np.where(labels < 0, "", names[labels])):
        made = ResampledClassifier(
            classifier, SEPARABLE, num_draws=10, num_prediction_draws=num_prediction_draws, unlabelled=given[-1]
        ).fit(x, given)
        test_x, test_y = rows(90, 1)
        assert made.score(test_x, test_y if given is labels else names[test_y]) == 1.0


def test_scores_are_averaged_over_draws() -> None:
    """E z^2 = mean^2 + variance: the mean of N(0, 1) has z^2 < 1/2, the expectation is more."""
    x, y = np.array([[0.0], [3.0]]), np.array([0, 1])
    features = LatentFeatures(LinearEncoder(logvar=0.0))
    of_means = ResampledClassifier(Squares(), features).fit(x, y)
    assert of_means.decision_function(x).tolist() == [-0.5, 8.5]
    assert of_means.predict(x).tolist() == [0, 1]
    count = 400
    of_draws = ResampledClassifier(Squares(), features, num_prediction_draws=count).fit(x, y)
    # The variance of z^2 is 2 + 4 mean^2.
    error = np.sqrt((2.0 + 4.0 * x[:, 0] ** 2) / count)
    assert (np.abs(of_draws.decision_function(x) - [0.5, 9.5]) < 4.5 * error).all()
    assert of_draws.predict(x).tolist() == [1, 1]


def test_probabilities_are_averaged_over_draws() -> None:
    """They are probabilities, and less certain than those of the mean where the latent variable is not known."""
    x, y = np.array([[-1.0], [1.0]]), np.array([0, 1])
    features = FrozenEstimator(LatentFeatures(LinearEncoder(logvar=2.0)).fit(x))
    fitted = ResampledClassifier(LogisticRegression(), features, num_draws=200).fit(x, y)
    averaged = clone(fitted).set_params(num_prediction_draws=200).fit(x, y)
    certain, found = fitted.predict_proba([[6.0]])[0, 1], averaged.predict_proba([[6.0]])[0, 1]
    assert found < certain
    np.testing.assert_allclose(averaged.predict_proba(x).sum(1), 1.0, rtol=1e-12)
    # E sigmoid(a z + b) by quadrature with the coefficients of the classifier, which both have.
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    a, b = averaged.classifier_.coef_.item(), averaged.classifier_.intercept_.item()
    values = 1.0 / (1.0 + np.exp(-(a * (6.0 + np.exp(1.0) * nodes) + b)))
    expected = (weights * values).sum() / weights.sum()
    deviation = np.sqrt((weights * (values - expected) ** 2).sum() / weights.sum())
    assert abs(found - expected) < 4.5 * deviation / 200**0.5


def test_votes_are_averaged_where_there_are_no_scores() -> None:
    """Of N(0.2, 1), 58 % lie above 0; of 701 votes their share is 58 % +- 1.9 %."""
    x, y = np.array([[-3.0], [0.2]]), np.array([0, 1])
    made = ResampledClassifier(Recorder(), LatentFeatures(LinearEncoder(logvar=0.0)), num_prediction_draws=701)
    assert made.fit(x, y).predict(x).tolist() == [0, 1]
    assert not hasattr(made, "predict_proba")
    assert not hasattr(made, "decision_function")


# Scikit-learn


@pytest.mark.parametrize("classifier", [LogisticRegression(), SGDClassifier(loss="log_loss", random_state=0)])
def test_scikit_learns_checks(classifier: object) -> None:
    features = LatentFeatures(LinearEncoder(), min_spread=None)
    made = ResampledClassifier(classifier, features, num_draws=8, unlabelled=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for found in check_estimator(made, on_fail=None):
            assert found["status"] in ("passed", "skipped"), f"{found['check_name']}: {found['exception']}"


def test_parameters_are_reached_by_their_paths() -> None:
    x, y = rows(30, 0)
    made = ResampledClassifier(LinearSVC(), SEPARABLE, num_draws=5)
    assert cross_val_score(made, x, y, cv=3).tolist() == [1.0, 1.0, 1.0]
    grid = GridSearchCV(made, {"classifier__C": [0.1, 1.0], "features__min_spread": [0.1, 0.2]}, cv=3).fit(x, y)
    assert grid.best_score_ == 1.0
    copy = clone(made).set_params(classifier__C=7.0)
    assert (copy.classifier.C, made.classifier.C) == (7.0, 1.0)
    assert copy.features.model is made.features.model


# What is wrong


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_draws": 0}, ValueError, "num_draws must be at least 1, got 0"),
        ({"num_draws": 2.0}, TypeError, "num_draws must be an int, got float"),
        ({"num_prediction_draws": -1}, ValueError, "num_prediction_draws must be at least 0, got -1"),
        ({"seed": -1}, ValueError, "seed is -1, expected a number in"),
        (
            {"classifier": LinearRegression()},
            TypeError,
            "classifier must be a classifier of scikit-learn's, got",
        ),
        ({"features": StandardScaler()}, TypeError, "features must be a LatentFeatures, got StandardScaler"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, object], error: type[Exception], message: str) -> None:
    x, y = rows(30, 0)
    with pytest.raises(error, match=f"ResampledClassifier: {message}"):
        ResampledClassifier(**{"classifier": LinearSVC(), "features": SEPARABLE, **options}).fit(x, y)


def test_rows_without_any_label_are_refused() -> None:
    x, _ = rows(30, 0)
    with pytest.raises(ValueError, match="no row has a label: all of y is -1, which marks those without"):
        ResampledClassifier(LinearSVC(), SEPARABLE).fit(x, np.full(30, -1))


def test_missing_labels_are_refused_unless_they_are_marked() -> None:
    x, y = rows(30, 0)
    for unlabelled in (-1, None):
        with pytest.raises(ValueError, match=r"y must hold a label for each row, got None .* unlabelled=float"):
            ResampledClassifier(LinearSVC(), SEPARABLE, unlabelled=unlabelled).fit(x, np.where(MISSING, None, y))


def test_bytes_reach_the_features() -> None:
    """Of a run they are divided by 255; floats of that size are refused."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 16)).astype(np.uint8)
    y = np.arange(60) % 2
    fitted = fastvi.fit("vae", pixels, "elbo", epochs=1, latent_dim=2, hidden_dims=(8,))
    grey = pixels.astype(np.float32) / np.float32(255)
    features = LatentFeatures(fitted, min_spread=None)
    of_bytes = ResampledClassifier(LinearSVC(), features, num_draws=3).fit(pixels, y)
    of_grey = ResampledClassifier(LinearSVC(), features, num_draws=3).fit(grey, y)
    np.testing.assert_array_equal(of_bytes.decision_function(pixels), of_grey.decision_function(grey))
    with pytest.raises(ValueError, match=r"X must hold values in \[0, 1\], got values from 0 to 255"):
        ResampledClassifier(LinearSVC(), features).fit(pixels.astype(np.float32), y)
