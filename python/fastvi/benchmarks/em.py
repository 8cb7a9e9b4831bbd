"""One iteration of expectation-maximisation, E step, M step and bound: fastvi beside scikit-learn."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastvi.benchmarks.cases import assert_same_values
from fastvi.benchmarks.harness import Case, Workload
from fastvi.benchmarks.results import FASTVI, SCIKIT_LEARN

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Of the largest element: scikit-learn squares float32 rows as they stand, fastvi less their mean."""


def mixture_rows(rows: int, columns: int, components: int, dtype: torch.dtype) -> Tensor:
    """Draws of a mixture whose columns, as principal components are, are each narrower than the one before."""
    scale = torch.arange(1, columns + 1) ** -0.5
    centres = torch.randn(components, columns) * 2.0 * scale
    chosen = torch.randint(components, (rows,))
    return (centres[chosen] + torch.randn(rows, columns) * scale).to(dtype)


def _fitted(kind: Any, x: Any, covariance_type: str, start: dict[str, Any]) -> Any:
    """A mixture after two iterations, when components have come apart."""
    components = len(start["weights_init"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it did not converge
        return kind(components, covariance_type=covariance_type, max_iter=2, tol=0.0, **start).fit(x)


def _prepare(
    rows: int, columns: int, components: int, covariance_type: str, dtype: torch.dtype, name: str, mode: str, _: bool
) -> Workload:
    from sklearn.mixture import GaussianMixture as ScikitMixture
    from threadpoolctl import ThreadpoolController

    from fastvi.em import GaussianMixture
    from fastvi.em._data import Rows

    x = mixture_rows(rows, columns, components, dtype)
    array = x.cpu().numpy()
    precisions = {
        "full": np.stack([np.eye(columns)] * components),
        "tied": np.eye(columns),
        "diag": np.ones((components, columns)),
        "spherical": np.ones(components),
    }
    start = {
        "weights_init": np.full(components, 1.0 / components),
        "means_init": array[:components].astype(np.float64),
        "precisions_init": precisions[covariance_type],
    }
    state = _fitted(GaussianMixture, x, covariance_type, start)._state
    given = Rows(x, None, True)
    theirs = _fitted(ScikitMixture, array, covariance_type, start)
    weights, means = theirs.weights_.copy(), theirs.means_.copy()
    covariances, roots = theirs.covariances_.copy(), theirs.precisions_cholesky_.copy()
    libraries = ThreadpoolController()

    def iterate() -> Any:
        statistics = state.run(given, moments=None).statistics
        updated = state.updated(statistics)
        bound = statistics.log_likelihood + updated.expected(statistics) - state.expected(statistics)
        return updated.components, bound

    def iterate_theirs() -> Any:
        theirs.weights_, theirs.means_, theirs.covariances_, theirs.precisions_cholesky_ = (
            weights,
            means,
            covariances,
            roots,
        )
        with libraries.limit(limits=torch.get_num_threads(), user_api="blas"):
            log_likelihood, log_responsibilities = theirs._e_step(array)
            theirs._m_step(array, log_responsibilities)
        return theirs, log_likelihood

    def check() -> None:
        ours, _ = iterate()
        other, _ = iterate_theirs()
        for attribute in ("means", "covariances"):
            expected = torch.from_numpy(getattr(other, f"{attribute}_").astype(np.float64))
            assert_same_values(f"{name}, {FASTVI}, {attribute}", getattr(ours, attribute), expected, TOLERANCE[dtype])

    return Workload({SCIKIT_LEARN: iterate_theirs, FASTVI: iterate}, check)


def _case(rows: int, columns: int, components: int, covariance_type: str, dtype: torch.dtype = torch.float64) -> Case:
    kind = "" if dtype == torch.float64 else ", float32"
    name = f"GaussianMixture {rows}x{columns}, K {components}, {covariance_type}{kind}"
    prepare = partial(_prepare, rows, columns, components, covariance_type, dtype, name)
    return Case("em", name, ("iteration",), prepare)


CASES = [
    _case(20_000, 10, 5, "diag"),
    _case(60_000, 50, 32, "diag"),
    _case(60_000, 50, 32, "diag", torch.float32),
    _case(60_000, 50, 32, "spherical"),
    _case(60_000, 50, 32, "tied"),
    _case(60_000, 50, 32, "full"),
]
