"""What mixtures have in common: EM from several starts, mini-batch EM, and scikit-learn's estimator interface."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from fastvi._estimators import check_choice, check_draws, check_flags, check_integers, check_numbers
from fastvi.em._components import Components, run_components
from fastvi.em._data import Rows, read_rows
from fastvi.em._gaussian import COVARIANCE_TYPES
from fastvi.em._start import START_METHODS, start_statistics
from fastvi.em._step import Moments, Pass, Statistics

Wanted = Literal["nothing", "log_likelihood", "responsibilities", "log_densities"]
"""What a pass is to give for each row."""


@dataclass(frozen=True)
class State:
    """The parameters of a mixture: log weights (K,), components, and what rows are shifted by."""

    log_weights: Tensor
    components: Components
    origin: Tensor

    def run(self, rows: Rows, *, moments: Moments | None = "none", wanted: Wanted = "nothing") -> Pass:
        """A pass over rows."""
        return run_components(
            rows,
            self.components,
            self.log_weights,
            origin=self.origin,
            moments=moments,
            log_likelihood=wanted == "log_likelihood",
            responsibilities=wanted == "responsibilities",
            log_densities=wanted == "log_densities",
        )

    def expected(self, statistics: Statistics) -> float:
        """The expected log joint density of rows and components, under given responsibilities."""
        chosen = statistics.count > 0
        of_weights = (statistics.count * self.log_weights)[chosen].sum()
        return float(of_weights) + self.components.expected_log_density(statistics)

    def updated(self, statistics: Statistics) -> State:
        """The M step."""
        log_weights = (statistics.count / statistics.count.sum()).log()
        return State(log_weights, self.components.updated(statistics), self.origin)


@dataclass(frozen=True)
class Fit:
    """One run of EM: the bound after each half step is the mean over rows."""

    state: State
    bounds: list[float]
    converged: bool

    @property
    def lower_bound(self) -> float:
        """The bound after the last E step: the mean log-likelihood of the parameters before the last M step."""
        return self.bounds[-2] if self.bounds else -math.inf


def run_em(rows: Rows, state: State, name: str, max_iter: int, tol: float) -> Fit:
    """Run EM from a state until the mean log-likelihood changes by less than ``tol``.

    Raises
    ------
    ValueError
        If the log-likelihood is not finite, or a covariance is not positive definite.
    """
    bounds: list[float] = []
    last = -math.inf
    for _ in range(max_iter):
        statistics = state.run(rows, moments=None).statistics
        bound = statistics.log_likelihood / statistics.weight
        if not math.isfinite(bound):
            raise ValueError(f"{name}: the log-likelihood is {bound}: a row has probability 0 under every component")
        updated = state.updated(statistics)
        gain = (updated.expected(statistics) - state.expected(statistics)) / statistics.weight
        bounds += [bound, bound + gain]
        state = updated
        if abs(bound - last) < tol:
            return Fit(state, bounds, True)
        last = bound
    return Fit(state, bounds, False)


def check_options(estimator: Any) -> None:
    """Check the options that all estimators have.

    Raises
    ------
    ValueError
        If one is of the wrong type or outside of its range: one line that names it.
    """
    name = type(estimator).__name__
    check_integers(name, n_components=estimator.n_components, n_init=estimator.n_init)
    check_integers(name, 0, max_iter=estimator.max_iter)
    check_numbers(name, tol=estimator.tol)
    if hasattr(estimator, "covariance_type"):
        check_numbers(name, reg_covar=estimator.reg_covar)
        check_choice(name, "covariance_type", estimator.covariance_type, COVARIANCE_TYPES)
    check_choice(name, "init_params", estimator.init_params, START_METHODS)


class BaseMixture(DensityMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Mixtures of any components; see `fastvi.em.GaussianMixture` and `fastvi.em.Mixture`."""

    n_components: int
    tol: float
    max_iter: int
    n_init: int
    init_params: str
    random_state: Any
    warm_start: bool
    stepsize_power: float
    stepsize_delay: float

    @abstractmethod
    def _blank(self, rows: Rows, origin: Tensor) -> Components:
        """Components with any parameters, for the data that a start is made of."""

    @abstractmethod
    def _initial(self, state: State) -> State:
        """A start, with those of its parameters that the user gave."""

    @abstractmethod
    def _publish(self, state: State) -> None:
        """Set the attributes that show the components' parameters."""

    def _needs_start(self) -> bool:
        """Whether a start has to be made of the data."""
        return True

    def _check_rows(self, x: Tensor) -> None:
        """Refuse rows outside of the components' support."""

    def _check_options(self) -> None:
        check_options(self)
        name = type(self).__name__
        check_flags(name, warm_start=self.warm_start)
        check_numbers(name, stepsize_delay=self.stepsize_delay, stepsize_power=self.stepsize_power)
        if not 0.5 < self.stepsize_power <= 1.0:
            raise ValueError(f"{name}: stepsize_power must be in (0.5, 1], got {self.stepsize_power!r}")

    def _read(self, given: Any, sample_weight: Any = None, *, reset: bool = False, least: int = 1) -> Rows:
        rows = read_rows(self, given, sample_weight, reset=reset, least=least)
        self._check_rows(rows.x)
        return rows

    def _start(self, rows: Rows, random_state: np.random.RandomState) -> State:
        origin = rows.mean()
        blank = self._blank(rows, origin)
        uniform = torch.full((self.n_components,), -math.log(self.n_components), dtype=torch.float64)
        state = State(uniform, blank, origin)
        if self._needs_start():
            count = self.n_components
            state = state.updated(
                start_statistics(rows, state.components, origin, count, self.init_params, random_state)
            )
        return self._initial(state)

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:  # noqa: N803  # scikit-learn's name
        """Fit by EM, from ``n_init`` starts, of which the best is kept.

        Parameters
        ----------
        X
            Rows, (N, D): an array or a tensor in float32 or float64. An array of another dtype is made float64.
        y
            Not used; present for scikit-learn.
        sample_weight
            Of the rows, (N,), 0 or more: a weight of 2 is a row that is there twice.

        Raises
        ------
        ValueError
            If there are fewer rows than components, a value is NaN or infinite, a weight negative, or an option wrong.
        """
        self._check_options()
        name = type(self).__name__
        rows = self._read(X, sample_weight, reset=True, least=2)
        if len(rows.x) < self.n_components:
            raise ValueError(f"{name}: got {len(rows.x)} rows for {self.n_components} components, expected as many")
        random_state = check_random_state(self.random_state)
        goes_on = self.warm_start and hasattr(self, "_state")
        if goes_on and (len(self._state.origin), len(self._state.log_weights)) != (rows.x.shape[1], self.n_components):
            raise ValueError(
                f"{name}: warm_start goes on from {len(self._state.log_weights)} components in "
                f"{len(self._state.origin)} columns, got {self.n_components} in {rows.x.shape[1]}"
            )
        best: Fit | None = None
        for _ in range(1 if goes_on else self.n_init):
            start = self._state if goes_on else self._start(rows, random_state)
            found = run_em(rows, start, name, self.max_iter, self.tol)
            if best is None or found.lower_bound > best.lower_bound:
                best = found
        assert best is not None
        if not best.converged and self.max_iter > 0:
            warnings.warn(
                f"{name}: the best start did not converge in {self.max_iter} iterations; try a larger max_iter or tol",
                ConvergenceWarning,
                stacklevel=2,
            )
        self.converged_ = best.converged
        self.n_iter_ = len(best.bounds) // 2
        self.bounds_ = np.array(best.bounds)
        self.lower_bound_ = best.lower_bound
        self.lower_bounds_ = best.bounds[::2]
        self._running: Statistics | None = None
        self._set_state(best.state)
        return self

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:  # noqa: N803  # scikit-learn's name
        """One step of mini-batch EM: mean statistics move towards those of this batch, then an M step.

        Step t, from 0, has the size (1 + t / (1 + delay))^-power, with ``stepsize_delay`` and ``stepsize_power``. The
        first batch makes the start, and has ``n_components`` rows or more.

        Source: Cappe and Moulines 2009, "On-line expectation-maximization algorithm for latent data models".
        """
        self._check_options()
        first = not hasattr(self, "_state")
        rows = self._read(X, sample_weight, reset=first, least=1)
        if first:
            if len(rows.x) < self.n_components:
                name, count = type(self).__name__, self.n_components
                raise ValueError(
                    f"{name}: the first batch has {len(rows.x)} rows for {count} components, expected as many or more"
                )
            state = self._start(rows, check_random_state(self.random_state))
            self._running, self.n_steps_ = None, 0
        else:
            state = self._state
        statistics = state.run(rows, moments=None).statistics
        share = 1.0 / statistics.weight
        if self._running is None:
            self.n_steps_ = 0
            self._running = statistics.combined(statistics, share, 0.0)
            size = 1.0
        else:
            size = (1.0 + self.n_steps_ / (1.0 + self.stepsize_delay)) ** -self.stepsize_power
            self._running = self._running.combined(statistics, 1.0 - size, size * share)
        self.n_steps_ += 1
        self.lower_bound_ = statistics.log_likelihood * share
        self._set_state(self._moved(state, rows, size).updated(self._running))
        return self

    def _moved(self, state: State, rows: Rows, size: float) -> State:
        """The state with what a batch changes before the M step."""
        return state

    def _set_state(self, state: State) -> None:
        self._state = state
        self.weights_ = state.log_weights.exp().numpy()
        self._publish(state)

    def _fitted(self) -> State:
        check_is_fitted(self, "_state")
        return self._state

    def score_samples(self, X: Any) -> Any:  # noqa: N803  # scikit-learn's name
        """Log-likelihood of each row, (N,)."""
        state, rows = self._fitted(), self._read(X)
        return rows.like_given(cast(Tensor, state.run(rows, wanted="log_likelihood").log_likelihood))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:  # noqa: N803  # scikit-learn's name
        """Mean log-likelihood of a row."""
        state, rows = self._fitted(), self._read(X, sample_weight)
        statistics = state.run(rows).statistics
        return statistics.log_likelihood / statistics.weight

    def predict_proba(self, X: Any) -> Any:  # noqa: N803  # scikit-learn's name
        """Responsibilities of the components for each row, (N, K)."""
        state, rows = self._fitted(), self._read(X)
        return rows.like_given(cast(Tensor, state.run(rows, wanted="responsibilities").responsibilities))

    def predict(self, X: Any) -> Any:  # noqa: N803  # scikit-learn's name
        """The most probable component of each row, (N,)."""
        state, rows = self._fitted(), self._read(X)
        return rows.like_given(cast(Tensor, state.run(rows, wanted="log_densities").log_densities).argmax(-1))

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:  # noqa: N803  # scikit-learn's name
        """Fit, and return the most probable component of each row, (N,)."""
        return self.fit(X, y, sample_weight).predict(X)

    def _num_parameters(self) -> int:
        return self._fitted().components.num_parameters() + self.n_components - 1

    def bic(self, X: Any) -> float:  # noqa: N803  # scikit-learn's name
        """Bayesian information criterion; lower is better."""
        return -2.0 * self.score(X) * len(X) + self._num_parameters() * math.log(len(X))

    def aic(self, X: Any) -> float:  # noqa: N803  # scikit-learn's name
        """Akaike information criterion; lower is better."""
        return -2.0 * self.score(X) * len(X) + 2.0 * self._num_parameters()

    def sample(self, n_samples: int = 1) -> tuple[Any, Any]:
        """Draw rows, (n, D), and their components, (n,), as arrays; components come one after the other."""
        state = self._fitted()
        n_samples = check_draws(type(self).__name__, n_samples)
        random_state = check_random_state(self.random_state)
        weights = self.weights_ / self.weights_.sum()
        counts = random_state.multinomial(n_samples, weights)
        generator = torch.Generator().manual_seed(int(random_state.randint(2**31 - 1)))
        drawn = [state.components.sample(k, int(count), generator) for k, count in enumerate(counts) if count]
        return torch.cat(drawn).numpy(), np.repeat(np.arange(len(counts)), counts)
