"""The continuous Bernoulli density against arithmetic of many digits, quadrature, and what it is at its extremes."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

import fastvi
from fastvi import reference
from support.place import place

FULL = [torch.float32, torch.float64]
NEAR = [0.0, 1e-30, 1e-12, 1e-6, 1e-3, 0.1, 0.5, 0.99, 1.0, 1.01]
FAR = [1.5, 3.0, 10.0, 50.0, 87.0, 300.0, 1e4]


def exact(logit: float) -> tuple[float, float, float]:
    """log(sinh(l/2) / (l/2)), and the distribution's mean less 1/2 and variance, its first two derivatives."""
    if logit == 0.0:
        return 0.0, 0.0, 1.0 / 12.0
    with mpmath.workdps(120):  # which l^2 / 24 needs beside numbers near one, for 1e-30
        half = mpmath.mpf(logit) / 2
        value = mpmath.log(mpmath.sinh(half) / half)
        return (
            float(value),
            float(mpmath.coth(half) / 2 - 1 / (2 * half)),
            float(1 / (4 * half**2) - 1 / (4 * mpmath.sinh(half) ** 2)),
        )


def logits_of(dtype: torch.dtype) -> Tensor:
    numbers = [sign * number for number in NEAR + FAR for sign in (1.0, -1.0)]
    return place.tensor(numbers, dtype=dtype).unsqueeze(-1)


@pytest.mark.parametrize("dtype", FULL, ids=str)
@pytest.mark.parametrize("module", [fastvi, reference])
def test_normaliser_mean_and_variance_have_their_digits(module, dtype: torch.dtype):
    """At x = 1/2, where nothing else is added; l^2 / 24 near zero keeps its relative precision."""
    logits = logits_of(dtype).requires_grad_()
    half = place.full((1,), 0.5, dtype=dtype)
    value = module.continuous_bernoulli_log_prob(half, logits)
    (slope,) = torch.autograd.grad(value.sum(), logits, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), logits)
    eps = torch.finfo(dtype).eps
    for i, logit in enumerate(logits.flatten().tolist()):
        normaliser, mean, variance = exact(logit)
        magnitude = abs(logit)
        # From |l| = 1 on it is l/2 less a logarithm: rounding is in units of these.
        of_value = normaliser if magnitude < 1 else 0.5 * magnitude + math.log(1 + magnitude)
        assert value[i].item() == pytest.approx(-normaliser, rel=0.0, abs=8 * eps * of_value + 1e-45), logit
        of_mean = abs(mean) if magnitude < 1 else 1.0
        assert slope[i].item() == pytest.approx(-mean, rel=0.0, abs=8 * eps * of_mean), logit
        assert curvature[i].item() == pytest.approx(
            -variance, rel=0.0, abs=16 * eps * max(variance, 1 / (1 + logit**2))
        )


@pytest.mark.parametrize("logit", [0.0, 1e-3, -0.7, 1.0, -4.0, 30.0])
def test_density_integrates_to_one(logit: float):
    """And the gradient at x = 0, less its sign, is its mean."""

    def density(x: float) -> float:
        numbers = place.tensor([x], dtype=torch.float64), place.tensor([logit], dtype=torch.float64)
        return math.exp(fastvi.continuous_bernoulli_log_prob(*numbers))

    total, _ = quad(density, 0.0, 1.0, epsabs=1e-12, epsrel=1e-12)
    mean, _ = quad(lambda x: x * density(x), 0.0, 1.0, epsabs=1e-12, epsrel=1e-12)
    logits = place.tensor([logit], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(fastvi.continuous_bernoulli_log_prob(torch.zeros_like(logits), logits), logits)
    assert total == pytest.approx(1.0, abs=1e-11)
    assert -gradient.item() == pytest.approx(mean, abs=1e-11)


def test_without_the_constant_it_is_no_density():
    """The error that the paper names: the Bernoulli likelihood of grey values integrates to less than one."""
    logit = place.tensor([1.0], dtype=torch.float64)
    total, _ = quad(lambda x: math.exp(fastvi.bernoulli_log_prob(place.tensor([x], dtype=torch.float64), logit)), 0, 1)
    assert total == pytest.approx(math.expm1(1.0) / (1.0 + math.e), abs=1e-12)
    assert total < 0.5


def test_pytorchs_distribution_agrees_where_it_has_digits():
    torch.manual_seed(0)
    x, logits = torch.rand(7, 5, dtype=torch.float64), 3.0 * torch.randn(4, 7, 5, dtype=torch.float64)
    logits[logits.abs() < 0.1] = 0.5  # near zero PyTorch's is a short series
    theirs = torch.distributions.ContinuousBernoulli(logits=logits).log_prob(x).sum(-1)
    found = fastvi.continuous_bernoulli_log_prob(x.to(place.device), logits.to(place.device))
    torch.testing.assert_close(found.cpu(), theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [*FULL, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("logit", [math.inf, -math.inf])
def test_infinite_logits(logit: float, dtype: torch.dtype):
    """All mass at the outcome that is sure: infinite there, minus infinity elsewhere, with the slope of the limit."""
    sure = 1.0 if logit > 0 else 0.0
    x = place.tensor([sure, 1.0 - sure, 0.25], dtype=dtype).unsqueeze(-1)
    for module in (fastvi, *([reference] if dtype in FULL else [])):
        logits = place.full((3, 1), logit, dtype=dtype).requires_grad_()
        value = module.continuous_bernoulli_log_prob(x, logits)
        (slope,) = torch.autograd.grad(value.sum(), logits)
        assert value.tolist() == [math.inf, -math.inf, -math.inf]
        torch.testing.assert_close(slope, x - sure, rtol=0.0, atol=0.0)
