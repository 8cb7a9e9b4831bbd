"""One clear line: starts and log densities that cannot be, divergences, and chains that stay where they are."""

from __future__ import annotations

import re

import pytest
import torch

from fastvi.mcmc import (
    HMC,
    MALA,
    HMCAlgorithm,
    as_target,
    explain_divergences,
    explain_stillness,
    step_seed,
    warm_up,
)


def gaussian(q):
    return -0.5 * q.square().sum(-1)


def refused(kind, message, log_density=gaussian, position=None, **options):
    """The message of what ``init`` raises, in one line, which begins with the kernel's name."""
    position = torch.zeros(6, 3) if position is None else position
    kernel = HMC(as_target(log_density), options.pop("step_size", 0.1), 2, **options)
    with pytest.raises(kind, match=re.escape(message)) as raised:
        kernel.init(position)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("kind", "message", "position"),
    [
        (TypeError, "HMC: positions must be a torch.Tensor, got list", [[0.0]]),
        (ValueError, "HMC: positions must have the shape (C, D), one row for each chain, got (3,)", torch.zeros(3)),
        (ValueError, "positions must have the shape (C, D), one row for each chain, got (0, 3)", torch.zeros(0, 3)),
        (TypeError, "HMC: positions must have the dtype float32 or float64, got torch.int64", torch.ones(2, 3).long()),
        (TypeError, "float32 or float64, got torch.bfloat16", torch.ones(2, 3).bfloat16()),
    ],
)
def test_wrong_positions(kind, message, position):
    refused(kind, message, position=position)


@pytest.mark.parametrize(
    ("kind", "message", "log_density"),
    [
        (ValueError, "must have the shape (6,), got (): a sum is over the last dimension", lambda q: -q.square().sum()),
        (ValueError, "must have the shape (6,), got (6, 3)", lambda q: -q.square()),
        (ValueError, "must have the shape (6,), got (6, 1)", lambda q: -q.square().sum(-1, keepdim=True)),
        (ValueError, "no gradient by the position: it must be a differentiable", lambda q: -q.detach().sum(-1)),
        (ValueError, "no gradient by the position: it must be a differentiable", lambda q: torch.zeros(len(q))),
        (ValueError, "the log density has the dtype torch.float64, the positions have", lambda q: gaussian(q.double())),
    ],
)
def test_wrong_log_densities(kind, message, log_density):
    refused(kind, message, log_density)


class OnAnotherDevice:
    is_target = True

    def __call__(self, q):
        return torch.zeros(len(q), device="meta"), torch.zeros_like(q)


class OfAnotherShape(OnAnotherDevice):
    def __call__(self, q):
        return gaussian(q), torch.zeros(3)


def test_targets_that_give_what_does_not_fit():
    refused(ValueError, "HMC: the log density has the device meta, the positions have cpu: move", OnAnotherDevice())
    refused(ValueError, "the gradient of positions (6, 3) must have the shape (6, 3), got (3,)", OfAnotherShape())


@pytest.mark.parametrize("value", [float("-inf"), float("nan"), float("inf")])
def test_starts_without_finite_density_are_named(value):
    def log_density(q):
        return torch.where(q[:, 0] > 0.0, value, gaussian(q))

    position = torch.zeros(6, 3)
    position[4, 0] = 1.0
    message = f"HMC: chain 4 of 6 starts where the log density is {value}: start it where the density is positive"
    message = refused(ValueError, message, log_density, position)
    assert "draws of the prior" in message
    assert "bijection" in message
    position[1, 0] = 1.0
    refused(ValueError, "HMC: chains 1, 4 of 6 start where the log density is", log_density, position)
    with pytest.raises(ValueError, match="MALA: chains 1, 4 of 6"):
        MALA(as_target(log_density), 0.1).init(position)
    with pytest.raises(ValueError, match="chains 1, 4 of 6"):
        HMCAlgorithm().start(as_target(log_density), position, 10, 0)
    refused(ValueError, "chains 0, 1, 2, 3, 4, 5, 6, 7, ... (50) of 50 start", log_density, torch.ones(50, 3))


def test_starts_without_finite_gradient_are_named():
    refused(
        ValueError,
        "chain 2 of 3 starts where the gradient is not finite: start it",
        lambda q: -q.sqrt().sum(-1),
        torch.tensor([[1.0], [2.0], [0.0]]),
    )


