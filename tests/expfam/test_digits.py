"""Large and close parameters, against mpmath: formulas whose terms cancel, in float32 and in float64."""

import mpmath
import pytest
import torch

from fastvi.expfam import Beta, Binomial, Dirichlet, Gamma, Poisson
from fastvi.expfam._noise import Noise
from fastvi.expfam._special import digamma_difference
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


# Gamma


def gamma_density(x, shape, rate):
    x, shape, rate = map(mpmath.mpf, (x, shape, rate))
    return shape * mpmath.log(rate) + (shape - 1) * mpmath.log(x) - rate * x - mpmath.loggamma(shape)


def gamma_entropy(shape, rate):
    shape = mpmath.mpf(shape)
    return shape - mpmath.log(rate) + mpmath.loggamma(shape) + (1 - shape) * mpmath.digamma(shape)


shapes = pytest.mark.parametrize("shape", [1e-3, 15.5, 16.0, 1e6, 1e12])


@shapes
def test_gamma_densities(shape):
    """In float64 up to the rounding of rate times x, which is worth the root of the shape."""
    for deviations in (0.0, 1.0, -3.0):
        x = (shape + deviations * shape**0.5) / 2.0 if shape > 1.0 else 0.25
        for dtype, precision in ((DOUBLE, 1e-15), (torch.float32, 1.2e-7)):
            place, eta = torch.tensor(x, dtype=dtype), torch.tensor([shape, -2.0], dtype=dtype)
            expected = gamma_density(place.item(), eta[0].item(), 2.0)
            # All that float32 loses is the last rounding: the density of these very numbers is computed in float64.
            allowed = precision * (1.0 + abs(float(expected))) + 1e-15 * shape**0.5
            assert abs(float(Gamma().log_prob(place, eta).item() - expected)) < allowed


@pytest.mark.parametrize("x", [5e-324, 1e-20, 1.0, 1e20])
def test_gamma_densities_far_from_the_mode(x):
    expected = gamma_density(x, 1e6, 2)
    assert relative(Gamma().log_prob(double(x)[0], double(1e6, -2.0)), expected) < 1e-14


@shapes
def test_gamma_entropies(shape):
    for dtype, precision in ((DOUBLE, 1e-15), (torch.float32, 6.1e-8)):
        eta = torch.tensor([shape, -2.0], dtype=dtype)
        expected = gamma_entropy(eta[0].item(), 2)
        assert abs(float(Gamma().entropy(eta).item() - expected)) < precision * (2.0 + abs(float(expected)))


def test_derivatives_of_large_shapes():
    """On both sides of the place where the series begins."""
    eta = torch.tensor([[15.99, -2.0], [16.01, -3.0], [4e3, -2e3]], dtype=DOUBLE, requires_grad=True)
    x = double(7.0, 5.0, 2.1).requires_grad_()
    assert torch.autograd.gradcheck(Gamma().entropy, (eta,))
    assert torch.autograd.gradcheck(Gamma().log_prob, (x, eta))
    assert torch.autograd.gradgradcheck(Gamma().entropy, (eta,))
    assert torch.autograd.gradgradcheck(Gamma().log_prob, (x, eta))
    (slopes,) = torch.autograd.grad(Gamma().entropy(eta).sum(), eta)
    for slope, shape in zip(slopes[:, 0], eta[:, 0], strict=True):
        expected = 1 + (1 - mpmath.mpf(shape.item())) * mpmath.polygamma(1, shape.item())
        assert relative(slope, expected) < 1e-11


def test_divergences_of_close_gamma_distributions():
    eta = torch.tensor([1e4, -1.0])
    other = 1.01 * eta
    shape, rate, other_shape, other_rate = (mpmath.mpf(each) for each in (*eta.abs().tolist(), *other.abs().tolist()))
    expected = (shape - other_shape) * mpmath.digamma(shape) - mpmath.loggamma(shape) + mpmath.loggamma(other_shape)
    expected += other_shape * mpmath.log(rate / other_rate) + shape * (other_rate - rate) / rate
    assert relative(Gamma().kl_divergence(eta, other), expected) < 1e-6


