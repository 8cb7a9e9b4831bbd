"""Latent Dirichlet allocation: exact on three tokens by enumeration, its bound, scikit-learn's numbers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.special import digamma, gammaln
from scipy.stats import dirichlet
from sklearn.decomposition import LatentDirichletAllocation as ScikitLDA
from sklearn.utils.estimator_checks import check_estimator

from fastvi.mean_field import BayesianGaussianMixture, LatentDirichletAllocation, documents_bound


def log_marginal(counts: np.ndarray, prior: float) -> float:
    """Log probability of a sequence with such counts, its Dirichlet distribution integrated out."""
    total = gammaln(prior * len(counts)) - gammaln(prior * len(counts) + counts.sum())
    return float(total + (gammaln(prior + counts) - gammaln(prior)).sum())


def log_evidence(documents: list[list[int]], topics: int, words: int, alpha: float, eta: float) -> float:
    """Of all tokens, by a sum over all assignments of topics to them."""
    tokens = [(place, word) for place, document in enumerate(documents) for word in document]
    terms = []
    for assignment in product(range(topics), repeat=len(tokens)):
        of_documents, of_topics = np.zeros((len(documents), topics)), np.zeros((topics, words))
        for (place, word), topic in zip(tokens, assignment, strict=True):
            of_documents[place, topic] += 1
            of_topics[topic, word] += 1
        terms.append(
            sum(log_marginal(row, alpha) for row in of_documents) + sum(log_marginal(row, eta) for row in of_topics)
        )
    return float(np.logaddexp.reduce(terms))


def counts_of(documents: list[list[int]], words: int) -> np.ndarray:
    return np.stack([np.bincount(document, minlength=words) for document in documents]).astype(float)


def test_the_evidence_itself() -> None:
    """Summed over all sequences of three tokens the evidence is 1, by 27 enumerations of 8 assignments."""
    total = sum(np.exp(log_evidence([list(tokens)], 2, 3, 0.6, 0.4)) for tokens in product(range(3), repeat=3))
    assert total == pytest.approx(1.0, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3), min_size=1, max_size=2),
    st.floats(0.1, 3.0),
    st.floats(0.1, 3.0),
    st.integers(0, 1000),
)
def test_the_bound_is_below_the_evidence_and_never_falls(
    documents: list[list[int]], alpha: float, eta: float, seed: int
) -> None:
    model = LatentDirichletAllocation(
        2, doc_topic_prior=alpha, topic_word_prior=eta, max_iter=30, max_doc_update_iter=20, random_state=seed
    ).fit(counts_of(documents, 3))
    assert model.bounds_[-1] <= log_evidence(documents, 2, 3, alpha, eta) + 1e-9
    assert bool((np.diff(model.bounds_) >= -1e-9).all())


@pytest.mark.parametrize("tokens", [[0, 1, 2], [0, 0, 1], [2, 2, 2]])
def test_two_topics_three_words_three_tokens(tokens: list[int]) -> None:
    """The bound is log p - KL(q || posterior), written out with a q(z) for each token and SciPy's entropies."""
    alpha, eta = 0.8, 0.5
    counts = counts_of([tokens], 3)
    model = LatentDirichletAllocation(
        2, doc_topic_prior=alpha, topic_word_prior=eta, max_iter=200, mean_change_tol=1e-13, random_state=3
    ).fit(counts)
    shares = model.transform(counts)[0]
    gamma = shares * (2 * alpha + 3)
    log_theta = digamma(gamma) - digamma(gamma.sum())
    log_beta = digamma(model.components_) - digamma(model.components_.sum(1, keepdims=True))
    q = np.exp(log_theta[:, None] + log_beta[:, tokens])
    q /= q.sum(0)
    bound = (q * (log_theta[:, None] + log_beta[:, tokens] - np.log(q))).sum()
    bound += gammaln(2 * alpha) - 2 * gammaln(alpha) + (alpha - 1.0) * log_theta.sum() + dirichlet(gamma).entropy()
    for row, log_row in zip(model.components_, log_beta, strict=True):
        bound += gammaln(3 * eta) - 3 * gammaln(eta) + (eta - 1.0) * log_row.sum() + dirichlet(row).entropy()
    assert model.bounds_[-1] == pytest.approx(bound, abs=1e-6)
    assert bound < log_evidence([tokens], 2, 3, alpha, eta)
    np.testing.assert_allclose(model.components_.sum(), 6 * eta + 3)


