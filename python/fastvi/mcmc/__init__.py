"""Markov chains by Hamiltonian dynamics: trajectories and kernels for any differentiable log density, many at once."""

from fastvi.mcmc.algorithm import Algorithm, Run
from fastvi.mcmc.hmc import HMC, Metric
from fastvi.mcmc.integrators import (
    INTEGRATORS,
    PhasePoint,
    Target,
    as_target,
    hamiltonian,
    integrate,
    leapfrog,
    with_gradient,
)
from fastvi.mcmc.kernel import ChainState, Kernel, StepInfo, chain_noise, chain_normals, halton, step_seed
from fastvi.mcmc.mala import MALA

__all__ = [
    "HMC",
    "INTEGRATORS",
    "MALA",
    "Algorithm",
    "ChainState",
    "Kernel",
    "Metric",
    "PhasePoint",
    "Run",
    "StepInfo",
    "Target",
    "as_target",
    "chain_noise",
    "chain_normals",
    "halton",
    "hamiltonian",
    "integrate",
    "leapfrog",
    "step_seed",
    "with_gradient",
]
