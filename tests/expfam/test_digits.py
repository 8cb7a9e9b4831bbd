"""Large and close parameters, against mpmath: formulas whose terms cancel, in float32 and in float64."""

import mpmath
import pytest
import torch

from fastvi.expfam import Binomial, Poisson
from fastvi.expfam._noise import Noise
from fastvi.expfam.formulas import Formulas

DOUBLE = torch.float64


def double(*values):
    return torch.tensor(values, dtype=DOUBLE)


@pytest.fixture(autouse=True)
def _digits():
    with mpmath.workdps(60):
        yield


def relative(found, expected):
    return abs(float((mpmath.mpf(found.item()) - expected) / expected))


# Binomial


def log_binomial(trials, x, eta):
    """log C(N, x) + eta x - N log(1 + e^eta)."""
    coefficient = mpmath.loggamma(trials + 1) - mpmath.loggamma(x + 1) - mpmath.loggamma(trials - x + 1)
    return coefficient + eta * x - trials * mpmath.log1p(mpmath.exp(eta))


def binomial_entropy(trials, eta):
    if eta == 0.0 and trials >= 10**5:  # (1/2) log(2 pi e N / 4), of which 1 / 12 N^2 is left out
        return mpmath.log(mpmath.pi * mpmath.e * trials / 2) / 2
    logarithms = [log_binomial(trials, x, mpmath.mpf(eta)) for x in range(trials + 1)]
    return -mpmath.fsum(mpmath.exp(each) * each for each in logarithms)


@pytest.mark.parametrize(("trials", "eta"), [(1, 0.5), (30, -0.75), (1000, 0.0), (1000, -3.0), (3 * 10**5, 0.0)])
def test_entropies_of_many_trials(trials, eta):
    expected = binomial_entropy(trials, eta)
    assert relative(Binomial(trials).entropy(double(eta)), expected) < 1e-12
    assert relative(Binomial(trials).entropy(torch.tensor([eta])), expected) < 1e-7


def test_an_entropy_by_its_parts_has_no_digits():
    """A - eta mu - E[log h], in which logarithms of the size N cancel."""

    class ByParts(Binomial):
        def _mean_log_base_measure(self, eta, mu):
            values = torch.arange(self.trials + 1, dtype=eta.dtype)
            logarithms = -torch.lgamma(values + 1.0) - torch.lgamma(self.trials + 1.0 - values)
            logarithms = logarithms + torch.lgamma(torch.tensor(self.trials + 1.0))
            return ((values * eta - self._log_partition(eta) + logarithms).exp() * logarithms).sum(-1)

        _entropy = Formulas._entropy

    assert relative(ByParts(10**5).entropy(torch.tensor([0.0])), binomial_entropy(10**5, 0.0)) > 1e-2


def test_derivatives_of_an_entropy_of_many_trials():
    eta = double(0.4).requires_grad_()
    assert torch.autograd.gradcheck(Binomial(3000).entropy, (eta,))
    assert torch.autograd.gradgradcheck(Binomial(3000).entropy, (eta,))


@pytest.mark.parametrize(
    ("trials", "x", "eta"),
    [
        (10**6, 500100, 0.0),
        (10**6, 100000, 0.0),
        (10**6, 3, -14.0),
        (10**6, 10**6 - 2, 14.0),
        (10**6, 5, -800.0),
        (10, 0, -800.0),
        (10, 10, 30.0),
        (1, 1, 0.25),
    ],
)
def test_binomial_densities(trials, x, eta):
    expected = log_binomial(trials, x, mpmath.mpf(eta))
    for dtype, error in ((DOUBLE, 1e-14), (torch.float32, 1e-7)):
        found = Binomial(trials).log_prob(torch.tensor(float(x), dtype=dtype), torch.tensor([eta], dtype=dtype))
        assert abs(float(found.item() - expected)) <= error * (1.0 + abs(float(expected)))
        measure = Binomial(trials).log_base_measure(torch.tensor(float(x), dtype=dtype)).item()
        coefficient = mpmath.log(mpmath.binomial(trials, x))
        assert abs(float(measure - coefficient)) <= error * (1.0 + abs(float(coefficient)))


def test_a_table_of_too_many_trials_is_refused():
    for trials in (10**17, 10**8):
        for method, what in ((Binomial(trials).sample, "sample"), (Binomial(trials).entropy, "entropy")):
            with pytest.raises(
                ValueError, match=f"^Binomial: {what} is made of .* at most 10000000 trials, got {trials}"
            ):
                method(double(0.0))


# Poisson


@pytest.mark.parametrize(("x", "rate"), [(10**6 + 500, 1e6), (10**12, 1e12), (3, 1e-5), (500, 1.0), (0, 2.0)])
def test_poisson_densities(x, rate):
    eta = double(rate).log()
    logarithm = mpmath.mpf(eta.item())
    expected = x * logarithm - mpmath.exp(logarithm) - mpmath.loggamma(x + 1)
    assert relative(Poisson().log_prob(double(float(x))[0], eta), expected) < 1e-14


@pytest.mark.parametrize("eta", [30.0, 37.0, 60.0])
def test_draws_of_large_rates(eta):
    """Where neighbouring floats are further apart than 1, too: the rate and its root times the normal of a draw."""
    drawn = Poisson().sample(double(eta), (200,), seed=0)
    rate = double(eta).exp()
    normal = Noise("test", 0, 0, (200,), (), rate).normal(0)
    # Cornish and Fisher's second term is (z^2 - 1) / 6; the rest is the spacing of integers, or of floats.
    expected = rate + rate.sqrt() * normal + (normal.square() - 1.0) / 6.0
    assert ((drawn - expected).abs() <= 1.0 + 2e-16 * rate + 1e-7 * rate.sqrt()).all()


def test_rates_beyond_all_floats_are_refused():
    assert Poisson().sample(double(700.0), (3,), seed=0).log().sub(700.0).abs().max() < 1e-12
    for eta in (double(800.0), torch.tensor([89.0])):
        with pytest.raises(ValueError, match=f"^Poisson: sample needs rates below the largest {eta.dtype}, got eta"):
            Poisson().sample(eta, (3,), seed=0)
