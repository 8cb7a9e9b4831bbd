"""Markov chains by Hamiltonian dynamics: trajectories and kernels for any differentiable log density, many at once."""

from fastvi.mcmc.adaptation import WarmUp, WarmUpTrace, Window, reasonable_step_size, warm_up, windows
from fastvi.mcmc.algorithm import Algorithm, HMCAlgorithm, HMCRun, MALAAlgorithm, Run
from fastvi.mcmc.dual_averaging import DualAveraging, StepSizeState
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
from fastvi.mcmc.moments import MomentState, RunningCovariance

__all__ = [
    "HMC",
    "INTEGRATORS",
    "MALA",
    "Algorithm",
    "ChainState",
    "DualAveraging",
    "HMCAlgorithm",
    "HMCRun",
    "Kernel",
    "MALAAlgorithm",
    "Metric",
    "MomentState",
    "PhasePoint",
    "Run",
    "RunningCovariance",
    "StepInfo",
    "StepSizeState",
    "Target",
    "WarmUp",
    "WarmUpTrace",
    "Window",
    "as_target",
    "chain_noise",
    "chain_normals",
    "halton",
    "hamiltonian",
    "integrate",
    "leapfrog",
    "reasonable_step_size",
    "step_seed",
    "warm_up",
    "windows",
    "with_gradient",
]
