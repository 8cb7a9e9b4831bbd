"""Starts of EM: centres by scikit-learn's k-means, k-means++ or at random, and the rows that are nearest to each."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from sklearn.cluster import KMeans, kmeans_plusplus
from torch import Tensor

from fastvi.em._components import Components, run_components
from fastvi.em._data import Rows, largest_of
from fastvi.em._step import Statistics, refuse_sums

START_METHODS = ("kmeans", "k-means++", "random_from_data", "random")
_CHUNK_ROWS = 8192


def start_statistics(
    rows: Rows, components: Components, origin: Tensor, count: int, method: str, random_state: np.random.RandomState
) -> Statistics:
    """Statistics of rows that belong to their nearest centres or, for "random", to all by random responsibilities."""
    centres = None if method == "random" else _centres(rows, components, count, method, random_state)
    uniform = torch.zeros(count, dtype=torch.float64)
    total: Statistics | None = None
    for start in range(0, len(rows.x), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        x = rows.x[part]
        if centres is None:
            drawn = torch.from_numpy(random_state.uniform(size=(len(x), count)))
            given = (drawn / drawn.sum(-1, keepdim=True)).to(x)
        else:
            nearest = torch.cdist(components.features(x), centres).argmin(-1)
            given = torch.nn.functional.one_hot(nearest, count).to(x.dtype)
        own = replace(rows, x=x, weights=None if rows.weights is None else rows.weights[part])
        found = run_components(own, components, uniform, origin=origin, given=given).statistics
        total = found if total is None else total.combined(found)
    assert total is not None
    return total


def _centres(
    rows: Rows, components: Components, count: int, method: str, random_state: np.random.RandomState
) -> Tensor:
    features = components.features(rows.x)
    values = features.cpu().numpy()
    weights = None if rows.weights is None else rows.weights.cpu().numpy()
    if method != "random_from_data":
        _check_distances(rows, features)
    if method == "kmeans":
        found = KMeans(count, n_init=1, random_state=random_state).fit(values, sample_weight=weights).cluster_centers_
    elif method == "k-means++":
        found, _ = kmeans_plusplus(values, count, sample_weight=weights, random_state=random_state)
    else:
        if weights is not None and np.count_nonzero(weights) < count:
            raise ValueError(
                f"{rows.owner}: got {np.count_nonzero(weights)} rows of a weight above 0 for {count} components, "
                "expected as many"
            )
        probabilities = None if weights is None else weights / weights.sum(dtype=np.float64)
        found = values[random_state.choice(len(values), size=count, replace=False, p=probabilities)]
    return torch.from_numpy(np.ascontiguousarray(found)).to(rows.x)


def _check_distances(rows: Rows, features: Tensor) -> None:
    """Refuse rows whose squared distances from each other, which k-means sums, overflow."""
    if largest_of(features) < math.sqrt(torch.finfo(features.dtype).max / (4.0 * features.numel())):
        return
    if not bool((4.0 * (features - features.mean(0)).square().sum()).isfinite()):
        refuse_sums(rows.owner, features.dtype)
