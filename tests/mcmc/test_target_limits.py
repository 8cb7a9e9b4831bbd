"""Log densities at NaN and at infinity, by the kernel and by matrix products."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import distributions

from fastvi.mcmc.targets import (
    DiagonalGaussian,
    Flat,
    FlatPrior,
    GaussianMixture,
    LinearRegression,
    LogisticRegression,
    NormalPrior,
    PoissonRegression,
)
from support.chain_targets import normal, numbers


@pytest.mark.parametrize(
    "target",
    [
        Flat(2, torch.float64),
        Flat(2, torch.float64) + NormalPrior(on=0) + FlatPrior(on=1),
        DiagonalGaussian(torch.zeros(2).double(), torch.ones(2)),
        LogisticRegression(torch.zeros(0, 2).double(), torch.zeros(0)),
        LinearRegression(torch.zeros(0, 1).double(), torch.zeros(0)),
        LinearRegression(torch.zeros(3, 2).double(), torch.zeros(3), scale=1.0),
        GaussianMixture(torch.zeros(0, 1).double(), 1),
    ],
    ids=lambda target: type(target).__name__,
)
def test_nan_is_seen_without_rows(target: Any, route: str) -> None:
    """A function of NaN is NaN, also where it has the same value at all numbers; other chains have theirs."""
    position = numbers(0.0, 0.0, math.nan, 0.0, 0.0, math.nan, 1e300, 0.0).reshape(4, 2)
    value, gradient = target(position)
    assert value.isnan().tolist() == [False, True, True, False]
    assert gradient[1, 0].isnan()
    assert gradient[2, 1].isnan()
    assert gradient[0].isfinite().all()


def test_poisson_at_infinity(route: str) -> None:
    """y eta - exp(eta) goes to minus infinity with eta, and, unless y is 0, with -eta."""
    target = PoissonRegression(torch.ones(2, 1).double(), numbers(3.0, 0.0))
    value, gradient = target(numbers(math.inf, 800.0, -math.inf)[:, None])
    assert value.tolist() == [-math.inf] * 3
    assert gradient[:, 0].tolist() == [-math.inf, -math.inf, 3.0]


def test_a_mixture_without_one_of_its_components(route: str) -> None:
    """Its density is what the other leaves, half a standard normal one; only the gradient by the mean is not known."""
    x = normal(9)
    value, gradient = GaussianMixture(x, 2)(numbers(math.inf, 0.0, 0.0, 0.0, 0.0)[None])
    expected = (distributions.Normal(numbers(0.0), 1.0).log_prob(x) - math.log(2.0)).sum()
    torch.testing.assert_close(value, expected[None])
    torch.testing.assert_close(
        gradient[0, [1, 3, 4]], torch.stack([x.sum(), (x.square() - 1.0).sum(), numbers(-4.5)[0]])
    )
