"""Trajectories of native targets: leapfrog steps, with the same bits beside any chains and on any threads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastvi.mcmc import HMC, PhasePoint, as_target, integrate, step_seed
from fastvi.mcmc.targets import HalfNormalPrior, LogisticRegression, NormalPrior, StudentTPrior
from support.chain_targets import CASES, TOLERANCE, assert_near, normal


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("per_chain", [False, True])
@pytest.mark.parametrize(
    "name", ["logistic, full", "linear, scale", "dense by covariance", "diagonal", "mixture, full"]
)
def test_trajectories_are_leapfrogs(name: str, per_chain: bool, dtype: torch.dtype, route: str) -> None:
    """Against the integrator in float64, whose gradient autograd takes."""
    case = CASES[name]
    target, reference, chains = case.make(dtype), as_target(case.formula), 37
    inverse_mass = normal(target.dimension, seed=8).exp().float().double()
    factor = 0.5 * normal(target.dimension, target.dimension, seed=9)
    dense = (factor @ factor.T + inverse_mass.diag()).float().double()
    position, momentum = (0.3 * normal(chains, target.dimension, seed=i).to(dtype) for i in (1, 2))
    step = 0.01 * (1.0 + normal(chains, seed=3).abs()).to(dtype) if per_chain else 0.02
    start = PhasePoint.at(target, position, momentum)
    for steps, mass in ((1, None), (7, inverse_mass), (3, dense)):
        end = target.trajectory(start, step, steps, None if mass is None else mass.to(dtype))
        exact = integrate(
            reference,
            PhasePoint.at(reference, position.double(), momentum.double()),
            step.double() if isinstance(step, Tensor) else step,
            steps,
            mass,
        )
        for found, expected in zip(end, exact, strict=True):
            assert_near(found, expected, 30.0 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_trajectories_go_back(dtype: torch.dtype) -> None:
    target = CASES["logistic, full"].make(dtype) + NormalPrior(0.0, 1.0)
    start = PhasePoint.at(target, *(normal(20, target.dimension, seed=i).to(dtype) for i in (1, 2)))
    end = target.trajectory(start, 0.05, 10)
    assert (end.position - start.position).abs().max() > 0.3
    back = target.trajectory(end._replace(momentum=-end.momentum), 0.05, 10)
    assert_near(back.position, start.position.double(), TOLERANCE[dtype])
    assert_near(-back.momentum, start.momentum.double(), TOLERANCE[dtype])


@pytest.mark.parametrize("per_chain", [False, True])
def test_chains_are_those_of_the_formula(per_chain: bool) -> None:
    """Hamiltonian Monte Carlo draws the same from a native target and from the formula by autograd."""
    case = CASES["logistic, full"]
    native, position = case.make(torch.float64), 0.1 * normal(20, 10)
    step = 0.02 * (1.0 + normal(20, seed=3).abs()) if per_chain else 0.03
    kernels = [HMC(target, step, 8) for target in (native, as_target(case.formula))]
    states = [kernel.init(position) for kernel in kernels]
    for t in range(10):
        found = [kernel.step(state, step_seed(1, t)) for kernel, state in zip(kernels, states, strict=True)]
        states = [state for state, _ in found]
        torch.testing.assert_close(states[0], states[1], rtol=1e-9, atol=1e-9)
    assert (states[0].position - position).abs().amax(1).min() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["logistic, full", "poisson", "linear, scale", "dense by covariance", "mixture, full"])
@pytest.mark.cpu_kernels
def test_a_chain_has_the_same_bits_beside_any_others(name: str, dtype: torch.dtype) -> None:
    target = CASES[name].make(dtype) + StudentTPrior(3.0) + HalfNormalPrior(2.0, on=0)
    start = PhasePoint.at(target, *(0.3 * normal(70, target.dimension, seed=i).to(dtype) for i in (1, 2)))
    mass = torch.eye(target.dimension, dtype=dtype) + 0.1
    end = target.trajectory(start, 0.02, 5, mass)
    for chosen in (slice(0, 1), slice(3, 20), slice(17, 50), slice(69, 70)):
        own = target.trajectory(PhasePoint(*[each[chosen] for each in start]), 0.02, 5, mass)
        for found, expected in zip(own, end, strict=True):
            assert found.equal(expected[chosen])


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("chains", [1, 70])
def test_the_same_bits_for_any_number_of_threads(chains: int) -> None:
    """With so many rows that threads share those of one chain."""
    rows = 20_000
    x, y = normal(rows, 6).float(), (normal(rows, seed=1) > 0.0).float()
    target = LogisticRegression(x, y, intercept=True) + NormalPrior()
    start = PhasePoint.at(target, *(0.1 * normal(chains, 7, seed=i).float() for i in (1, 2)))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append((*target(start.position), *target.trajectory(start, 0.001, 3)))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))
