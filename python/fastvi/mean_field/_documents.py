"""Documents of counted words, and their part of latent Dirichlet allocation.

Documents of about one length stand beside each other in one padded array, small enough to stay in a processor's cache
while the topics of its documents are found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastvi.expfam import Dirichlet

_CHUNK_NUMBERS = 1 << 17
"""Numbers in an array (documents, words, topics): 1 MB."""


class Chunk(NamedTuple):
    """Some documents: their rows (B,), words (B, L) and how often each stands there, (B, L), 0 in the padding."""

    rows: Tensor
    words: Tensor
    counts: Tensor


class Found(NamedTuple):
    """What :func:`fit_documents` found.

    Attributes
    ----------
    topics
        Parameters of the documents' Dirichlet factors, (N, K).
    bounds
        Of each document, without the divergence of the topics, (N,), in nats.
    statistics
        Expected counts of words and topics, (V, K).
    """

    topics: Tensor
    bounds: Tensor
    statistics: Tensor


@dataclass(frozen=True)
class Documents:
    """Documents in chunks.

    Attributes
    ----------
    chunks
        All of them, shorter ones first.
    size
        Number of documents.
    num_words
        Sum of all counts.
    """

    chunks: list[Chunk]
    size: int
    num_words: float

    @classmethod
    def read(cls, matrix: Any, topics: int) -> Documents:
        """Read documents of a SciPy matrix (N, V) in CSR format, for so many topics."""
        lengths = np.diff(matrix.indptr)
        order = np.argsort(lengths, kind="stable")
        chunks, start = [], 0
        while start < len(order):
            # As many as fit if all were as long as the longest of them.
            sizes = np.arange(1, len(order) - start + 1) * lengths[order[start:]]
            count = max(1, int(np.searchsorted(sizes, _CHUNK_NUMBERS // topics, side="right")))
            rows = order[start : start + count]
            longest = int(lengths[rows[-1]])
            place = np.arange(longest)
            inside = place < lengths[rows][:, None]
            at = np.where(inside, matrix.indptr[rows][:, None] + place, 0)
            words = np.where(inside, matrix.indices[at], 0) if longest else np.zeros(at.shape)
            counts = np.where(inside, matrix.data[at], 0.0) if longest else np.zeros(at.shape)
            chunks.append(
                Chunk(
                    torch.from_numpy(rows),
                    torch.from_numpy(words.astype(np.int64)),
                    torch.from_numpy(counts.astype(np.float64)),
                )
            )
            start += count
        return cls(chunks, matrix.shape[0], float(matrix.data.sum()))


def fit_documents(
    documents: Documents, log_topics: Tensor, prior: float, start: Tensor | None, tol: float, max_iter: int
) -> Found:
    """Find the documents' factors for given E[log beta], (V, K), by coordinate ascent over them and their words.

    Ascent ends for each document by itself, when its parameters move by less than ``tol`` on average, or after
    ``max_iter`` updates. Source: Hoffman, Blei and Bach 2010, algorithm 1.
    """
    # Relative to each word's largest, since the exponentials of a word that no topic has seen may all be 0.
    largest = log_topics.amax(1)
    topics = (log_topics - largest[:, None]).exp()
    size = topics.shape[1]
    found = Found(topics.new_empty(documents.size, size), topics.new_empty(documents.size), torch.zeros_like(topics))
    for rows, words, counts in documents.chunks:
        of_words = topics[words]
        gamma = prior + counts.sum(1, keepdim=True).expand(-1, size) / size if start is None else start[rows]
        gamma = _ascend(of_words, counts, gamma.clone(), prior, tol, max_iter)
        weights = mean_log(gamma).exp()
        likelihood = _likelihood(of_words, weights)
        ratio = counts / likelihood
        found.topics[rows] = gamma
        found.bounds[rows] = (counts * (likelihood.log() + largest[words])).sum(1) - divergence(gamma, prior)
        found.statistics.index_add_(0, words.flatten(), (ratio[:, :, None] * weights[:, None]).flatten(0, 1))
    found.statistics.mul_(topics)
    return found


def mean_log(parameters: Tensor) -> Tensor:
    """E[log p] of Dirichlet distributions, (..., K)."""
    size = parameters.shape[-1]
    return Dirichlet(size).mean_parameters(parameters) if size > 1 else torch.zeros_like(parameters)


def divergence(parameters: Tensor, prior: float) -> Tensor:
    """KL of Dirichlet distributions, (..., K), from one whose parameters are all the same."""
    size = parameters.shape[-1]
    if size == 1:
        return parameters.new_zeros(parameters.shape[:-1])
    return Dirichlet(size).kl_divergence(parameters, parameters.new_full((size,), prior))


def _likelihood(of_words: Tensor, weights: Tensor) -> Tensor:
    """The sum over topics of exp(E[log theta] + E[log beta]), (B, L): a bound on each word's probability.

    In units of the largest exp(E[log beta]) of the word.
    """
    return (of_words @ weights[:, :, None])[:, :, 0].clamp_min(torch.finfo(torch.float64).tiny)


def _ascend(of_words: Tensor, counts: Tensor, gamma: Tensor, prior: float, tol: float, max_iter: int) -> Tensor:
    active = torch.arange(len(gamma))
    own_words, own_counts, own = of_words, counts, gamma
    moving = torch.ones(len(gamma), dtype=torch.bool)
    for _ in range(max_iter):
        weights = (torch.digamma(own) - torch.digamma(own.sum(-1, keepdim=True))).exp()
        ratio = own_counts / _likelihood(own_words, weights)
        updated = prior + weights * (ratio[:, None] @ own_words)[:, 0]
        # A document that has ended stays as it is, so that its result does not depend on the others.
        still = moving & ((updated - own).abs().mean(1) >= tol)
        own = torch.where(moving[:, None], updated, own)
        moving = still
        left = int(moving.sum())
        if left == 0:
            break
        if 2 * left <= len(moving):
            gamma[active] = own
            active = active[moving]
            own_words, own_counts, own = own_words[moving], own_counts[moving], own[moving]
            moving = torch.ones(left, dtype=torch.bool)
    gamma[active] = own
    return gamma
