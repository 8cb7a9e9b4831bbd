"""Markov chains by Hamiltonian dynamics: trajectories and kernels for any differentiable log density, many at once."""

from fastvi.mcmc.adaptation import WarmUp, WarmUpTrace, Window, reasonable_step_size, warm_up, windows
from fastvi.mcmc.algorithm import Algorithm, HMCAlgorithm, HMCRun, MALAAlgorithm, Run
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
from fastvi.mcmc.diagnosis import SamplerWarning
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
from fastvi.mcmc.registry import ALGORITHMS
from fastvi.mcmc.sampling import sample
from fastvi.mcmc.samples import Samples, Summary, SummaryRow

__all__ = [
    "ALGORITHMS",
    "HMC",
    "INTEGRATORS",
    "MALA",
    "Algorithm",
    "Bijection",
    "ChainState",
    "DualAveraging",
    "HMCAlgorithm",
    "HMCRun",
    "Identity",
    "Interval",
    "Kernel",
    "LowerBounded",
    "MALAAlgorithm",
    "Metric",
    "MomentState",
    "Ordered",
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
    "as_target",
    "chain_noise",
    "chain_normals",
    "halton",
    "hamiltonian",
    "integrate",
    "leapfrog",
    "reasonable_step_size",
    "sample",
    "step_seed",
    "warm_up",
    "windows",
    "with_gradient",
]
