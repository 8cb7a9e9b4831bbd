"""Integrators of trajectories: second order, reversible, volume-preserving, their coefficients the best there are."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import minimize_scalar
from torch.autograd.functional import jacobian

from fastvi.mcmc import INTEGRATORS, PhasePoint, as_target, integrate

DENSE = torch.tensor([[1.2, 0.5, 0.0], [0.5, 0.8, -0.2], [0.0, -0.2, 0.6]], dtype=torch.float64)
MASSES = {"identity": None, "diagonal": DENSE.diagonal().contiguous(), "dense": DENSE}
integrators = pytest.mark.parametrize("integrator", INTEGRATORS)
masses = pytest.mark.parametrize("mass", MASSES.values(), ids=MASSES.keys())


def banana(q):
    return -0.5 * (q[..., 0].square() + (q[..., 1] - 0.7 * q[..., 0].square()).square() + q[..., 2:].square().sum(-1))


TARGET = as_target(banana)


def some_points(num_chains=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(num_chains, 3, generator=generator, dtype=torch.float64) for _ in range(2)]


def move(q, p, step_size, num_steps, mass=None, integrator="leapfrog", target=TARGET):
    return integrate(target, PhasePoint.at(target, q, p), step_size, num_steps, mass, integrator)


def exact_flow(q, p, time, mass):
    """By a solver of differential equations to 1e-12."""
    inverse_mass = np.eye(3) if mass is None else np.diag(mass) if mass.dim() == 1 else mass.numpy()

    def velocity(_, both):
        q, p = np.split(both.reshape(2, -1), 2)
        gradient = TARGET(torch.as_tensor(q.reshape(-1, 3)))[1].numpy()
        return np.concatenate([(p.reshape(-1, 3) @ inverse_mass).ravel(), gradient.ravel()])

    both = np.concatenate([q.numpy().ravel(), p.numpy().ravel()])
    end = solve_ivp(velocity, (0.0, time), both, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    return torch.as_tensor(end).reshape(2, -1, 3)


@integrators
@masses
def test_the_error_of_a_trajectory_falls_with_the_square_of_the_step(integrator, mass):
    q, p = some_points()
    exact = exact_flow(q, p, 1.2, mass)
    errors = [
        (torch.stack(move(q, p, 1.2 / count, count, mass, integrator)[:2]) - exact).abs().max().item()
        for count in (16, 32, 64)
    ]
    orders = [math.log2(large / small) for large, small in itertools.pairwise(errors)]
    assert orders == pytest.approx([2.0, 2.0], abs=0.1)


@pytest.mark.parametrize("step_size", [0.2, torch.tensor(0.2).double(), torch.tensor([0.1, 0.2, 0.3, 0.4]).double()])
@integrators
@masses
def test_a_trajectory_is_reversible_and_keeps_volume(integrator, mass, step_size):
    q, p = some_points()
    end = move(q, p, step_size, 5, mass, integrator)
    assert (end.position - q).abs().amax(-1).min() > 0.05
    back = move(end.position, -end.momentum, step_size, 5, mass, integrator)
    torch.testing.assert_close((back.position, -back.momentum), (q, p), rtol=0.0, atol=1e-13)
    torch.testing.assert_close((end.log_density, end.gradient), TARGET(end.position))


class Recorded:
    """The banana with second derivatives, for the Jacobian of a trajectory by autograd."""

    is_target = True

    def __call__(self, q):
        (gradient,) = torch.autograd.grad(banana(q).sum(), q, create_graph=True)
        return banana(q), gradient


@integrators
@masses
def test_the_determinant_of_a_trajectory_is_one(integrator, mass):
    q, p = some_points(1)

    def stacked(both):
        return torch.cat(move(*both.chunk(2, -1), 0.2, 3, mass, integrator, Recorded())[:2], -1)

    matrix = jacobian(stacked, torch.cat([q, p], -1))[0, :, 0, :]
    assert torch.linalg.slogdet(matrix)[1].item() == pytest.approx(0.0, abs=1e-12)


def propagation(integrator, step):
    """The matrix of one step for the standard normal in one dimension, by columns."""
    target = as_target(lambda q: -0.5 * q.square().sum(-1))
    columns = torch.eye(2, dtype=torch.float64)
    end = move(columns[:, :1], columns[:, 1:], step, 1, None, integrator, target)
    return end.position.flatten().tolist(), end.momentum.flatten().tolist()


def expected_energy_error(integrator, step):
    """The bound of the mean energy error on the standard normal (Blanes, Casas, Sanz-Serna 2014, proposition 4.3)."""
    (a, b), (c, _) = propagation(integrator, step)
    return (b + c) ** 2 / (2.0 * (1.0 - a * a))


def test_leapfrog_on_a_gaussian_has_the_known_energy_error():
    for step in (0.5, 1.0, 1.5):
        assert expected_energy_error("leapfrog", step) == pytest.approx(step**4 / (32.0 * (1.0 - step**2 / 4.0)))


def test_two_stages_have_the_smallest_error_of_third_order():
    """The Hamiltonian that is kept differs by the step's square times two commutators, whose coefficients are these."""

    def squares(kick):
        return ((1.0 - 6.0 * kick + 6.0 * kick**2) / 12.0) ** 2 + ((1.0 - 6.0 * kick) / 24.0) ** 2

    best = minimize_scalar(squares, bounds=(0.1, 0.3), method="bounded", options={"xatol": 1e-12}).x
    assert INTEGRATORS["minimal-norm-2"].kicks[0] == pytest.approx(best, abs=1e-8)


