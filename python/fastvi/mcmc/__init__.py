"""Markov chains by Hamiltonian dynamics: trajectories and kernels for any differentiable log density, many at once."""

from fastvi.mcmc.adaptation import WarmUp, WarmUpTrace, Window, reasonable_step_size, warm_up, windows
from fastvi.mcmc.ais import annealed_importance_sampling, bidirectional_monte_carlo, tune_annealing
from fastvi.mcmc.algorithm import Algorithm, HMCAlgorithm, HMCRun, MALAAlgorithm, Run
from fastvi.mcmc.annealing import AnnealedWeights, Annealing
from fastvi.mcmc.bijections import (
    Bijection,
    Identity,
    Interval,
    LowerBounded,
    Ordered,
    Positive,
    PositiveOrdered,
    Simplex,
    UpperBounded,
)
from fastvi.mcmc.chees import ChEESAlgorithm, ChEESRun, JitteredHMC
from fastvi.mcmc.diagnosis import SamplerWarning
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
from fastvi.mcmc.registry import ALGORITHMS
from fastvi.mcmc.samples import Samples, Summary, SummaryRow
from fastvi.mcmc.sampling import sample

__all__ = [
    "ALGORITHMS",
    "HMC",
    "INTEGRATORS",
    "MALA",
    "Algorithm",
    "AnnealedWeights",
    "Annealing",
    "Bijection",
    "ChEESAlgorithm",
    "ChEESRun",
    "ChainState",
    "DualAveraging",
    "GeneralisedHMC",
    "HMCAlgorithm",
    "HMCRun",
    "Identity",
    "Interval",
    "JitteredHMC",
    "Kernel",
    "LowerBounded",
    "MALAAlgorithm",
    "MEADSAlgorithm",
    "MEADSRun",
    "Metric",
    "MomentState",
    "Ordered",
    "PersistentState",
    "PhasePoint",
    "Positive",
    "PositiveOrdered",
    "Run",
    "RunningCovariance",
    "SamplerWarning",
    "Samples",
    "Simplex",
    "StepInfo",
    "StepSizeState",
    "Summary",
    "SummaryRow",
    "Target",
    "UpperBounded",
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
    "sample",
    "step_seed",
    "tune_annealing",
    "warm_up",
    "windows",
    "with_gradient",
]
