"""The CPU's functions for the two ends of a transition, beside the same by operations one by one."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from fastvi.mcmc import HMC, PhasePoint, as_target, chain_normals, hmc, step_seed
from fastvi.mcmc.hmc import Metric
from fastvi.ops._backends import MODULES


def gaussian(q):
    return -0.5 * (q * q * torch.linspace(0.5, 3.0, q.shape[-1], dtype=q.dtype)).sum(-1)


def mass_of(kind, dimension, dtype):
    diagonal = torch.linspace(0.5, 2.0, dimension, dtype=dtype)
    return {"identity": None, "diagonal": diagonal, "dense": torch.diag(diagonal) + 0.1}[kind]


@pytest.fixture
def one_by_one(monkeypatch):
    """Calls a function where the CPU's functions are not used."""

    def call(function):
        with monkeypatch.context() as context:
            context.setattr(hmc, "_has_kernels", lambda position: False)
            return function()

    return call


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["identity", "diagonal", "dense"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (64, 31), (700, 33)])
def test_a_step_is_the_same_by_operations(one_by_one, dtype, kind, shape):
    kernel = HMC(as_target(gaussian), 0.7, 3, mass_of(kind, shape[1], dtype))
    generator = torch.Generator().manual_seed(1)
    state = kernel.init(torch.randn(shape, generator=generator).to(dtype))
    for t in range(3):
        new_state, info = kernel.step(state, step_seed(3, t), 11)
        other_state, other = one_by_one(partial(kernel.step, state, step_seed(3, t), 11))
        assert torch.equal(info.is_accepted, other.is_accepted)
        assert torch.equal(info.is_divergent, other.is_divergent)
        torch.testing.assert_close(tuple(new_state), tuple(other_state), rtol=0.0, atol=0.0)
        assert torch.equal(info.start_momentum, other.start_momentum)
        # Differences of energies of about the dimension's size, in float32 where they are added up one by one.
        tolerance = (1e-5 if dtype == torch.float32 else 1e-13) * (shape[1] + 10.0)
        for name in ("energy", "energy_error", "acceptance_probability"):
            torch.testing.assert_close(getattr(info, name), getattr(other, name), rtol=1e-5, atol=tolerance)
        state = new_state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_the_chains_noise(dtype):
    position = torch.zeros(40, 7, dtype=dtype)
    noise = chain_normals(5, 3, 9, position)
    momentum, threshold = Metric(None).draw(5, 3, position)
    assert torch.equal(momentum, noise[:, :7])
    torch.testing.assert_close(threshold, 0.5 * noise[:, 7:].square().sum(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["log_density", "momentum"])
def test_what_is_not_finite_is_never_chosen(one_by_one, dtype, bad, place):
    ones = torch.ones(6, 3, dtype=dtype)
    start = PhasePoint(ones, ones, torch.zeros(6, dtype=dtype), ones)
    end = PhasePoint(*(part + 1.0 for part in start))
    getattr(end, place)[2] = bad
    threshold = torch.full((6,), 1e30, dtype=dtype)

    def choose():
        return hmc._choose(Metric(None), start, end, threshold)

    for state, probability, energy, error in (choose(), one_by_one(choose)):
        assert state.position[:, 0].tolist() == [2.0, 2.0, 1.0, 2.0, 2.0, 2.0]
        assert state.log_density.tolist() == [1.0, 1.0, 0.0, 1.0, 1.0, 1.0]
        assert error[2] == math.inf
        assert probability[2] == 0.0
        assert energy.tolist() == [5.0, 5.0, 1.5, 5.0, 5.0, 5.0]


def test_the_probability_is_that_of_the_error_and_at_most_one():
    count = 7
    zeros = torch.zeros(count, 2, dtype=torch.float64)
    log_densities = torch.tensor([0.0, -1.0, 1.0, -800.0, 800.0, -1e-9, -0.5], dtype=torch.float64)
    start = PhasePoint(zeros, zeros, torch.zeros(count, dtype=torch.float64), zeros)
    end = PhasePoint(zeros + 1.0, zeros, log_densities, zeros)
    threshold = torch.full((count,), 0.75, dtype=torch.float64)
    state, probability, _, error = hmc._choose(Metric(None), start, end, threshold)
    torch.testing.assert_close(error, -log_densities, rtol=0.0, atol=0.0)
    torch.testing.assert_close(probability, log_densities.exp().clamp_max(1.0), rtol=1e-15, atol=0.0)
    assert torch.equal(state.position[:, 0] == 1.0, -log_densities <= 0.75)


def test_strides_are_followed():
    """Positions, gradients and masses that are views of larger tensors."""
    wide = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    mass = torch.diag(torch.linspace(0.5, 1.5, 4)).diagonal()

    class Strided:
        is_target = True

        def __call__(self, q):
            gradient = torch.zeros(q.shape[1], q.shape[0]).t()
            return gaussian(q), gradient - q * torch.linspace(0.5, 3.0, 4)

    views, copies = HMC(Strided(), 0.3, 2, mass), HMC(as_target(gaussian), 0.3, 2, mass.clone())
    state = views.init(wide[:, ::2])
    strided = state._replace(position=wide[:, ::2], gradient=state.gradient.t().contiguous().t())
    found, expected = views.step(strided, 3)[0], copies.step(copies.init(wide[:, ::2]), 3)[0]
    torch.testing.assert_close(tuple(found), tuple(expected))


STATE = (torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3), torch.zeros(3, 2))
"""Position, momentum, log density and gradient."""

WITHOUT_STEPS = (None, 0.0, torch.zeros(1, 0), None, None, 0.0, None, 0)
"""The arguments of a target behind its own."""


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("draw_momenta", (torch.zeros(3), 0, 0, None)),
        ("draw_momenta", (torch.zeros(3, 2).long(), 0, 0, None)),
        ("draw_momenta", (torch.zeros(3, 2), -1, 0, None)),
        ("draw_momenta", (torch.zeros(3, 2), 0, 0, torch.ones(3))),
        ("choose_states", (torch.zeros(3, 2), *[None] * 11)),
        ("choose_states", (torch.zeros(3, 2), torch.zeros(2, 2), *[None] * 10)),
        ("choose_states", (*STATE, None, *STATE, torch.zeros(3), torch.zeros(3), None)),
        ("choose_states", (*STATE, torch.zeros(3), *STATE, None, torch.zeros(3), None)),
        ("regression_trajectory", (1, 2**40, 0, *[None] * 5, False, 0.0, 0.0, *WITHOUT_STEPS)),
        (
            "regression_trajectory",
            (0, 8, 1, torch.zeros(8), *[None] * 4, False, 0.0, 0.0, None, 0.0, torch.zeros(1, 1), *WITHOUT_STEPS[3:]),
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_not_read(name, arguments):
    with pytest.raises(ValueError, match=r"fastvi\.mcmc: "):
        getattr(MODULES.cpu, name)(*arguments)