def test_three_stages_have_the_smallest_mean_energy_error_at_all_steps_of_three_leapfrogs(monkeypatch):
    steps = [0.05 * i for i in range(1, 61)]

    def worst(integrator):
        return max(expected_energy_error(integrator, step) for step in steps)

    best = worst("minimal-norm-3")
    assert best < 1e-4
    scheme = INTEGRATORS["minimal-norm-3"]
    kick, drift = scheme.kicks[0], scheme.drifts[0]
    for change in ((1e-3, 0.0), (-1e-3, 0.0), (0.0, 1e-3), (0.0, -1e-3)):
        a, b = kick + change[0], drift + change[1]
        near = type(scheme)((a, 0.5 - a, 0.5 - a, a), (b, 1.0 - 2.0 * b, b))
        monkeypatch.setitem(INTEGRATORS, "near", near)
        assert worst("near") > best


@pytest.mark.parametrize("step", [0.3, 0.6, 0.9])
def test_more_stages_pay_on_a_gaussian_at_the_same_number_of_gradients(step):
    leapfrog = expected_energy_error("leapfrog", step)
    assert expected_energy_error("minimal-norm-2", 2.0 * step) < 0.2 * leapfrog
    assert expected_energy_error("minimal-norm-3", 3.0 * step) < 0.05 * leapfrog


def test_steps_by_chain_are_those_of_each_chain_alone():
    q, p = some_points()
    steps = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    for integrator, mass in itertools.product(INTEGRATORS, MASSES.values()):
        together = move(q, p, steps, 3, mass, integrator)
        alone = [move(q[c : c + 1], p[c : c + 1], steps[c].item(), 3, mass, integrator) for c in range(4)]
        torch.testing.assert_close(tuple(together), tuple(map(torch.cat, zip(*alone, strict=True))))


def test_a_target_that_follows_whole_trajectories_is_left_to_it():
    called = []

    class Whole:
        is_target = True

        def __call__(self, q):
            return TARGET(q)

        def trajectory(self, start, step_size, num_steps, inverse_mass):
            called.append((step_size, num_steps, inverse_mass))
            return start

    q, p = some_points()
    steps = torch.full((4,), 0.1, dtype=torch.float64)
    assert move(q, p, 0.1, 3, None, target=Whole()).position is q
    move(q, p, steps, 4, MASSES["diagonal"], target=Whole())
    assert called[0] == (0.1, 3, None)
    assert called[1][0].shape == (4, 1)
    assert called[1][2] is MASSES["diagonal"]
    for integrator, mass in (("minimal-norm-2", None), ("leapfrog", DENSE)):
        expected = move(q, p, 0.1, 3, mass, integrator)
        torch.testing.assert_close(tuple(move(q, p, 0.1, 3, mass, integrator, Whole())), tuple(expected))
    assert len(called) == 2
