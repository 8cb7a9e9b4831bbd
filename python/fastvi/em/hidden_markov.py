"""Hidden Markov models with Gaussian or other exponential-family emissions, fitted by EM (Baum-Welch)."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from fastvi import expfam
from fastvi._estimators import check_draws, in_one_line
from fastvi.em._base import check_options
from fastvi.em._chains import Chains, best_path, forward_backward
from fastvi.em._components import Components, FamilyComponents, run_components
from fastvi.em._data import Rows, read_parameter, read_rows
from fastvi.em._gaussian import EMPTY, GaussianComponents, blank_gaussians, scatter_of
from fastvi.em._start import start_statistics
from fastvi.em._step import Statistics
from fastvi.em.families import ExponentialFamily
from fastvi.em.mixture import blank_components, family_of

__all__ = ["HiddenMarkovModel"]

_NAME = "HiddenMarkovModel"


@dataclass(frozen=True)
class ChainState:
    """The parameters: log probabilities of first states (K,) and of transitions (K, K), emissions, the rows' shift."""

    log_start: Tensor
    log_transition: Tensor
    emissions: Components
    origin: Tensor

    def log_densities(self, rows: Rows) -> tuple[Tensor, float]:
        """Of each row under each state, (N, K) in float64, less the largest of each row; and the sum of these.

        Without it the log density of one far row would take the digits of all others of its sequence.
        """
        none = torch.zeros_like(self.log_start)
        found = run_components(rows, self.emissions, none, origin=self.origin, moments="none", log_densities=True)
        log_densities = cast(Tensor, found.log_densities).double()
        largest = log_densities.amax(1)
        largest = torch.where(largest > -math.inf, largest, 0.0)  # a row that no state can have
        common = largest if found.common is None else largest + found.common
        return log_densities - largest[:, None], float(common.sum())

    def chains(self, rows: Rows, starts: Tensor) -> Chains:
        """The E step."""
        log_densities, common = self.log_densities(rows)
        found = forward_backward(log_densities, starts, self.log_start, self.log_transition)
        return replace(found, log_likelihood=found.log_likelihood + common)

    def expected(self, first: Tensor, transitions: Tensor, statistics: Statistics) -> float:
        """The expected log joint density of states and rows, under given posteriors."""
        of_start = (first * self.log_start)[first > 0].sum()
        of_transitions = (transitions * self.log_transition)[transitions > 0].sum()
        return float(of_start + of_transitions) + self.emissions.expected_log_density(statistics)

    def updated(self, first: Tensor, transitions: Tensor, statistics: Statistics) -> ChainState:
        """The M step; a state that is never left keeps its transitions."""
        left = transitions.sum(-1, keepdim=True)
        log_transition = torch.where(left < EMPTY, self.log_transition, (transitions / left.clamp_min(EMPTY)).log())
        return ChainState((first / first.sum()).log(), log_transition, self.emissions.updated(statistics), self.origin)


