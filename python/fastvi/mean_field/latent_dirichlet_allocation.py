"""Latent Dirichlet allocation, batch and online.

Blei, Ng and Jordan 2003, "Latent Dirichlet allocation"; Hoffman, Blei and Bach 2010, "Online learning for latent
Dirichlet allocation".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from fastvi._estimators import check_choice, check_integers
from fastvi.mean_field._data import (
    SMALLEST,
    as_array,
    check_concentrations,
    check_positive,
    check_tolerance,
    read_tensor,
)
from fastvi.mean_field._documents import Documents, Found, divergence, fit_documents, mean_log

METHODS = ("batch", "online")

_NAME = "LatentDirichletAllocation"


class LatentDirichletAllocation(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]  # scikit-learn has no types
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """Topics of documents: each word of a document comes from one of K topics, distributions of words.

    theta_d ~ Dirichlet(alpha), beta_k ~ Dirichlet(eta), z ~ theta_d, word ~ beta_z. The factors are q(theta_d),
    q(beta_k) and q(z); the bound is that on the log probability of the words in their order.

    Parameters
    ----------
    n_components
        K.
    doc_topic_prior, topic_word_prior
        The alpha and eta; 1 / K if None.
    learning_method
        ``"batch"``: coordinate ascent over all documents. ``"online"``: after each ``batch_size`` documents a step of
        (``learning_offset`` + t)^-``learning_decay``, t from 1, towards the topics that these would give.
    learning_decay, learning_offset, batch_size
        Of the online method.
    max_iter
        Passes over all documents.
    tol
        The batch method ends when a pass raises the bound by less than this many nats for each word.
    total_samples
        Number of all documents, for ``partial_fit``.
    mean_change_tol, max_doc_update_iter
        A document's factor is updated until it moves by less, or so often.
    random_state
        As in scikit-learn; from one seed both take the same starts.

    Attributes
    ----------
    components_
        Parameters of the topics' Dirichlet factors, (K, V).
    bounds_
        In nats. Batch: the bound on the log evidence of all documents after each half step: after the documents'
        factors at 2 i, after the topics' at 2 i + 1; it never decreases. Online: of the documents of each batch,
        for each word, before its step and without the divergence of the topics.
    n_iter_, n_batch_iter_
        Passes, and steps.

    Raises
    ------
    ValueError
        If an option is out of its range, or a count is negative, NaN or infinite.

    Notes
    -----
    In each pass documents begin afresh, at random: beginning where they were, they would stay in the bad
    maxima of the first topics. Once that would lower the bound, they go on from where they were, and it rises.
    Source: Hoffman, Blei and Bach 2010, equations 1 to 5 and algorithms 1 and 2.

    Examples
    --------
    >>> counts = np.array([[4, 3, 0, 0], [5, 2, 0, 0], [0, 0, 3, 3], [0, 1, 2, 6]])
    >>> model = LatentDirichletAllocation(2, max_iter=50, random_state=0).fit(counts)
    >>> model.transform(counts).argmax(1).tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
    True
    >>> bool((np.diff(model.bounds_) >= -1e-9).all())
    True
    """

    def __init__(
        self,
        n_components: int = 10,
        *,
        doc_topic_prior: float | None = None,
        topic_word_prior: float | None = None,
        learning_method: str = "batch",
        learning_decay: float = 0.7,
        learning_offset: float = 10.0,
        max_iter: int = 10,
        batch_size: int = 128,
        tol: float = 0.0,
        total_samples: float = 1e6,
        mean_change_tol: float = 1e-3,
        max_doc_update_iter: int = 100,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.doc_topic_prior = doc_topic_prior
        self.topic_word_prior = topic_word_prior
        self.learning_method = learning_method
        self.learning_decay = learning_decay
        self.learning_offset = learning_offset
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.tol = tol
        self.total_samples = total_samples
        self.mean_change_tol = mean_change_tol
        self.max_doc_update_iter = max_doc_update_iter
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.input_tags.sparse = True
        return tags

    def _check_options(self) -> None:
        check_integers(
            _NAME,
            n_components=self.n_components,
            max_iter=self.max_iter,
            batch_size=self.batch_size,
            max_doc_update_iter=self.max_doc_update_iter,
        )
        check_choice(_NAME, "learning_method", self.learning_method, METHODS)
        check_tolerance(_NAME, self.tol)
        check_positive(
            _NAME,
            learning_offset=self.learning_offset,
            total_samples=self.total_samples,
            mean_change_tol=self.mean_change_tol,
        )
        if not 0.5 < self.learning_decay <= 1.0:
            raise ValueError(f"{_NAME}: learning_decay must be in (0.5, 1], got {self.learning_decay!r}")
        usual = 1.0 / self.n_components
        self.doc_topic_prior_ = usual if self.doc_topic_prior is None else self.doc_topic_prior
        self.topic_word_prior_ = usual if self.topic_word_prior is None else self.topic_word_prior
        check_concentrations(_NAME, doc_topic_prior=self.doc_topic_prior_, topic_word_prior=self.topic_word_prior_)

    def _start(self, words: int) -> None:
        self._random_state = check_random_state(self.random_state)
        self.components_ = self._random_state.gamma(100.0, 0.01, (self.n_components, words))
        self.n_batch_iter_, self.n_iter_ = 0, 0

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def fit(self, X: Any, y: Any = None) -> LatentDirichletAllocation:  # noqa: N803  # scikit-learn's name
        """Fit to counts of words, (N, V), an array or a sparse matrix; ``y`` is not used."""
        self._check_options()
        matrix = read_counts(self, X, reset=True)
        self._start(matrix.shape[1])
        if self.learning_method == "batch":
            self._fit_batch(Documents.read(matrix, self.n_components))
            return self
        bounds: list[float] = []
        starts = range(0, matrix.shape[0], self.batch_size)
        batches = [Documents.read(matrix[start : start + self.batch_size], self.n_components) for start in starts]
        for _ in range(self.max_iter):
            bounds += [self._step(batch, matrix.shape[0]) for batch in batches]
            self.n_iter_ += 1
        self.bounds_ = np.array(bounds)
        return self

    def partial_fit(self, X: Any, y: Any = None) -> LatentDirichletAllocation:  # noqa: N803  # scikit-learn's name
        """One step of the online method for each ``batch_size`` documents, (N, V)."""
        self._check_options()
        first = not hasattr(self, "components_")
        matrix = read_counts(self, X, reset=first)
        if first:
            self._start(matrix.shape[1])
            self.bounds_ = np.zeros(0)
        bounds = [
            self._step(Documents.read(matrix[start : start + self.batch_size], self.n_components), self.total_samples)
            for start in range(0, matrix.shape[0], self.batch_size)
        ]
        self.bounds_ = np.append(self.bounds_, bounds)
        return self

    def _fit_batch(self, documents: Documents) -> None:
        prior = self.topic_word_prior_
        parameters = torch.from_numpy(self.components_)
        log_topics = mean_log(parameters)
        lost = float(divergence(parameters, prior).sum())
        topics: Tensor | None = None
        starts_afresh = True
        bounds: list[float] = []
        for _ in range(self.max_iter):
            start = self._random_start(documents) if topics is None or starts_afresh else topics
            found = self._documents(documents, log_topics, start)
            if starts_afresh and bounds and float(found.bounds.sum()) - lost < bounds[-1]:
                starts_afresh = False
                found = self._documents(documents, log_topics, topics)
            topics = found.topics
            bounds.append(float(found.bounds.sum()) - lost)
            statistics = found.statistics.mT
            parameters, before = prior + statistics, log_topics
            log_topics = mean_log(parameters)
            after = float(divergence(parameters, prior).sum())
            # With q(z) as it is, only these terms have changed.
            bounds.append(bounds[-1] + float((statistics * (log_topics - before)).sum()) - after + lost)
            lost = after
            self.n_iter_ += 1
            self.n_batch_iter_ += 1
            if len(bounds) > 2 and bounds[-1] - bounds[-3] < self.tol * documents.num_words:
                break
        self.components_ = parameters.contiguous().numpy()
        self.bounds_ = np.array(bounds)

    def _random_start(self, documents: Documents) -> Tensor:
        """Factors of documents to begin with, as scikit-learn and the authors' program draw them."""
        return torch.from_numpy(self._random_state.gamma(100.0, 0.01, (documents.size, self.n_components)))

    def _documents(self, documents: Documents, log_topics: Tensor, start: Tensor | None) -> Found:
        return fit_documents(
            documents,
            log_topics.mT.contiguous(),
            self.doc_topic_prior_,
            start,
            self.mean_change_tol,
            self.max_doc_update_iter,
        )

    def _step(self, documents: Documents, total: float) -> float:
        parameters = torch.from_numpy(self.components_)
        log_topics = mean_log(parameters)
        found = self._documents(documents, log_topics, self._random_start(documents))
        self.n_batch_iter_ += 1
        size = (self.learning_offset + self.n_batch_iter_) ** -self.learning_decay
        target = self.topic_word_prior_ + total / documents.size * found.statistics.mT
        self.components_ = ((1.0 - size) * parameters + size * target).contiguous().numpy()
        return float(found.bounds.sum()) / max(documents.num_words, 1.0)

    def transform(self, X: Any) -> Any:  # noqa: N803  # scikit-learn's name
        """Expected shares of the topics in each document, (N, K)."""
        check_is_fitted(self, "components_")
        documents = Documents.read(read_counts(self, X, reset=False), self.n_components)
        log_topics = mean_log(torch.from_numpy(self.components_))
        found = self._documents(documents, log_topics, None)
        return (found.topics / found.topics.sum(1, keepdim=True)).numpy()

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803  # scikit-learn's name
        """The bound on the log probability of documents in nats, :func:`documents_bound` in sum."""
        check_is_fitted(self, "components_")
        matrix = read_counts(self, X, reset=False)
        return float(documents_bound(matrix, self.components_, self.doc_topic_prior_).sum())

    def bound_per_word(self, X: Any) -> float:  # noqa: N803  # scikit-learn's name
        """The same for each word; raises a ValueError where there is none."""
        score, words = self.score(X), float(read_counts(self, X, reset=False).data.sum())
        if words == 0.0:
            raise ValueError(f"{_NAME}: X holds no words")
        return score / words

    def perplexity(self, X: Any) -> float:  # noqa: N803  # scikit-learn's name
        """The exponential of minus the bound for each word."""
        return math.exp(-self.bound_per_word(X))


