"""Hamiltonian dynamics: trajectories of leapfrog steps for any differentiable log density, many at once."""

from fastvi.mcmc.integrators import PhasePoint, Target, hamiltonian, leapfrog, with_gradient

__all__ = ["PhasePoint", "Target", "hamiltonian", "leapfrog", "with_gradient"]
