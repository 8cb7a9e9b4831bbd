"""Annealing between a start and a target of two dtypes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, Normal

from fastvi.distributions import DiagNormal
from fastvi.mcmc import annealed_importance_sampling


@pytest.mark.parametrize("of_start", [torch.float32, torch.float64])
@pytest.mark.parametrize("of_target", [torch.float32, torch.float64])
@pytest.mark.parametrize("is_diagonal", [True, False])
@pytest.mark.parametrize("has_between", [True, False])
def test_the_normaliser(of_start: torch.dtype, of_target: torch.dtype, is_diagonal: bool, has_between: bool) -> None:
    """The integral of exp(-q'q) over the plane is pi: within 5 standard errors, level 6e-7."""
    zeros = torch.zeros(2, dtype=of_start)
    start = DiagNormal(zeros, zeros) if is_diagonal else Independent(Normal(zeros, zeros + 1.0), 1)

    def between(position: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        return (-0.5 * (1.0 + beta) * position.square().sum(-1)).to(of_target)

    found = annealed_importance_sampling(
        lambda q: -q.to(of_target).square().sum(-1),
        start,
        num_temperatures=20,
        num_chains=200,
        seed=0,
        between=between if has_between else None,
    )
    assert found.position.dtype is of_start
    assert abs(float(found.log_normalizer) - math.log(math.pi)) < 5.0 * float(found.standard_error)
