"""Native targets: log densities whose trajectories need no autograd, with the priors that are added to them."""

from fastvi.mcmc.targets.base import NativeTarget, SumTarget
from fastvi.mcmc.targets.compiled import CompiledTarget
from fastvi.mcmc.targets.decoder import LogJoint
from fastvi.mcmc.targets.gaussian import DenseGaussian, DiagonalGaussian, Flat
from fastvi.mcmc.targets.mixture import GaussianMixture
from fastvi.mcmc.targets.prior import (
    BetaPrior,
    FlatPrior,
    GammaPrior,
    HalfNormalPrior,
    HalfStudentTPrior,
    InverseGammaPrior,
    LaplacePrior,
    NormalPrior,
    Prior,
    StudentTPrior,
)
from fastvi.mcmc.targets.regression import LinearRegression, LogisticRegression, PoissonRegression

__all__ = [
    "BetaPrior",
    "CompiledTarget",
    "DenseGaussian",
    "DiagonalGaussian",
    "Flat",
    "FlatPrior",
    "GammaPrior",
    "GaussianMixture",
    "HalfNormalPrior",
    "HalfStudentTPrior",
    "InverseGammaPrior",
    "LaplacePrior",
    "LinearRegression",
    "LogJoint",
    "LogisticRegression",
    "NativeTarget",
    "NormalPrior",
    "PoissonRegression",
    "Prior",
    "StudentTPrior",
    "SumTarget",
]
