"""Exponential families: densities, moments, duality, conjugate priors and maximum entropy, for batches and autograd.

A family is an object such as ``Gamma()`` or ``Ising(5)``; natural parameters eta, mean parameters mu = E[T(x)] and data
are tensors that its methods take.
"""

from fastvi._options import option
from fastvi.expfam.base import ExponentialFamily
from fastvi.expfam.bernoulli import Bernoulli
from fastvi.expfam.beta import Beta
from fastvi.expfam.binomial import Binomial
from fastvi.expfam.boltzmann_machine import BoltzmannMachine
from fastvi.expfam.categorical import Categorical
from fastvi.expfam.conjugate import ConjugatePrior
from fastvi.expfam.dirichlet import Dirichlet
from fastvi.expfam.duality import duality_gap, legendre
from fastvi.expfam.exponential import Exponential
from fastvi.expfam.finite import FiniteFamily
from fastvi.expfam.gamma import Gamma
from fastvi.expfam.gaussian import Gaussian
from fastvi.expfam.ising import Ising
from fastvi.expfam.laplace import Laplace
from fastvi.expfam.maximum_entropy import Grid, MaximumEntropy, attainable, max_entropy
from fastvi.expfam.multivariate_gaussian import MultivariateGaussian
from fastvi.expfam.newton import NotConvergedError
from fastvi.expfam.poisson import Poisson
from fastvi.expfam.polytope import Attainability
from fastvi.expfam.registry import FAMILIES, make_family
from fastvi.expfam.von_mises import VonMises

__all__ = [
    "FAMILIES",
    "Attainability",
    "Bernoulli",
    "Beta",
    "Binomial",
    "BoltzmannMachine",
    "Categorical",
    "ConjugatePrior",
    "Dirichlet",
    "Exponential",
    "ExponentialFamily",
    "FiniteFamily",
    "Gamma",
    "Gaussian",
    "Grid",
    "Ising",
    "Laplace",
    "MaximumEntropy",
    "MultivariateGaussian",
    "NotConvergedError",
    "Poisson",
    "VonMises",
    "attainable",
    "duality_gap",
    "legendre",
    "make_family",
    "max_entropy",
    "option",
]
