"""Exponential families by name."""

from __future__ import annotations

from typing import Any

from fastvi._registry import Registry
from fastvi.expfam.base import ExponentialFamily
from fastvi.expfam.bernoulli import Bernoulli
from fastvi.expfam.beta import Beta
from fastvi.expfam.binomial import Binomial
from fastvi.expfam.boltzmann_machine import BoltzmannMachine
from fastvi.expfam.categorical import Categorical
from fastvi.expfam.dirichlet import Dirichlet
from fastvi.expfam.exponential import Exponential
from fastvi.expfam.gamma import Gamma
from fastvi.expfam.gaussian import Gaussian
from fastvi.expfam.ising import Ising
from fastvi.expfam.laplace import Laplace
from fastvi.expfam.multivariate_gaussian import MultivariateGaussian
from fastvi.expfam.poisson import Poisson
from fastvi.expfam.von_mises import VonMises

FAMILIES: Registry[ExponentialFamily] = Registry(
    "family",
    "make_family",
    ExponentialFamily,
    {
        "bernoulli": Bernoulli,
        "categorical": Categorical,
        "binomial": Binomial,
        "poisson": Poisson,
        "exponential": Exponential,
        "laplace": Laplace,
        "gamma": Gamma,
        "beta": Beta,
        "dirichlet": Dirichlet,
        "gaussian": Gaussian,
        "multivariate-gaussian": MultivariateGaussian,
        "von-mises": VonMises,
        "ising": Ising,
        "boltzmann-machine": BoltzmannMachine,
    },
)
"""The families, each a frozen dataclass whose fields are its sizes; ``FAMILIES["name"] = Class`` adds another."""


def make_family(name: str, **options: Any) -> ExponentialFamily:
    """Make the family called ``name``.

    Parameters
    ----------
    name
        A key of :data:`FAMILIES`.
    options
        Fields of the family.

    Raises
    ------
    ValueError
        If there is no such family, or a value is out of its range.
    TypeError
        If the family has no such option, or lacks one, or a value is of a wrong type.

    Examples
    --------
    >>> make_family("gaussian")
    Gaussian()
    """
    return FAMILIES.make(name, **options)
