"""Bounds on log p(x) and estimators of their gradients, made of the operations of :mod:`fastvi.ops`.

An objective is a frozen dataclass called as ``objective(model, x, seed=..., row_offset=...)``. It returns a value for
each example: a bound in nats, to be maximised, or a loss, to be minimised. Differentiating it gives the objective's
gradient estimator.
"""

from fastvi._options import option
from fastvi.objectives.base import Bound, Loss, Objective
from fastvi.objectives.bounds import elbo_bound, iwae_bound, log_weights
from fastvi.objectives.ciwae import CIWAE
from fastvi.objectives.diagnosis import Diagnosis, GradientStatistics, diagnose
from fastvi.objectives.draws import Draw, DrawingModel, draw
from fastvi.objectives.elbo import ELBO, STL, LinearWarmUp
from fastvi.objectives.importance import IWAE, DReG
from fastvi.objectives.layers import call_detached, sample_layer
from fastvi.objectives.miwae import MIWAE
from fastvi.objectives.model import LatentVariableModel
from fastvi.objectives.piwae import PIWAE
from fastvi.objectives.reconstruction import ReconstructingModel, Reconstruction
from fastvi.objectives.registry import OBJECTIVES, make_objective
from fastvi.objectives.renyi import Renyi
from fastvi.objectives.score_function import ScoreFunction
from fastvi.objectives.semi_supervised import PartlyLabelled, SemiSupervised, SemiSupervisedModel, unlabelled_bound
from fastvi.objectives.signals import BaselineModel, ControlVariateModel
from fastvi.objectives.tvo import TVO
from fastvi.objectives.vimco import VIMCO
from fastvi.objectives.wake_sleep import ReweightedWakeSleep, SleepingModel

__all__ = [
    "CIWAE",
    "ELBO",
    "IWAE",
    "MIWAE",
    "OBJECTIVES",
    "PIWAE",
    "STL",
    "TVO",
    "VIMCO",
    "BaselineModel",
    "Bound",
    "ControlVariateModel",
    "DReG",
    "Diagnosis",
    "Draw",
    "DrawingModel",
    "GradientStatistics",
    "LatentVariableModel",
    "LinearWarmUp",
    "Loss",
    "Objective",
    "PartlyLabelled",
    "ReconstructingModel",
    "Reconstruction",
    "Renyi",
    "ReweightedWakeSleep",
    "ScoreFunction",
    "SemiSupervised",
    "SemiSupervisedModel",
    "SleepingModel",
    "call_detached",
    "diagnose",
    "draw",
    "elbo_bound",
    "iwae_bound",
    "log_weights",
    "make_objective",
    "option",
    "sample_layer",
    "unlabelled_bound",
]