def corpus(documents: int, words: int, topics: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    beta = random.dirichlet(np.full(words, 0.1), size=topics)
    theta = random.dirichlet(np.full(topics, 0.2), size=documents)
    lengths = random.integers(0, 60, size=documents)
    return np.stack([random.multinomial(n, row / row.sum()) for n, row in zip(lengths, theta @ beta, strict=True)])


@pytest.mark.parametrize("method", ["batch", "online"])
def test_scikit_learns_topics(method: str) -> None:
    """From the same topics, with documents fitted to their end by both."""
    x = corpus(60, 30, 3, 0)
    options = {
        "learning_method": method,
        "max_iter": 3,
        "mean_change_tol": 1e-12,
        "max_doc_update_iter": 3000,
        "random_state": 1,
        "batch_size": 25,
        "doc_topic_prior": 1.0,  # the bound of a document has one maximum then
    }
    theirs = ScikitLDA(n_components=3, **options).fit(x)
    ours = LatentDirichletAllocation(3, **options).fit(x)
    np.testing.assert_allclose(ours.components_, theirs.components_, rtol=1e-6)
    np.testing.assert_allclose(ours.transform(x), theirs.transform(x), atol=1e-6)
    beta = Divergence(ours.components_, 1 / 3)
    assert ours.score(x) - beta.value == pytest.approx(theirs.score(x), rel=1e-7)


class Divergence:
    """KL of topics from their prior, which scikit-learn's score contains."""

    def __init__(self, parameters: np.ndarray, prior: float) -> None:
        size = parameters.shape[1]
        log_beta = digamma(parameters) - digamma(parameters.sum(1, keepdims=True))
        log_prior = gammaln(size * prior) - size * gammaln(prior) + (prior - 1.0) * log_beta.sum(1)
        self.value = -sum(dirichlet(row).entropy() for row in parameters) - log_prior.sum()


def test_mini_batches_are_the_online_method() -> None:
    x = corpus(40, 20, 2, 1)
    options = {"learning_method": "online", "batch_size": 16, "random_state": 0, "total_samples": 40}
    whole = LatentDirichletAllocation(2, max_iter=1, **options).fit(x)
    parts = LatentDirichletAllocation(2, **options)
    for start in range(0, 40, 16):
        parts.partial_fit(csr_matrix(x[start : start + 16]))
    np.testing.assert_allclose(parts.components_, whole.components_, rtol=1e-12)
    assert parts.n_batch_iter_ == whole.n_batch_iter_ == 3


def test_a_document_does_not_depend_on_the_others() -> None:
    x = corpus(30, 20, 3, 2)
    model = LatentDirichletAllocation(3, random_state=0).fit(x)
    np.testing.assert_allclose(model.transform(x[7:8]), model.transform(x)[7:8], rtol=1e-10)
    empty = model.transform(np.zeros((1, 20)))
    np.testing.assert_allclose(empty, np.full((1, 3), 1 / 3))


def test_more_topics_explain_held_out_documents() -> None:
    x, held_out = np.split(corpus(400, 40, 4, 3), [300])
    one = LatentDirichletAllocation(1, random_state=0).fit(x)
    four = LatentDirichletAllocation(4, max_iter=60, random_state=0).fit(x)
    assert four.bound_per_word(held_out) > one.bound_per_word(held_out) + 0.2
    assert four.perplexity(held_out) == pytest.approx(np.exp(-four.bound_per_word(held_out)))


def test_it_is_a_scikit_learn_estimator() -> None:
    check_estimator(LatentDirichletAllocation(max_iter=2), on_skip=None)


@pytest.mark.parametrize(
    ("options", "x", "message"),
    [
        ({}, [[1.0, -2.0]], "Negative values in data passed: X must hold counts, got -2"),
        ({}, [[1.0, np.nan]], "X contains NaN or infinity"),
        ({"learning_method": "both"}, [[1.0]], "learning_method must be one of batch, online, got 'both'"),
        ({"learning_decay": 0.4}, [[1.0]], r"learning_decay must be in \(0.5, 1\], got 0.4"),
        ({"doc_topic_prior": 0.0}, [[1.0]], "doc_topic_prior must be a positive number, got 0.0"),
    ],
)
def test_what_is_refused(options: dict[str, object], x: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^LatentDirichletAllocation: {message}"):
        LatentDirichletAllocation(**options).fit(x)


def test_documents_of_other_words() -> None:
    with pytest.raises(ValueError, match=r"^documents_bound: X has 2 words, expected the 3 of components"):
        documents_bound([[1.0, 0.0]], np.ones((2, 3)), 0.5)


@pytest.mark.parametrize("prior", [1e-100, 1e-154, 1e-200, 1e-300, 2.3e-308])
def test_priors_near_0(prior: float) -> None:
    """Where one topic takes all words, the other is as the prior has it.

    The bound is then the evidence of all words from one distribution, less KL(Dirichlet(n, p) || Dirichlet(p, p)) for
    each document, whose limit for p to 0 is log 2.
    """
    counts = np.eye(6)[:, :5] + 1.0
    found = LatentDirichletAllocation(2, doc_topic_prior=prior, topic_word_prior=prior, random_state=0).fit(counts)
    assert sorted(found.components_.max(1).tolist()) == [prior, 7.0]
    expected = log_marginal(counts.sum(0), prior) - 6.0 * np.log(2.0)
    assert found.bounds_[-1] == pytest.approx(expected, rel=1e-13)
    assert bool((np.diff(found.bounds_) >= -1e-11).all())


@pytest.mark.parametrize("parameter", [1e-2, 1e-3, 1e-100, 1e-300])
def test_a_word_that_no_topic_has_seen(parameter: float) -> None:
    """One topic: the mean logarithm of a Dirichlet's proportion, however low."""
    expected = 2.0 * (digamma(parameter) - digamma(parameter + 3.0)) + digamma(3.0) - digamma(parameter + 3.0)
    assert documents_bound([[1.0, 2.0]], [[3.0, parameter]], 0.5)[0] == pytest.approx(expected, rel=1e-13)


def test_concentrations_whose_digamma_is_infinite() -> None:
    for name in ("doc_topic_prior", "topic_word_prior"):
        with pytest.raises(
            ValueError, match=rf"^LatentDirichletAllocation: {name} must be at least 2.2e-308, got 5e-32"
        ):
            LatentDirichletAllocation(2, **{name: 5e-324}).fit([[1.0, 2.0]])
    with pytest.raises(ValueError, match=r"^documents_bound: components must be positive, of at least 2.2e-308"):
        documents_bound([[1.0, 2.0]], [[3.0, 5e-324]], 0.5)
    with pytest.raises(ValueError, match=r"^BayesianGaussianMixture: weight_concentration_prior must be at least 2.2e"):
        BayesianGaussianMixture(2, weight_concentration_prior=5e-324).fit([[1.0], [2.0]])