# Beta and Dirichlet


@pytest.mark.parametrize(
    ("x", "more"), [(1e-4, 1e8), (1e8, 1e-4), (1e-300, 1.0), (3.0, 1e-20), (0.5, 0.5), (20.0, 1e15), (1e17, 1.0)]
)
def test_differences_of_digammas(x, more):
    with mpmath.workdps(90):
        expected = mpmath.digamma(mpmath.mpf(x) + mpmath.mpf(more)) - mpmath.digamma(mpmath.mpf(x))
    assert relative(digamma_difference(double(x), double(more)), expected) < 1e-15


def test_means_of_logarithms():
    eta = [1e-4, 1e8, 3.0]
    whole = mpmath.digamma(sum(map(mpmath.mpf, eta)))
    for found, each in zip(Dirichlet(3).mean_parameters(double(*eta)), eta, strict=True):
        assert relative(found, mpmath.digamma(each) - whole) < 1e-15
    expected = mpmath.digamma(mpmath.mpf(1e8)) - mpmath.digamma(mpmath.mpf(1e8) + mpmath.mpf(1e-4))
    assert relative(Beta().mean_parameters(double(1e-4, 1e8))[1], expected) < 1e-15
    eta = torch.tensor([1e-4, 1e8])
    expected = mpmath.digamma(mpmath.mpf(1e8)) - mpmath.digamma(mpmath.mpf(1e8) + mpmath.mpf(eta[0].item()))
    assert relative(Beta().mean_parameters(eta)[1], expected) < 1e-7


def test_beta_densities_in_float32():
    first, second, x = torch.tensor(1e6), torch.tensor(2e6), torch.tensor(0.3335)
    a, b, p = (mpmath.mpf(each.item()) for each in (first, second, x))
    expected = (a - 1) * mpmath.log(p) + (b - 1) * mpmath.log(1 - p) - mpmath.log(mpmath.beta(a, b))
    assert abs(float(Beta().log_prob(x, torch.stack([first, second])).item() - expected)) < 1e-6


def test_the_plain_formulas_have_no_digits():
    """Those of which the terms cancel, in float64 at a shape of 1e12 and at a sum that drowns its smaller part."""
    shape, rate, x = double(1e12), double(2.0), double(5e11)
    plain = shape * rate.log() + (shape - 1.0) * x.log() - rate * x - torch.lgamma(shape)
    assert abs(float(plain.item() - gamma_density(5e11, 1e12, 2))) > 1e-4
    plain = shape - rate.log() + torch.lgamma(shape) + (1.0 - shape) * torch.digamma(shape)
    assert abs(float(plain.item() - gamma_entropy(1e12, 2))) > 1e-4
    small, large = mpmath.mpf(1e-4), mpmath.mpf(1e8)
    expected = mpmath.digamma(large) - mpmath.digamma(large + small)
    assert relative(torch.digamma(double(1e8)) - torch.digamma(double(1e8 + 1e-4)), expected) > 1e-4


# Derivatives forward

FORWARD = [(Gamma(), (3.0, -2.0)), (Beta(), (2.5, 0.7)), (Dirichlet(3), (0.5, 2.0, 7.0))]


@pytest.mark.parametrize(("family", "eta"), FORWARD)
@pytest.mark.parametrize("what", ["log_partition", "entropy"])
def test_derivatives_forward_over_backward(family, eta, what):
    function = getattr(family, what)
    found = torch.func.hessian(function)(double(*eta))
    backward = torch.func.jacrev(torch.func.jacrev(function))(double(*eta))
    torch.testing.assert_close(found, backward, rtol=1e-12, atol=1e-14)
    if what == "log_partition":
        torch.testing.assert_close(found, family.fisher_information(double(*eta)), rtol=1e-12, atol=1e-14)
