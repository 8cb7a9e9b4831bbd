"""Bounds on log p(x) and estimators of their gradients, made of the operations of :mod:`fastvi.ops`.

An objective is a frozen dataclass called as ``objective(model, x, seed=..., row_offset=...)``. It returns the bound of
each example, in nats, to be maximised; differentiating it gives the objective's gradient estimator.
"""

from fastvi.objectives.bounds import elbo_bound, iwae_bound, log_weights
from fastvi.objectives.elbo import ELBO, STL, LinearWarmUp
from fastvi.objectives.importance import IWAE, DReG
from fastvi.objectives.model import LatentVariableModel, Objective
from fastvi.objectives.registry import OBJECTIVES, make_objective

__all__ = [
    "ELBO",
    "IWAE",
    "OBJECTIVES",
    "STL",
    "DReG",
    "LatentVariableModel",
    "LinearWarmUp",
    "Objective",
    "elbo_bound",
    "iwae_bound",
    "log_weights",
    "make_objective",
]
