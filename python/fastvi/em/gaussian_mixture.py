"""Mixtures of Gaussians with full, tied, diagonal or spherical covariances, fitted by EM."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from fastvi.em._base import BaseMixture, State
from fastvi.em._data import Rows, read_parameter
from fastvi.em._gaussian import GaussianComponents, blank_gaussians, from_precisions, scatter_of

__all__ = ["GaussianMixture"]

_NAME = "GaussianMixture"


class GaussianMixture(BaseMixture):
    """A mixture of Gaussians: scikit-learn's estimator of that name, with weights of rows, mini-batches and bounds.

    One pass over the rows makes log densities, responsibilities and weighted sums, chunk by chunk: nothing as large as
    rows x components is kept. Parameters are float64, whatever the rows are. Rows may be NumPy arrays or PyTorch
    tensors; what a method returns for each row is of the same kind. On a CPU a pass has the same bits for any number of
    threads.

    Parameters
    ----------
    n_components
        K.
    covariance_type
        ``"full"``, ``"tied"``, ``"diag"`` or ``"spherical"``.
    tol, max_iter
        EM stops when the mean log-likelihood changes by less than ``tol``, or after ``max_iter`` iterations.
    reg_covar
        Is added to variances in each M step. With 0 the bound never decreases, but a component on too few
        different rows, or a constant column, is a ``ValueError``.
    n_init, init_params
        The number of starts, and how centres are found: ``"kmeans"``, ``"k-means++"`` (scikit-learn's), ``"random"``
        responsibilities or ``"random_from_data"``. Rows go to their nearest centre.
    weights_init, means_init, precisions_init
        Where EM starts, shapes (K,), (K, D), and (K, D, D), (D, D), (K, D) or (K,) by ``covariance_type``.
    random_state
        As in scikit-learn.
    warm_start
        Whether ``fit`` goes on from the last fit.
    stepsize_power, stepsize_delay
        The sizes of the steps of :meth:`partial_fit`.

    Attributes
    ----------
    weights_, means_, covariances_, precisions_, precisions_cholesky_
        The parameters, arrays in float64.
    bounds_
        The evidence lower bound, a mean over rows, after each half step: after E step i, where it is the
        log-likelihood, at 2 i, and after M step i at 2 i + 1.
    lower_bound_, lower_bounds_
        The last bound after an E step, and all of them. Means over rows are weighted ones: they do not depend on a
        common factor of the rows' weights, as no estimate does.
    converged_, n_iter_
        Of the best start.

    Notes
    -----
    A row may be far from all components: probabilities are made of differences of squared distances, in which nothing
    cancels, and those of far rows in float64. Where a squared distance overflows float64, beyond about 1e154 standard
    deviations, every method refuses the row; so does ``score_samples`` where a log-likelihood overflows float32.

    A component to which no row belongs (responsibilities below 2e-15 in sum, rows' weights
    in units of the largest) keeps its mean and covariance; its weight
    becomes 0 and stays so.

    References
    ----------
    Dempster, Laird and Rubin 1977. For the bound: Neal and Hinton 1998, "A view of the EM algorithm that justifies
    incremental, sparse, and other variants".

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[-1.2], [-0.9], [-1.0], [1.1], [0.8], [1.0]])
    >>> mixture = GaussianMixture(2, random_state=0).fit(x)
    >>> mixture.means_.round(2).ravel().tolist()
    [0.97, -1.03]
    >>> mixture.predict(x).tolist()
    [1, 1, 1, 0, 0, 0]
    >>> bool((np.diff(mixture.bounds_) > -1e-4).all())  # with reg_covar 0 exactly
    True
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        stepsize_power: float = 0.7,
        stepsize_delay: float = 0.0,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.stepsize_power = stepsize_power
        self.stepsize_delay = stepsize_delay

    def _needs_start(self) -> bool:
        return self.weights_init is None or self.means_init is None or self.precisions_init is None

    def _blank(self, rows: Rows, origin: Tensor) -> GaussianComponents:
        scatter = scatter_of(rows, origin) if self.covariance_type == "tied" else None
        return blank_gaussians(_NAME, self.covariance_type, self.reg_covar, origin, self.n_components, scatter)

    def _initial(self, state: State) -> State:
        components = state.components
        assert isinstance(components, GaussianComponents)
        count, columns = components.means.shape
        log_weights = state.log_weights
        if self.weights_init is not None:
            log_weights = read_parameter(_NAME, "weights_init", self.weights_init, (count,), sums=True).log()
        if self.means_init is not None:
            means = read_parameter(_NAME, "means_init", self.means_init, (count, columns))
            components = replace(components, means=means)
        if self.precisions_init is not None:
            shape = tuple(components.covariances.shape)
            given = read_parameter(_NAME, "precisions_init", self.precisions_init, shape)
            covariances, upper = from_precisions(given, self.covariance_type)
            components = replace(components, covariances=covariances, precisions_cholesky=upper)
        return State(log_weights, components, state.origin)

    def _moved(self, state: State, rows: Rows, size: float) -> State:
        components = state.components
        assert isinstance(components, GaussianComponents)
        if components.scatter is None:
            return state
        new = scatter_of(rows, state.origin)
        share = size / new.weight
        scatter = components.scatter.combined(new, (1.0 - size) / components.scatter.weight, share)
        return replace(state, components=replace(components, scatter=scatter))

    def _publish(self, state: State) -> None:
        components = state.components
        assert isinstance(components, GaussianComponents)
        self.means_ = components.means.numpy()
        self.covariances_ = components.covariances.numpy()
        self.precisions_cholesky_ = components.precisions_cholesky.numpy()
        upper = components.precisions_cholesky
        is_matrix = self.covariance_type in ("full", "tied")
        self.precisions_ = (upper @ upper.mT if is_matrix else upper.square()).numpy()
