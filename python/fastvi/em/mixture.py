"""Mixtures of an exponential family, fitted by EM: Bernoulli, Poisson, categorical, or one of your own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from fastvi import expfam
from fastvi._estimators import in_one_line
from fastvi.em._base import BaseMixture, State
from fastvi.em._components import FamilyComponents
from fastvi.em._data import Rows, read_parameter
from fastvi.em._from_expfam import FromExpfam
from fastvi.em.families import FAMILIES, METHODS, ExponentialFamily

__all__ = ["Mixture"]


class Mixture(BaseMixture):
    """A mixture of one exponential family, with scikit-learn's estimator interface.

    Parameters
    ----------
    family
        ``"bernoulli"``, ``"poisson"``, a `fastvi.em.ExponentialFamily`, such as ``Categorical(10)``, or a family of
        `fastvi.expfam`, such as ``expfam.Gamma()``: a row is one of its events, or independent ones in its columns.
    n_components
        K.
    tol, max_iter, n_init, init_params, random_state, warm_start, stepsize_power, stepsize_delay
        As in `fastvi.em.GaussianMixture`. Starts are centres among the rows' sufficient statistics.
    weights_init, means_init
        Where EM starts: weights (K,), and mean statistics (K, S).

    Attributes
    ----------
    weights_, means_, natural_parameters_
        Arrays in float64, of shapes (K,), (K, S) and (K, S): a Bernoulli's means are its probabilities.
    bounds_, lower_bound_, lower_bounds_, converged_, n_iter_
        As in `fastvi.em.GaussianMixture`.

    Notes
    -----
    Raises, beside what `fastvi.em.GaussianMixture` raises, a ``ValueError`` where a row is outside of the family's
    support. A component to which no row belongs keeps its parameters, with the weight 0.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    >>> mixture = Mixture("bernoulli", 2, random_state=0).fit(x)
    >>> sorted(mixture.means_.round(1).tolist())
    [[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]]
    >>> round(mixture.score(x), 3)  # log 1/2, of the component, and log 1/2, of the middle bit
    -1.386
    """

    def __init__(
        self,
        family: str | ExponentialFamily | expfam.ExponentialFamily = "bernoulli",
        n_components: int = 1,
        *,
        tol: float = 1e-3,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "k-means++",
        weights_init: Any = None,
        means_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        stepsize_power: float = 0.7,
        stepsize_delay: float = 0.0,
    ) -> None:
        self.family = family
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.stepsize_power = stepsize_power
        self.stepsize_delay = stepsize_delay

    def _check_options(self) -> None:
        super()._check_options()
        family_of(type(self).__name__, self.family)

    def _check_rows(self, x: Tensor) -> None:
        family_of(type(self).__name__, self.family).check_support(x)

    def _needs_start(self) -> bool:
        return self.weights_init is None or self.means_init is None

    def _blank(self, rows: Rows, origin: Tensor) -> FamilyComponents:
        return blank_components(family_of("Mixture", self.family), rows, self.n_components)

    def _initial(self, state: State) -> State:
        components, log_weights = state.components, state.log_weights
        assert isinstance(components, FamilyComponents)
        if self.weights_init is not None:
            log_weights = read_parameter(
                "Mixture", "weights_init", self.weights_init, (self.n_components,), sums=True
            ).log()
        if self.means_init is not None:
            means = read_parameter("Mixture", "means_init", self.means_init, tuple(components.means.shape))
            components = replace(components, means=means, natural=components.family.natural_parameters(means))
        return State(log_weights, components, state.origin)

    def _publish(self, state: State) -> None:
        components = state.components
        assert isinstance(components, FamilyComponents)
        self.means_ = components.means.numpy()
        self.natural_parameters_ = components.natural.numpy()


def family_of(name: str, family: str | ExponentialFamily | expfam.ExponentialFamily, *others: str) -> ExponentialFamily:
    """The family that an option names; ``others`` are names that the caller takes itself.

    Raises
    ------
    ValueError
        If there is none of this name, or an object is no family.
    """
    if isinstance(family, expfam.ExponentialFamily):
        return FromExpfam(family)
    if isinstance(family, str) and family in FAMILIES:
        made: ExponentialFamily = FAMILIES[family]()
        return made
    lacking = [] if isinstance(family, (str, type)) else [each for each in METHODS if not hasattr(family, each)]
    if not isinstance(family, (str, type)) and not lacking:
        return family
    expected = f"family must be one of {', '.join([*others, *FAMILIES])}, or an ExponentialFamily"
    if isinstance(family, type):
        raise ValueError(f"{name}: {expected}, got the class {family.__name__}: an object of it is what is asked for")
    missing = f", which has no method {lacking[0]}" if lacking else ""
    raise ValueError(f"{name}: {expected}, got {in_one_line(family)}{missing}")


def blank_components(family: ExponentialFamily, rows: Rows, count: int) -> FamilyComponents:
    """Components that all have the mean statistics of the first row."""
    means = family.sufficient_statistics(rows.x[:1]).double().cpu().expand(count, -1).clone()
    return FamilyComponents(family, means, family.natural_parameters(means))
