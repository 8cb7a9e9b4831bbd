"""Variational inference by the score function, for any log joint density (Paisley, Blei and Jordan 2012).

The estimator is :class:`fastvi.objectives.ScoreFunction`.
"""

from __future__ import annotations

from typing import Any

from fastvi._estimators import check_choice
from fastvi.mean_field._black_box import BlackBoxInference
from fastvi.objectives import Objective, ScoreFunction

FAMILIES = ("gaussian", "bernoulli")
BASELINES = ("leave-one-out", "constant", "control-variate")


class ScoreFunctionVI(BlackBoxInference):
    """Independent factors fitted by gradients that need only the values of the log joint density.

    The gradient is the mean of (log joint - log q - baseline) times the score of q: the density need not be
    differentiable, and the variables may be bits.

    Parameters
    ----------
    family
        ``"gaussian"`` or ``"bernoulli"`` factors.
    baseline, baseline_value, num_samples
        See :class:`fastvi.objectives.ScoreFunction`, which this uses. The control variate needs Gaussian factors and a
        density that is differentiable.
    learning_rate, max_iter
        Of Adam, whose rate falls to 0 by half a cosine over ``max_iter`` steps.
    random_state
        As in scikit-learn.

    Attributes
    ----------
    posterior_
        q, a distribution of PyTorch's; ``mean_`` (D,) and ``covariance_`` (D, D) are its moments.
    bounds_, lower_bound_
        Estimates of the bound in nats: of each step, and from 1,000 draws at the end.
    model_
        What :func:`fastvi.objectives.diagnose` takes, with ``model_.example``, to measure a gradient's variance.

    Raises
    ------
    TypeError, ValueError
        See :meth:`fit` and :class:`fastvi.objectives.ScoreFunction`.

    Notes
    -----
    Source: Paisley, Blei and Jordan 2012, "Variational Bayesian inference with stochastic search"; Ranganath, Gerrish
    and Blei 2014, "Black box variational inference".

    Examples
    --------
    >>> import torch
    >>> log_joint = lambda z: -0.5 * ((z - 3.0) ** 2).sum(-1)  # N(3, 1), up to a constant
    >>> found = ScoreFunctionVI(num_samples=20, max_iter=500, random_state=0).fit(log_joint, 2)
    >>> found.mean_.round(1)
    array([3., 3.])
    """

    def __init__(
        self,
        family: str = "gaussian",
        *,
        baseline: str = "leave-one-out",
        baseline_value: float = 0.0,
        num_samples: int = 10,
        learning_rate: float = 0.05,
        max_iter: int = 2000,
        random_state: Any = None,
    ) -> None:
        self.family = family
        self.baseline = baseline
        self.baseline_value = baseline_value
        self.num_samples = num_samples
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.random_state = random_state

    def _kind(self) -> str:
        check_choice("ScoreFunctionVI", "family", self.family, FAMILIES)
        if self.family == "bernoulli" and self.baseline == "control-variate":
            raise ValueError("ScoreFunctionVI: baseline='control-variate' needs family='gaussian', got 'bernoulli'")
        return "mean-field" if self.family == "gaussian" else "bernoulli"

    def _objective(self) -> Objective:
        check_choice("ScoreFunctionVI", "baseline", self.baseline, BASELINES)
        return ScoreFunction(self.num_samples, self.baseline, self.baseline_value)
