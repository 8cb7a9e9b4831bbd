"""A classifier of latent variables that are drawn from q(z|x) again and again while it learns: M1 with augmentation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone, is_classifier
from sklearn.utils import _safe_indexing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import check_is_fitted, validate_data

from fastvi._sizes import check_integer, check_seed
from fastvi.seeding import mix_seed
from fastvi.semi_supervised.features import DTYPES

_OWNER = "ResampledClassifier"
_TRAINING, _PREDICTION = 0, 1
"""Streams of draws: ``mix_seed(seed, _TRAINING, number)``."""


def _is_nothing(label: Any) -> bool:
    """Whether a label is None, or one of the like that pandas has."""
    return label is None or type(label).__name__ in ("NAType", "NaTType")


def _classifier_has(method: str) -> Callable[[Any], bool]:
    return lambda self: hasattr(getattr(self, "classifier_", self.classifier), method)


class ResampledClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no type hints
    """A scikit-learn classifier that learns from draws z ~ q(z|x) of the labelled rows in place of their means.

    The draws of a row lie where the model is not sure of its code: they augment few labelled rows to many.

    Parameters
    ----------
    classifier
        A classifier of scikit-learn, or a pipeline that ends in one. One with ``partial_fit`` sees a new draw of each
        labelled row in each epoch; another one is fitted once to all draws. The loss of a row then counts
        ``num_draws`` times: a ``C`` of scikit-learn's divided by ``num_draws`` regularises as it does on means.
    features
        A `LatentFeatures`, which is fitted to all rows of `fit`, the unlabelled among them. To use one that is fitted
        as it is, give ``sklearn.frozen.FrozenEstimator(features)``.
    num_draws
        R, draws of each labelled row, and epochs of a classifier with ``partial_fit``.
    num_prediction_draws
        0: predict from posterior means. P of 1 or more: average over P draws of each row the classifier's
        probabilities, or its decision function where it has none, or its votes where it has neither.
    unlabelled
        The label in ``y`` that marks a row without a label: a number or a word. Among words -1 is ``"-1"``, too, which
        NumPy makes of it. NaN marks what is missing: NaN, None and NA. None: there are no such rows.
    seed
        Determines all draws, in [0, 2^63).

    Attributes
    ----------
    classes_
        The labels that occur, (C,).
    classifier_, features_
        Those that were fitted.
    n_features_in_
        D.

    Raises
    ------
    TypeError, ValueError
        By `fit` and `score`: if no row has a label, or a label is missing that ``unlabelled`` does not mark. By `fit`:
        if a parameter is out of range, ``classifier`` is none, or ``features`` cannot be sampled; see `LatentFeatures`.

    References
    ----------
    Kingma, Mohamed, Rezende and Welling 2014, "Semi-supervised learning with deep generative models", section 2: the
    features of M1 are samples from the approximate posterior of the latent variables. Their program
    (github.com/dpkingma/nips14-ssl) draws them anew for each minibatch, and takes means for the test images.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.svm import LinearSVC
    >>> import fastvi
    >>> x = np.random.default_rng(0).integers(0, 2, (200, 16)).astype(np.float32)
    >>> y = np.where(np.arange(200) < 20, x[:, 0], -1)  # twenty rows have a label
    >>> fitted = fastvi.fit("vae", x, epochs=1, latent_dim=2, hidden_dims=(8,))
    >>> features = fastvi.semi_supervised.LatentFeatures(fitted, min_spread=None)
    >>> ResampledClassifier(LinearSVC(C=0.1), features, num_draws=10).fit(x, y).predict(x[:3]).shape
    (3,)
    """

    def __init__(
        self,
        classifier: Any,
        features: Any,
        *,
        num_draws: int = 50,
        num_prediction_draws: int = 0,
        unlabelled: Any = -1,
        seed: int = 0,
    ) -> None:
        self.classifier = classifier
        self.features = features
        self.num_draws = num_draws
        self.num_prediction_draws = num_prediction_draws
        self.unlabelled = unlabelled
        self.seed = seed

    def fit(self, X: Any, y: Any) -> ResampledClassifier:  # noqa: N803  # scikit-learn's name
        """Fit the features to all rows (N, D), and the classifier to draws of those whose y (N,) is a label."""
        self._check_parameters()
        is_labelled, completed = self._completed(y)
        rows, labels = validate_data(self, X, completed, dtype=DTYPES)
        check_classification_targets(labels)
        # Features see the names of the columns, where there are any, each time or never.
        given = X if hasattr(self, "feature_names_in_") else rows
        places = np.arange(len(labels)) if is_labelled is None else np.flatnonzero(is_labelled)
        self.features_ = clone(self.features).fit(given, y)
        self.classifier_ = self._trained(_safe_indexing(given, places), labels[places])
        self.classes_ = self.classifier_.classes_
        return self

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: N803
        """Return the share of right predictions among the rows (N, D) whose y (N,) is a label."""
        is_labelled, labels = self._completed(y)
        if is_labelled is not None:
            places = np.flatnonzero(is_labelled)
            X, labels = _safe_indexing(X, places), labels[places]  # noqa: N806
            sample_weight = None if sample_weight is None else _safe_indexing(sample_weight, places)
        return float(super().score(X, labels, sample_weight))

    def predict(self, X: Any) -> Any:  # noqa: N803
        """Return the class of each of the rows (N, D), (N,)."""
        if self.num_prediction_draws == 0:
            return self._averaged(X, lambda features: self.classifier_.predict(features))
        return self.classes_[self._averaged(X, self._scores).argmax(1)]

    @available_if(_classifier_has("predict_proba"))  # type: ignore[untyped-decorator]  # scikit-learn has no type hints
    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        """Return the probabilities of the classes, (N, C)."""
        return self._averaged(X, lambda features: self.classifier_.predict_proba(features))

    @available_if(_classifier_has("decision_function"))  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> Any:  # noqa: N803
        """Return the classifier's decision function, (N, C), or (N,) for two classes."""
        return self._averaged(X, lambda features: self.classifier_.decision_function(features))

    def _check_parameters(self) -> None:
        for name, least in (("num_draws", 1), ("num_prediction_draws", 0)):
            value = check_integer(_OWNER, name, getattr(self, name))
            if value < least:
                raise ValueError(f"{_OWNER}: {name} must be at least {least}, got {value}")
        check_seed(_OWNER, self.seed, "an int")
        if not is_classifier(self.classifier):
            raise TypeError(
                f"{_OWNER}: classifier must be a classifier of scikit-learn's, got {type(self.classifier).__name__}"
            )
        if not hasattr(self.features, "sample"):
            raise TypeError(f"{_OWNER}: features must be a LatentFeatures, got {type(self.features).__name__}")

    def _completed(self, y: Any) -> tuple[Any, Any]:
        """Whether each row has a label, and y in which the others borrow one, so that all of it can be checked.

        None and y where all rows have one.
        """
        labels = np.asarray(y, dtype=object if isinstance(y, list | tuple) else None)
        if labels.ndim not in (1, 2) or labels.size == 0:
            return None, y
        is_labelled = ~np.vectorize(self._marks, otypes=[bool])(labels)
        if labels.dtype == object and any(map(_is_nothing, labels[is_labelled])):
            raise ValueError(
                f"{_OWNER}: y must hold a label for each row, got None or NA for some: unlabelled=float('nan') marks "
                "them"
            )
        if is_labelled.all():
            return None, y
        if not is_labelled.any():
            raise ValueError(
                f"{_OWNER}: no row has a label: all of y is {self.unlabelled!r}, which marks those without"
            )
        labels = np.where(is_labelled, labels, labels[is_labelled][0])
        if labels.dtype == object:
            kinds = {isinstance(value, str) for value in labels.flat}
            labels = np.asarray(labels.tolist()) if len(kinds) == 1 else labels
        return is_labelled.ravel(), labels

    def _marks(self, label: Any) -> bool:
        """Whether a label says that there is none."""
        if self.unlabelled is None:
            return False
        is_nan = isinstance(label, float | np.floating) and math.isnan(label)
        if isinstance(self.unlabelled, float | np.floating) and math.isnan(self.unlabelled):
            return is_nan or _is_nothing(label) or (isinstance(label, str) and label == "nan")
        if is_nan or _is_nothing(label):
            return False
        return bool(label == (str(self.unlabelled) if isinstance(label, str) else self.unlabelled))

    def _trained(self, rows: Any, labels: Any) -> Any:
        """The classifier, fitted to draws of labelled rows."""
        classifier = clone(self.classifier)
        draws = self._draws(rows, _TRAINING, self.num_draws)
        if not hasattr(classifier, "partial_fit"):
            return classifier.fit(np.concatenate(list(draws)), np.tile(labels, self.num_draws))
        classes = unique_labels(labels)
        for features in draws:
            classifier.partial_fit(features, labels, classes=classes)
        return classifier

    def _draws(self, rows: Any, stream: int, count: int) -> Iterator[Any]:
        return (self.features_.sample(rows, mix_seed(self.seed, stream, number)) for number in range(count))

    def _averaged(self, X: Any, function: Callable[[Any], Any]) -> Any:  # noqa: N803
        """A function of features (N, Z'): of the means, or averaged over draws."""
        check_is_fitted(self, "classes_")
        rows = validate_data(self, X, dtype=DTYPES, reset=False)
        rows = X if hasattr(X, "columns") and hasattr(self, "feature_names_in_") else rows
        if self.num_prediction_draws == 0:
            return function(self.features_.transform(rows))
        found = (function(features) for features in self._draws(rows, _PREDICTION, self.num_prediction_draws))
        return sum(found) / self.num_prediction_draws

    def _scores(self, features: Any) -> Any:
        """A score for each class, (N, C), the larger the better; votes where the classifier has none."""
        for method in ("predict_proba", "decision_function"):
            if hasattr(self.classifier_, method) and not (method == "decision_function" and self._decides_pairs()):
                scores = getattr(self.classifier_, method)(features)
                return np.stack([-scores, scores], 1) if scores.ndim == 1 else scores
        return (self.classifier_.predict(features)[:, None] == self.classes_).astype(float)

    def _decides_pairs(self) -> bool:
        """Whether the decision function is one of each two classes, as that of an SVC may be."""
        parameters = self.classifier_.get_params()
        shapes = [value for name, value in parameters.items() if name.endswith("decision_function_shape")]
        return len(self.classes_) > 2 and "ovo" in shapes
