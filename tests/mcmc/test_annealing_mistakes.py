"""Mistakes that others made in annealed importance sampling, planted: the mean weight shows each of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastvi.distributions import DiagNormal
from fastvi.mcmc import HMC, Annealing, as_target, step_seed
from fastvi.mcmc.annealing import FORWARD_STREAM, START_STREAM, draw_start
from fastvi.seeding import mix_seed
from support.annealing import STANDARD_ERRORS, deviation

LOPSIDED_LOG_Z = math.log(math.sqrt(2.0 * math.pi) * 1.1 / 2.0)
ONE = DiagNormal(torch.zeros(1).double(), torch.zeros(1).double())
PLATEAU = torch.tensor([0.0, 0.1, *[0.2] * 18, 1.0]).double()
"""Many transitions at one temperature, so that one that does not leave it invariant has the time to show."""


def lopsided(z: Tensor) -> Tensor:
    """Half of a Gaussian on either side, of standard deviation 0.1 and 1, so that step sizes tell where a chain is."""
    return torch.where(z < 0.0, -50.0 * z.square(), -0.5 * z.square())[:, 0]


def run(num_chains: int, mistake: str | None) -> Tensor:
    """Log weights as `Annealing.forward` makes them, or with a mistake."""
    betas, last = PLATEAU.tolist(), len(PLATEAU) - 2
    z = draw_start(ONE, num_chains, mix_seed(0, START_STREAM), 0)
    log_weight = torch.zeros(num_chains).double()
    steps = torch.ones(num_chains).double()
    for t in range(last + 1):
        beta = betas[t + 1]
        ratio = lopsided(z) - ONE.log_prob(z)
        if t < last:
            bridge = as_target(lambda z, beta=beta: (1.0 - beta) * ONE.log_prob(z) + beta * lopsided(z))  # type: ignore[misc]
            kernel = HMC(bridge, steps, 1)
            state, info = kernel.step(kernel.init(z), step_seed(mix_seed(0, FORWARD_STREAM), t))
            z = info.proposal.position if mistake == "always accepted" else state.position
            if mistake == "step size that follows its chain":
                steps = steps * torch.where(info.is_accepted, 1.2, 0.3)
        if mistake == "weight after the transition":
            ratio = lopsided(z) - ONE.log_prob(z)
        step = betas[t] - betas[t - 1] if mistake == "temperature of the step before" and t else beta - betas[t]
        log_weight = log_weight + step * ratio
    return log_weight


def test_the_run_that_mistakes_are_planted_in_is_ours() -> None:
    expected = Annealing(lopsided, ONE, PLATEAU, 1.0, 1).forward(50, seed=0).log_weights
    torch.testing.assert_close(run(50, None), expected)


@pytest.mark.parametrize(
    "mistake",
    [
        "weight after the transition",
        "temperature of the step before",
        "step size that follows its chain",
        "always accepted",
    ],
)
def test_planted_mistakes_are_caught(mistake: str) -> None:
    """By the test that the mean weight is the normaliser, which the run without them passes."""
    num_chains = 20_000
    assert deviation((run(num_chains, None) - LOPSIDED_LOG_Z).exp()) < STANDARD_ERRORS
    assert deviation((run(num_chains, mistake) - LOPSIDED_LOG_Z).exp()) > STANDARD_ERRORS
