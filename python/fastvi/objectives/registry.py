"""Objectives by name, for the command line and for what a run stores."""

from __future__ import annotations

from typing import Any

from fastvi._registry import Registry
from fastvi.objectives.base import Objective
from fastvi.objectives.ciwae import CIWAE
from fastvi.objectives.elbo import ELBO, STL
from fastvi.objectives.importance import IWAE, DReG
from fastvi.objectives.miwae import MIWAE
from fastvi.objectives.piwae import PIWAE
from fastvi.objectives.reconstruction import Reconstruction
from fastvi.objectives.renyi import Renyi
from fastvi.objectives.score_function import ScoreFunction
from fastvi.objectives.semi_supervised import SemiSupervised
from fastvi.objectives.tvo import TVO
from fastvi.objectives.vimco import VIMCO
from fastvi.objectives.wake_sleep import ReweightedWakeSleep

OBJECTIVES: Registry[Objective] = Registry(
    "objective",
    "make_objective",
    Objective,
    {
        "elbo": ELBO,
        "iwae": IWAE,
        "stl": STL,
        "dreg": DReG,
        "miwae": MIWAE,
        "piwae": PIWAE,
        "ciwae": CIWAE,
        "renyi": Renyi,
        "tvo": TVO,
        "vimco": VIMCO,
        "score-function": ScoreFunction,
        "reweighted-wake-sleep": ReweightedWakeSleep,
        "reconstruction": Reconstruction,
        "semi-supervised": SemiSupervised,
    },
)
"""The objectives, each a frozen dataclass whose fields are its options; ``OBJECTIVES["name"] = Class`` adds another."""


def make_objective(name: str, **options: Any) -> Objective:
    """Make the objective called ``name``.

    Parameters
    ----------
    name
        A key of :data:`OBJECTIVES`.
    options
        Fields of the objective.

    Raises
    ------
    ValueError
        If there is no such objective, or a value is out of its range.
    TypeError
        If the objective has no such option, or lacks one, or a value is of a wrong type.

    Examples
    --------
    >>> make_objective("iwae", num_samples=5)
    IWAE(num_samples=5, backward_samples=None)
    """
    return OBJECTIVES.make(name, **options)
