"""Targets and priors own copies of what they are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastvi.mcmc.targets import (
    BetaPrior,
    DenseGaussian,
    DiagonalGaussian,
    Flat,
    GammaPrior,
    GaussianMixture,
    HalfNormalPrior,
    HalfStudentTPrior,
    InverseGammaPrior,
    LaplacePrior,
    LinearRegression,
    LogisticRegression,
    LogJoint,
    NormalPrior,
    PoissonRegression,
    StudentTPrior,
)
from support.chain_targets import normal

GIVEN: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "logistic": (lambda x, y, w, o: LogisticRegression(x, y, sample_weight=w, offset=o), (4, 4, 4)),
    "logistic, intercept": (lambda x, y: LogisticRegression(x, y, intercept=True), (4,)),
    "poisson": (lambda x, y, w, o: PoissonRegression(x, y, sample_weight=w, offset=o), (4, 4, 4)),
    "linear": (lambda x, y, w, o: LinearRegression(x, y, sample_weight=w, offset=o), (4, 4, 4)),
    "linear, scale": (lambda x, y: LinearRegression(x, y, scale=2.0), (4,)),
    "mixture": (lambda x, w, c: GaussianMixture(x, 2, sample_weight=w, concentration=c), (4, 2)),
    "mixture of numbers": (lambda x, w: GaussianMixture(w, 2), (4,)),
    "covariance": (lambda x, mean: DenseGaussian(mean, covariance=x[:2] + torch.eye(2)), (2,)),
    "precision": (lambda x, mean, p: DenseGaussian(mean, precision=torch.diag(p)), (2, 2)),
    "diagonal": (lambda x, mean, scale: DiagonalGaussian(mean, scale), (2, 2)),
    "decoder": (lambda x: LogJoint(ToMean(), x[:1]), ()),
    **{
        kind.__name__: (lambda x, *own, kind=kind: Flat(2, torch.float64) + kind(*own), (2,) * count)
        for kind, count in [
            (NormalPrior, 2),
            (LaplacePrior, 2),
            (StudentTPrior, 3),
            (HalfNormalPrior, 1),
            (HalfStudentTPrior, 2),
            (GammaPrior, 2),
            (InverseGammaPrior, 2),
            (BetaPrior, 2),
        ]
    },
}
"""How a target is made of x (4, 2) of ones and vectors of ones, whose lengths follow."""


class ToMean:
    """log N(x | z, 1) but for its constant."""

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return -0.5 * (x - z).square().sum(-1)


@pytest.mark.parametrize("name", GIVEN)
def test_what_was_given_may_be_overwritten(name: str, route: str) -> None:
    """A target is a function of the numbers that it was made of; tensors changed in place are none of its own."""
    make, lengths = GIVEN[name]

    def make_and_overwrite(times: int) -> tuple[Tensor, Tensor]:
        x = torch.ones(4, 2, dtype=torch.float64) if name != "covariance" else torch.eye(4, 2, dtype=torch.float64)
        given = [x, *[torch.ones(length, dtype=torch.float64) for length in lengths]]
        target = make(*given)
        size = getattr(target, "dimension", 2)
        position = normal(3, size, seed=4)
        if times == 2:
            target(position)
        for each in given[: len(given) if times else 0]:
            each.fill_(0.25)
        found: tuple[Tensor, Tensor] = target(position)
        return found

    expected = make_and_overwrite(0)
    for times in (1, 2):  # before the first call, and after it
        torch.testing.assert_close(make_and_overwrite(times), expected, rtol=0.0, atol=0.0)


def test_a_prior_owns_its_numbers_before_it_is_added() -> None:
    location, on = torch.zeros(2), [0, 1]
    prior = NormalPrior(location, on=on)
    location.fill_(5.0)
    on[1] = 2
    value, gradient = (Flat(3) + prior)(torch.ones(1, 3))
    torch.testing.assert_close(value, torch.tensor([-1.0 - math.log(2.0 * math.pi)]))
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, -1.0, 0.0]]))