@pytest.mark.parametrize(
    ("message", "options"),
    [
        (
            "inverse_mass of 6 chains in 3 dimensions must have the shape (3,) or (3, 3)",
            {"inverse_mass": torch.ones(4)},
        ),
        ("inverse_mass of 6 chains in 3 dimensions must have the shape", {"inverse_mass": torch.eye(2)}),
        ("step_size of 6 chains in 3 dimensions must have the shape () or (6,)", {"step_size": torch.ones(5)}),
        ("HMC: inverse_mass is torch.float64 on cpu, the positions", {"inverse_mass": torch.ones(3).double()}),
        ("HMC: inverse_mass must be positive", {"inverse_mass": torch.tensor([1.0, -1.0, 1.0])}),
        ("HMC: step_size must be positive", {"step_size": torch.tensor(-1.0)}),
    ],
)
def test_what_does_not_fit_the_positions(message, options):
    refused(ValueError, message, **options)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("HMC: step_size must be positive, got 0", {"step_size": 0.0}),
        ("HMC: step_size must be positive, got nan", {"step_size": float("nan")}),
        ("HMC: step_size must be a number or have the shape () or (C,), got (2, 1)", {"step_size": torch.ones(2, 1)}),
        ("HMC: num_steps must be positive, got 0", {"num_steps": 0}),
        (
            "HMC: integrator must be one of leapfrog, minimal-norm-2, minimal-norm-3, got 'euler'",
            {"integrator": "euler"},
        ),
        ("HMC: inverse_mass must have the shape (D,) or (D, D), got (2, 3)", {"inverse_mass": torch.ones(2, 3)}),
        ("HMC: inverse_mass must be positive definite", {"inverse_mass": torch.tensor([[1.0, 2.0], [2.0, 1.0]])}),
    ],
)
def test_wrong_options(message, options):
    with pytest.raises(ValueError, match=re.escape(message)):
        HMC(as_target(gaussian), **({"step_size": 0.1, "num_steps": 2} | options))


# Divergences


def funnel(q):
    """Neal's: log_scale N(0, 9), the others N(0, exp(log_scale))."""
    log_scale = q[:, 0]
    squares = q[:, 1:].square().sum(-1) * (-log_scale).exp()
    return -log_scale.square() / 18.0 - 0.5 * (squares + (q.shape[1] - 1) * log_scale)


def test_the_funnels_divergences_are_counted_and_placed_in_its_neck():
    kernel = HMC(as_target(funnel), 0.1, 12)
    generator = torch.Generator().manual_seed(1)
    kernel, state, _ = warm_up(kernel, kernel.init(torch.randn(32, 10, generator=generator)), 150, seed=1)
    divergent, positions, accepted = [], [], []
    for t in range(150):
        state, info = kernel.step(state, step_seed(2, t))
        divergent.append(info.is_divergent)
        positions.append(state.position)
        accepted.append(info.is_accepted)
    is_divergent, path = torch.stack(divergent), torch.stack(positions)
    assert is_divergent.sum() > 0
    names = ["log_scale", *(f"x[{i}]" for i in range(9))]
    lines = explain_divergences(is_divergent, path, names).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{int(is_divergent.sum())} of 4800 trajectories diverged (")
    assert lines[1].startswith("They began where log_scale is low (median -")
    assert "higher target acceptance" in lines[2]
    assert "non-centred" in lines[2]


def test_divergences_are_explained_by_the_coordinate_that_tells():
    """Planted ones: where the second coordinate is high, and where no coordinate tells."""
    generator = torch.Generator().manual_seed(3)
    positions = torch.randn(200, 8, 5, generator=generator)
    explained = explain_divergences(positions[..., 1] > 1.5, positions)
    assert "They began where position[1] is high (median 1." in explained
    assert " and position" not in explained
    anywhere = torch.rand(200, 8, generator=generator) < 0.1
    assert "They began in no particular region." in explain_divergences(anywhere, positions)
    one_chain = torch.zeros(200, 8, dtype=torch.bool)
    one_chain[:7, 3] = True
    assert explain_divergences(one_chain, positions).startswith(
        "7 of 1600 trajectories diverged (0.44 %), of chain 3; most of chain 3 (7)."
    )
    assert explain_divergences(torch.zeros(200, 8, dtype=torch.bool), positions) == ""
    with pytest.raises(ValueError, match=re.escape("positions (T, C, D), got (200, 8) and (200, 8)")):
        explain_divergences(anywhere, positions[..., 0])


def test_a_chain_that_never_accepts_is_named():
    """One that starts in a place a thousand times narrower than the others'."""

    def log_density(q):
        narrow = -0.5 * ((q - 50.0) / 1e-4).square().sum(-1)
        return torch.where((q > 25.0).any(-1), narrow, gaussian(q))

    kernel = HMC(as_target(log_density), 0.5, 4)
    position = torch.zeros(5, 2)
    position[3] = 50.0
    state, accepted = kernel.init(position), []
    for t in range(40):
        state, info = kernel.step(state, step_seed(1, t))
        accepted.append(info.is_accepted)
    line = explain_stillness(torch.stack(accepted))
    assert line.startswith("chain 3 accepted none of 40 proposals and is where it started: try another start")
    assert "\n" not in line
    assert torch.equal(state.position[3], position[3])
    both = torch.stack(accepted) & (torch.arange(5) != 1)
    assert explain_stillness(both).startswith("chains 1, 3 accepted none of 40 proposals and are where they started")
    assert explain_stillness(torch.ones(3, 2, dtype=torch.bool)) == ""
