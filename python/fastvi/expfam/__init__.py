"""Exponential families: densities, moments, duality, conjugate priors and maximum entropy, for batches and autograd.

A family is an object such as ``Gamma()`` or ``Ising(5)``; natural parameters eta, mean parameters mu = E[T(x)] and data
are tensors that its methods take.
"""

from fastvi._options import option
from fastvi.expfam.base import ExponentialFamily
from fastvi.expfam.bernoulli import Bernoulli
from fastvi.expfam.conjugate import ConjugatePrior
from fastvi.expfam.gaussian import Gaussian
from fastvi.expfam.newton import NotConvergedError
from fastvi.expfam.registry import FAMILIES, make_family

__all__ = [
    "FAMILIES",
    "Bernoulli",
    "ConjugatePrior",
    "ExponentialFamily",
    "Gaussian",
    "NotConvergedError",
    "make_family",
    "option",
]