def documents_bound(
    X: Any,  # noqa: N803  # scikit-learn's name
    components: Any,
    doc_topic_prior: float,
    *,
    tol: float = 1e-6,
    max_iter: int = 1000,
) -> Any:
    """Bound on the log probability of each document, (N,), in nats, for topics that any library has found.

    E_q log p(words, theta, z | beta) - log q(theta, z), with q(theta) and q(z) fitted to each document and q(beta) as
    it is given. The divergence of the topics, which is one number for however many documents, is not taken off.

    Parameters
    ----------
    X
        Counts of words, (N, V), an array or a sparse matrix.
    components
        Parameters of the topics' Dirichlet factors, (K, V): scikit-learn's ``components_``, gensim's ``get_lambda``.
    doc_topic_prior
        The alpha.
    tol, max_iter
        See :class:`LatentDirichletAllocation`: ``mean_change_tol`` and ``max_doc_update_iter``.

    Raises
    ------
    ValueError
        If a shape is another one or a value is out of its range.

    Examples
    --------
    >>> documents_bound([[1.0, 0.0], [0.0, 0.0]], [[3.0, 1.0]], 0.5).round(4)  # digamma(3) - digamma(4) = -1/3
    array([-0.3333,  0.    ])
    """
    owner = "documents_bound"
    parameters = read_tensor(owner, "components", components, (None, None))
    check_positive(owner, tol=tol)
    check_concentrations(owner, doc_topic_prior=doc_topic_prior)
    check_integers(owner, max_iter=max_iter)
    if not bool((parameters >= SMALLEST).all()):
        raise ValueError(
            f"{owner}: components must be positive, of at least {SMALLEST:.2g}, got {float(parameters.min()):g}"
        )
    matrix = csr_matrix(as_array(X), dtype=np.float64)
    if matrix.shape[1] != parameters.shape[1]:
        raise ValueError(f"{owner}: X has {matrix.shape[1]} words, expected the {parameters.shape[1]} of components")
    _check_counts(owner, matrix)
    log_topics = mean_log(parameters).mT.contiguous()
    documents = Documents.read(matrix, len(parameters))
    return fit_documents(documents, log_topics, doc_topic_prior, None, tol, max_iter).bounds.numpy()


def read_counts(estimator: Any, given: Any, *, reset: bool) -> Any:
    """Counts of words, (N, V), as a SciPy matrix in CSR format.

    Raises
    ------
    ValueError
        If the shape is not (N, V), or a count is negative, NaN or infinite.
    """
    values = validate_data(
        estimator, as_array(given), accept_sparse="csr", dtype=np.float64, reset=reset, ensure_all_finite=False
    )
    matrix = csr_matrix(values)
    _check_counts(type(estimator).__name__, matrix)
    return matrix


def _check_counts(owner: str, matrix: Any) -> None:
    if not np.isfinite(matrix.data).all():
        raise ValueError(f"{owner}: X contains NaN or infinity; expected finite numbers")
    if (matrix.data < 0.0).any():
        raise ValueError(f"{owner}: Negative values in data passed: X must hold counts, got {matrix.data.min():g}")
