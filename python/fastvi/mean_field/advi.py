"""Automatic differentiation variational inference (Kucukelbir, Tran, Ranganath, Gelman and Blei 2017).

The gradient is the path derivative, :class:`fastvi.objectives.STL`, which has no variance where q is the posterior.
"""

from __future__ import annotations

from typing import Any

from fastvi._estimators import check_choice
from fastvi.mean_field._black_box import BlackBoxInference
from fastvi.objectives import STL, Objective

RANKS = ("mean-field", "full")


class ADVI(BlackBoxInference):
    """A Gaussian fitted to any differentiable log joint density of variables without constraints.

    Parameters
    ----------
    rank
        ``"mean-field"``: independent variables. ``"full"``: any covariance.
    num_samples
        Draws for each step.
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
        What :func:`fastvi.objectives.diagnose` takes, with ``model_.example``.

    Raises
    ------
    TypeError, ValueError
        See :meth:`fit`.

    Notes
    -----
    Variables are best scaled to about 1, as for any gradient method. :meth:`pareto_k` says whether q can be trusted.
    Source: Kucukelbir et al. 2017, "Automatic differentiation variational inference"; Roeder, Wu and Duvenaud 2017 for
    the gradient.

    Examples
    --------
    >>> import numpy as np, torch
    >>> precision = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    >>> log_joint = lambda z: -0.5 * ((z @ precision) * z).sum(-1)
    >>> ADVI("full", random_state=0).fit(log_joint, 2).covariance_.round(3)  # the inverse of the precision
    array([[ 0.667, -0.333],
           [-0.333,  0.667]])
    """

    def __init__(
        self,
        rank: str = "mean-field",
        *,
        num_samples: int = 10,
        learning_rate: float = 0.05,
        max_iter: int = 1000,
        random_state: Any = None,
    ) -> None:
        self.rank = rank
        self.num_samples = num_samples
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.random_state = random_state

    def _kind(self) -> str:
        check_choice("ADVI", "rank", self.rank, RANKS)
        return self.rank

    def _objective(self) -> Objective:
        return STL(self.num_samples)