class HiddenMarkovModel(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A hidden Markov model: states follow each other by a transition table, and each has a density of rows.

    Rows are in the order of time. Several sequences stand one behind the other; ``lengths`` tells the rows of each, and
    None is a single sequence. Forward-backward runs in log space and in float64.

    Parameters
    ----------
    n_components
        K, the number of states.
    family
        ``"gaussian"``, ``"bernoulli"``, ``"poisson"``, or a `fastvi.em.ExponentialFamily`.
    covariance_type, reg_covar
        Of Gaussian emissions, as in `fastvi.em.GaussianMixture`.
    tol, max_iter, n_init, init_params, random_state
        As in `fastvi.em.GaussianMixture`; ``tol`` is of the log-likelihood divided by the number of rows.
    startprob_init, transmat_init, means_init
        Where EM starts: (K,), (K, K), and means or mean statistics. Without them first states and transitions start
        uniform, emissions at centres among the rows.

    Attributes
    ----------
    startprob_, transmat_
        Probabilities of the first state, (K,), and of the column's state after the row's, (K, K).
    means_, covariances_
        Of Gaussian emissions; of others ``means_`` are the mean statistics.
    bounds_, lower_bound_, converged_, n_iter_
        As in `fastvi.em.GaussianMixture`: log-likelihoods and bounds divided by the number of rows.

    References
    ----------
    Rabiner 1989, "A tutorial on hidden Markov models and selected applications in speech recognition".

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([0.1, -0.1, 0.0, 5.1, 4.9, 5.0, 0.0, 0.1, -0.2, 5.0])[:, None]
    >>> model = HiddenMarkovModel(2, random_state=0).fit(x)
    >>> states = model.predict(x)
    >>> (states == states[0]).tolist()
    [True, True, True, False, False, False, True, True, True, False]
    >>> model.transmat_[states[0], states[0]].round(2).item()  # of six steps from it, four stay
    0.67
    """

    def __init__(
        self,
        n_components: int = 1,
        family: str | ExponentialFamily | expfam.ExponentialFamily = "gaussian",
        *,
        covariance_type: str = "diag",
        reg_covar: float = 1e-6,
        tol: float = 1e-3,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        startprob_init: Any = None,
        transmat_init: Any = None,
        means_init: Any = None,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.family = family
        self.covariance_type = covariance_type
        self.reg_covar = reg_covar
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.startprob_init = startprob_init
        self.transmat_init = transmat_init
        self.means_init = means_init
        self.random_state = random_state

    def _is_gaussian(self) -> bool:
        return isinstance(self.family, str) and self.family == "gaussian"

    def _read(self, given: Any, lengths: Any, *, reset: bool = False, least: int = 1) -> tuple[Rows, Tensor]:
        rows = read_rows(self, given, reset=reset, least=least)
        if not self._is_gaussian():
            family_of(_NAME, self.family, "gaussian").check_support(rows.x)
        if lengths is None:
            return rows, torch.tensor([0, len(rows.x)])
        try:
            counts = np.asarray(lengths)
        except ValueError:  # lists of different lengths
            counts = np.empty((0, 0))
        if counts.ndim != 1 or counts.size == 0 or not np.issubdtype(counts.dtype, np.integer) or (counts < 1).any():
            raise ValueError(
                f"{_NAME}: lengths must be integers of 1 or more, one for each sequence, got {in_one_line(lengths)}"
            )
        if counts.sum() != len(rows.x):
            raise ValueError(f"{_NAME}: lengths sum to {counts.sum()}, expected the {len(rows.x)} rows of X")
        return rows, torch.from_numpy(np.concatenate([[0], counts.cumsum()]).astype(np.int64))

    def _start(self, rows: Rows, random_state: np.random.RandomState) -> ChainState:
        count, origin = self.n_components, rows.mean()
        emissions: Components
        if self._is_gaussian():
            scatter = scatter_of(rows, origin) if self.covariance_type == "tied" else None
            emissions = blank_gaussians(_NAME, self.covariance_type, self.reg_covar, origin, count, scatter)
        else:
            emissions = blank_components(family_of(_NAME, self.family, "gaussian"), rows, count)
        emissions = emissions.updated(start_statistics(rows, emissions, origin, count, self.init_params, random_state))
        if self.means_init is not None:
            assert isinstance(emissions, (GaussianComponents, FamilyComponents))
            means = read_parameter(_NAME, "means_init", self.means_init, tuple(emissions.means.shape))
            if isinstance(emissions, GaussianComponents):
                emissions = replace(emissions, means=means)
            else:
                emissions = replace(emissions, means=means, natural=emissions.family.natural_parameters(means))
        uniform = torch.full((count,), -math.log(count), dtype=torch.float64)
        log_start, log_transition = uniform, uniform.expand(count, count).clone()
        if self.startprob_init is not None:
            log_start = read_parameter(_NAME, "startprob_init", self.startprob_init, (count,), sums=True).log()
        if self.transmat_init is not None:
            log_transition = read_parameter(_NAME, "transmat_init", self.transmat_init, (count, count), sums=True).log()
        return ChainState(log_start, log_transition, emissions, origin)

    def _run(self, rows: Rows, starts: Tensor, state: ChainState) -> tuple[ChainState, list[float], bool]:
        bounds: list[float] = []
        count = len(rows.x)
        for _ in range(self.max_iter):
            chains = state.chains(rows, starts)
            bound = chains.log_likelihood / count
            if not math.isfinite(bound):
                raise ValueError(f"{_NAME}: the log-likelihood is {bound}: a sequence has probability 0")
            statistics = run_components(
                rows,
                state.emissions,
                torch.zeros_like(state.log_start),
                origin=state.origin,
                given=chains.posteriors.to(rows.x),
            ).statistics
            first = chains.posteriors[starts[:-1]].sum(0).cpu()
            updated = state.updated(first, chains.transitions, statistics)
            gain = updated.expected(first, chains.transitions, statistics)
            gain -= state.expected(first, chains.transitions, statistics)
            converged = len(bounds) > 0 and abs(bound - bounds[-2]) < self.tol
            bounds += [bound, bound + gain / count]
            state = updated
            if converged:
                return state, bounds, True
        return state, bounds, False

    def fit(self, X: Any, y: Any = None, lengths: Any = None) -> Any:  # noqa: N803  # scikit-learn's name
        """Fit by EM, from ``n_init`` starts, of which the best is kept.

        Parameters
        ----------
        X
            Rows in the order of time, (N, D): an array or a tensor.
        y
            Not used; present for scikit-learn.
        lengths
            The rows of each sequence, integers that sum to N; None for a single one.

        Raises
        ------
        ValueError
            If there are fewer rows than states, a value is NaN or infinite, or lengths or an option wrong.
        """
        check_options(self)
        if not self._is_gaussian():
            family_of(_NAME, self.family, "gaussian")
        rows, starts = self._read(X, lengths, reset=True, least=2)
        if len(rows.x) < self.n_components:
            raise ValueError(
                f"{_NAME}: got {len(rows.x)} rows for {self.n_components} states, expected as many or more"
            )
        random_state = check_random_state(self.random_state)
        best: tuple[ChainState, list[float], bool] | None = None
        for _ in range(self.n_init):
            found = self._run(rows, starts, self._start(rows, random_state))
            if best is None or (found[1] and found[1][-2] > best[1][-2]):
                best = found
        assert best is not None
        state, bounds, self.converged_ = best
        if not self.converged_ and self.max_iter > 0:
            warnings.warn(
                f"{_NAME}: the best start did not converge in {self.max_iter} iterations; try a larger max_iter or tol",
                ConvergenceWarning,
                stacklevel=2,
            )
        self.n_iter_ = len(bounds) // 2
        self.bounds_ = np.array(bounds)
        self.lower_bound_ = bounds[-2] if bounds else -math.inf
        self._state = state
        self.startprob_, self.transmat_ = state.log_start.exp().numpy(), state.log_transition.exp().numpy()
        emissions = state.emissions
        assert isinstance(emissions, (GaussianComponents, FamilyComponents))
        self.means_ = emissions.means.numpy()
        if isinstance(emissions, GaussianComponents):
            self.covariances_ = emissions.covariances.numpy()
        return self

    def _fitted(self) -> ChainState:
        check_is_fitted(self, "_state")
        return self._state

    def score(self, X: Any, y: Any = None, lengths: Any = None) -> float:  # noqa: N803  # scikit-learn's name
        """Log-likelihood of all sequences, divided by the number of rows."""
        state = self._fitted()
        rows, starts = self._read(X, lengths)
        return state.chains(rows, starts).log_likelihood / len(rows.x)

    def predict_proba(self, X: Any, lengths: Any = None) -> Any:  # noqa: N803  # scikit-learn's name
        """Posterior probabilities of the states at each row, given all of its sequence: (N, K)."""
        state = self._fitted()
        rows, starts = self._read(X, lengths)
        chains = state.chains(rows, starts)
        if not math.isfinite(chains.log_likelihood):
            raise ValueError(f"{_NAME}: a sequence has probability 0, so that its states have no probabilities")
        return rows.like_given(chains.posteriors.to(rows.x.dtype))

    def predict(self, X: Any, lengths: Any = None) -> Any:  # noqa: N803  # scikit-learn's name
        """The most probable sequence of states, (N,), by Viterbi's algorithm."""
        state = self._fitted()
        rows, starts = self._read(X, lengths)
        log_densities, _ = state.log_densities(rows)
        return rows.like_given(best_path(log_densities, starts, state.log_start, state.log_transition))

    def sample(self, n_samples: int = 1) -> tuple[Any, Any]:
        """Draw one sequence of rows, (n, D), and its states, (n,), as arrays."""
        state = self._fitted()
        n_samples = check_draws(_NAME, n_samples)
        random_state = check_random_state(self.random_state)
        states = np.empty(n_samples, dtype=np.int64)
        uniform, probabilities = random_state.uniform(size=n_samples), self.startprob_
        for row in range(n_samples):
            chosen = np.searchsorted(probabilities.cumsum(), uniform[row] * probabilities.sum(), side="right")
            states[row] = min(chosen, len(probabilities) - 1)
            probabilities = self.transmat_[states[row]]
        generator = torch.Generator().manual_seed(int(random_state.randint(2**31 - 1)))
        drawn: Any = None
        for k in np.unique(states):
            own = state.emissions.sample(int(k), int((states == k).sum()), generator).numpy()
            drawn = np.empty((n_samples, own.shape[1])) if drawn is None else drawn
            drawn[states == k] = own
        return drawn, states
