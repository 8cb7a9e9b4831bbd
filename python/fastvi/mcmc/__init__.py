"""Markov chains by Hamiltonian dynamics: trajectories and kernels for any differentiable log density, many at once."""

from fastvi.mcmc.adaptation import WarmUp, WarmUpTrace, Window, reasonable_step_size, warm_up, windows
from fastvi.mcmc.ais import annealed_importance_sampling, bidirectional_monte_carlo, tune_annealing
from fastvi.mcmc.algorithm import Algorithm, HMCAlgorithm, HMCRun, MALAAlgorithm, Run
from fastvi.mcmc.annealing import AnnealedWeights, Annealing
from fastvi.mcmc.chees import ChEESAlgorithm, ChEESRun, JitteredHMC
from fastvi.mcmc.divergences import explain_divergences, explain_stillness
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
from fastvi.mcmc.kernel import (
    ChainState,
    Kernel,
    StepInfo,
    chain_noise,
    chain_normals,
    halton,
    initial_state,
    step_seed,
)
from fastvi.mcmc.mala import MALA
from fastvi.mcmc.meads import GeneralisedHMC, MEADSAlgorithm, MEADSRun, PersistentState
from fastvi.mcmc.moments import MomentState, RunningCovariance

__all__ = [
    "HMC",
    "INTEGRATORS",
    "MALA",
    "Algorithm",
    "AnnealedWeights",
    "Annealing",
    "ChEESAlgorithm",
    "ChEESRun",
    "ChainState",
    "DualAveraging",
    "GeneralisedHMC",
    "HMCAlgorithm",
    "HMCRun",
    "JitteredHMC",
    "Kernel",
    "MALAAlgorithm",
    "MEADSAlgorithm",
    "MEADSRun",
    "Metric",
    "MomentState",
    "PersistentState",
    "PhasePoint",
    "Run",
    "RunningCovariance",
    "StepInfo",
    "StepSizeState",
    "Target",
    "WarmUp",
    "WarmUpTrace",
    "Window",
    "annealed_importance_sampling",
    "as_target",
    "bidirectional_monte_carlo",
    "chain_noise",
    "chain_normals",
    "explain_divergences",
    "explain_stillness",
    "halton",
    "hamiltonian",
    "initial_state",
    "integrate",
    "leapfrog",
    "reasonable_step_size",
    "step_seed",
    "tune_annealing",
    "warm_up",
    "windows",
    "with_gradient",
]
