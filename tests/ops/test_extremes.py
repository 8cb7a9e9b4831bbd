"""Extreme arguments: exact where the result is a number that the dtype holds, although a factor in it is not.

Expected values are closed forms, or mpmath's on the very numbers that the operation was given.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

import fastvi
import fastvi.distributions
import fastvi.numpy
from fastvi import reference
from support.place import place

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
FULL = [torch.float32, torch.float64]
LOG_TWO_PI = math.log(2 * math.pi)

# Variances from far below the least number of the dtype to far above the largest; e^-88.7 and e^-709 are the seams.
LOGVARS = {
    torch.float32: (-1e38, -1000.0, -400.0, -200.0, -100.0, -89.0, 0.0, 89.0, 200.0, 1000.0, 1e38),
    torch.float64: (-1e308, -9000.0, -3000.0, -1500.0, -800.0, -710.0, 0.0, 710.0, 1500.0, 9000.0, 1e308),
    torch.bfloat16: (-1e38, -400.0, -100.0, 0.0, 100.0, 400.0, 1e38),
    torch.float16: (-60000.0, -400.0, -100.0, -12.0, 0.0, 12.0, 400.0, 60000.0),
}
CASES = [(dtype, logvar) for dtype in DTYPES for logvar in LOGVARS[dtype]]

Function = Callable[..., Tensor]


def leaf(value: float, dtype: torch.dtype, columns: int = 3) -> Tensor:
    return place.full((2, columns), value, dtype=dtype).requires_grad_()


def value_and_gradients(function: Function, *tensors: Tensor) -> tuple[Tensor, ...]:
    value = function(*tensors)
    return value.detach(), *torch.autograd.grad(value.sum(), tensors)


def assert_all(found: Tensor, expected: float) -> None:
    """Every element is the number, rounded to the dtype; its last digit may be another."""
    wanted = torch.full_like(found, expected)
    rtol = 4 * torch.finfo(found.dtype).eps
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=0.0)


def rounded(tensor: Tensor) -> float:
    """The number that stands in every element, as the dtype holds it."""
    return float(tensor.detach().flatten()[0])


def densities(dtype: torch.dtype) -> dict[str, Function]:
    found = {
        "operation": fastvi.normal_log_prob,
        "distribution": lambda x, mean, logvar: fastvi.distributions.DiagNormal(mean, logvar).log_prob(x),
    }
    if dtype in FULL:
        found["formula"] = reference.normal_log_prob
    return found


@pytest.mark.parametrize(("dtype", "logvar"), CASES, ids=str)
def test_density_at_its_own_mean(dtype, logvar):
    """-(logvar + log 2 pi) / 2 a dimension; its slope is 0 in x and the mean, and -1/2 in logvar."""
    columns = 3 if abs(logvar) < 1e4 else 1  # whose sum the dtype holds, too
    for function in densities(dtype).values():
        tensors = leaf(0.5, dtype, columns), leaf(0.5, dtype, columns), leaf(logvar, dtype, columns)
        value, by_x, by_mean, by_logvar = value_and_gradients(function, *tensors)
        assert_all(value, -0.5 * columns * (rounded(tensors[2]) + LOG_TWO_PI))
        assert_all(by_x, 0.0)
        assert_all(by_mean, 0.0)
        assert_all(by_logvar, -0.5)


@pytest.mark.parametrize(("dtype", "logvar"), CASES, ids=str)
def test_divergence_of_equal_distributions(dtype, logvar):
    for function in (fastvi.kl_normal, *([reference.kl_normal] if dtype in FULL else [])):
        tensors = [leaf(value, dtype) for value in (0.5, logvar, 0.5, logvar)]
        for found in value_and_gradients(function, *tensors):
            assert_all(found, 0.0)


@pytest.mark.parametrize(("dtype", "logvar"), CASES, ids=str)
@pytest.mark.parametrize("num_samples", [1, 5])
def test_log_ratio_of_equal_distributions(dtype, logvar, num_samples):
    """Zero in every draw, and with q's parameters detached its path derivative is, too (Roeder et al. 2017)."""
    for detach_posterior in (False, True):
        mean, variance, prior_mean, prior_logvar = [leaf(value, dtype) for value in (0.5, logvar, 0.5, logvar)]
        _, log_ratio = fastvi.rsample_normal_with_log_ratio(
            mean, variance, num_samples, prior_mean, prior_logvar, detach_posterior, seed=3
        )
        assert_all(log_ratio.detach(), 0.0)
        gradients = torch.autograd.grad(log_ratio.sum(), (mean, variance, prior_mean, prior_logvar))
        eps = fastvi.rsample_normal(
            place.zeros(2, 3, dtype=torch.float64), place.zeros(2, 3, dtype=torch.float64), (num_samples,), seed=3
        )
        # -sum eps^2 / 2 + K / 2 reaches logvar along the path and besides it, and the prior's in return.
        tolerance = {"rtol": 0.0, "atol": 20 * torch.finfo(dtype).eps * num_samples}
        by_prior_logvar = (0.5 * (eps.square() - 1)).sum(0)
        by_logvar = torch.zeros_like(eps[0]) if detach_posterior else -by_prior_logvar
        torch.testing.assert_close(gradients[1].double(), by_logvar, **tolerance)
        torch.testing.assert_close(gradients[3].double(), by_prior_logvar, **tolerance)
        if detach_posterior:
            assert_all(gradients[0], 0.0)
        # Its sign, where the size e^(-logvar / 2) may be beyond the dtype; a slope of zero where it vanishes.
        assert not gradients[0].isnan().any()
        assert torch.equal(gradients[2].sign() * (gradients[2] != 0), eps.sum(0).sign().to(dtype) * (gradients[2] != 0))


@pytest.mark.parametrize("module", [fastvi, reference], ids=["operation", "formula"])
def test_log_ratio_beyond_the_dtype_is_minus_infinity(module):
    """Of a prior so narrow that both parts of (z - prior_mean) e^(-prior_logvar / 2) overflow, with either sign."""
    mean, logvar, prior_mean = place.full((1, 64), 0.66), place.zeros(1, 64), place.full((1, 64), 1.54)
    for prior_logvar in (-180.0, -400.0, -1e38):
        prior = prior_mean, place.full((1, 64), prior_logvar)
        if module is fastvi:
            _, log_ratio = fastvi.rsample_normal_with_log_ratio(mean, logvar, 9, *prior, seed=2)
        else:
            eps = fastvi.rsample_normal(place.zeros(1, 64), logvar, (9,), seed=2)
            _, log_ratio = reference.rsample_normal_with_log_ratio(mean, logvar, eps, *prior)
        assert (log_ratio == -math.inf).all()


# None of the products lies within a factor of four of the largest number, where twice the result overflows.
DIFFERENCES = (0.0, 1e-30, 3e-20, 1.0, 1e15, 1e30)
EXPONENTS = (-300.0, -200.0, -140.0, -92.0, -60.0, -1.0, 0.0, 60.0, 120.0, 180.0)


def exact(function: Callable[[], mpmath.mpf], dtype: torch.dtype) -> float:
    """mpmath's number as the dtype holds it: infinite where it is beyond the largest."""
    with mpmath.workdps(40):
        value = function()
        if abs(value) > torch.finfo(dtype).max:
            return math.copysign(math.inf, value)
        return float(value)


@pytest.mark.parametrize("detach_posterior", [False, True])
@pytest.mark.parametrize(
    ("dtype", "logvar", "prior_logvar"),
    [
        (torch.float32, 400.0, 200.0),
        (torch.float32, 400.0, 190.0),
        (torch.float32, 1000.0, 745.0),
        (torch.float64, 3000.0, 1500.0),
        (torch.float64, 3000.0, 1490.0),
    ],
)
def test_log_ratio_of_deviations_whose_ratio_is_beyond_the_dtype(dtype, logvar, prior_logvar, detach_posterior):
    """Minus infinity, whose derivative by both means is still finite: d/dz (z - m)^2 e^-s / 2 = scale e^-s noise."""
    zero = place.zeros(1, 5, dtype=dtype)
    noise = fastvi.rsample_normal(zero, zero, 1, seed=3)[0]
    mean, prior_mean = (zero.clone().requires_grad_() for _ in range(2))
    _, log_ratio = fastvi.rsample_normal_with_log_ratio(
        mean, zero + logvar, 1, prior_mean, zero + prior_logvar, detach_posterior=detach_posterior, seed=3
    )
    assert (log_ratio == -math.inf).all()
    by_mean, by_prior_mean = torch.autograd.grad(log_ratio.sum(), (mean, prior_mean))
    expected = noise * math.exp(0.5 * logvar - prior_logvar)
    torch.testing.assert_close(by_mean, -expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(by_prior_mean, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", FULL, ids=str)
@pytest.mark.parametrize("difference", DIFFERENCES)
@pytest.mark.parametrize("logvar", EXPONENTS)
@pytest.mark.parametrize("module", [fastvi, reference], ids=["operation", "formula"])
def test_squares_times_precisions(module, dtype, difference, logvar):
    """KL and density where d^2 or the precision is beyond float32 and their product is not: (1e-20)^2 e^92 is 0.9."""
    if dtype == torch.float64:  # the same in its range
        difference, logvar = difference**7, 7 * logvar
    x, variance = (place.full((1,), value, dtype=dtype).requires_grad_() for value in (difference, logvar))
    zero = place.zeros(1, dtype=dtype)
    d, s = mpmath.mpf(x.item()), mpmath.mpf(variance.item())
    by_x = exact(lambda: d * mpmath.exp(-s), dtype)
    divergence = (
        exact(lambda: d**2 * mpmath.exp(-s) / 2, dtype),
        by_x,
        exact(lambda: -(d**2) * mpmath.exp(-s) / 2, dtype),
    )
    density = (
        exact(lambda: -(d**2 * mpmath.exp(-s) + s + mpmath.log(2 * mpmath.pi)) / 2, dtype),
        -by_x,
        exact(lambda: (d**2 * mpmath.exp(-s) - 1) / 2, dtype),
    )
    found = (
        *value_and_gradients(lambda x, v: module.kl_normal(x, v.detach(), zero, v), x, variance),
        *value_and_gradients(lambda x, v: module.normal_log_prob(x, zero, v), x, variance),
    )
    # Automatic differentiation of the formula multiplies d by its derivative, which overflows sooner than the result.
    checked = (0, 1, 3, 4) if module is reference and difference > 1e18 else range(6)
    for i in checked:
        expected = torch.full_like(found[i], (*divergence, *density)[i])
        atol = 4 * torch.finfo(dtype).smallest_normal
        torch.testing.assert_close(found[i], expected, rtol=30 * torch.finfo(dtype).eps, atol=atol)


def test_figures_that_can_be_checked_by_hand():
    def tensor(value: float) -> Tensor:
        return place.full((1,), value)

    assert fastvi.normal_log_prob(tensor(1.0), tensor(1.0), tensor(-100.0)).item() == pytest.approx(49.08106, abs=1e-5)
    found = fastvi.kl_normal(tensor(1e-20), tensor(-92.0), tensor(0.0), tensor(-92.0)).item()
    assert found == pytest.approx(0.4508814, rel=1e-6)


@pytest.mark.parametrize("dtype", FULL, ids=str)
def test_huge_variances_are_finite_or_infinite(dtype):
    """At logvar +200 and far above: log_prob is a number, float32's KL from N(0, 1) infinite, and nothing NaN."""
    for logvar in LOGVARS[dtype][-3:]:
        tensors = leaf(2.0, dtype, 1), leaf(0.0, dtype, 1), leaf(logvar, dtype, 1)
        for function in densities(dtype).values():
            value, by_x, _, by_logvar = value_and_gradients(function, *tensors)
            assert_all(value, -0.5 * (rounded(tensors[2]) + LOG_TWO_PI + 4 * math.exp(-min(logvar, 700))))
            assert by_x.isfinite().all()
            assert_all(by_logvar, -0.5)
        for function in (fastvi.kl_normal, reference.kl_normal):
            value, by_mean, by_logvar = value_and_gradients(function, tensors[0], tensors[2])
            assert_all(value, exact(lambda s=logvar: (mpmath.exp(s) - 1 - s + 4) / 2, dtype))
            assert_all(by_mean, 2.0)
            assert_all(by_logvar, exact(lambda s=logvar: (mpmath.exp(s) - 1) / 2, dtype))


@pytest.mark.parametrize("dtype", FULL, ids=str)
def test_second_derivatives_at_tiny_variances(dtype):
    """At the mean of N(m, e^s): -e^-s in x, and 0 in s (twice) and between the two."""
    logvar = -80.0 if dtype == torch.float32 else -700.0
    point = place.tensor([0.5, logvar], dtype=dtype)

    def density(point: Tensor) -> Tensor:
        return fastvi.normal_log_prob(point[:1], place.full((1,), 0.5, dtype=dtype), point[1:])

    expected = place.tensor([[-math.exp(-logvar), 0.0], [0.0, 0.0]], dtype=dtype)
    rtol = 100 * torch.finfo(dtype).eps
    for found in (torch.autograd.functional.hessian(density, point), torch.func.hessian(density)(point).squeeze(0)):
        torch.testing.assert_close(found, expected, rtol=rtol, atol=0.0)


INFINITY = math.inf
CERTAIN = [
    # x, logit, log-likelihood, its slope in the logit: x - sigmoid(logit)
    (0.0, -INFINITY, 0.0, 0.0),
    (1.0, INFINITY, 0.0, 0.0),
    (0.0, INFINITY, -INFINITY, -1.0),
    (1.0, -INFINITY, -INFINITY, 1.0),
    (0.25, INFINITY, -INFINITY, -0.75),
    (0.25, -INFINITY, -INFINITY, 0.25),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("x", "logit", "expected", "slope"), CERTAIN)
def test_infinite_logits(x, logit, expected, slope, dtype):
    """Certainty: log 1 where it comes true, log 0 where not. Among ordinary columns, so that a row has both."""
    columns = 70
    values, logits = place.zeros(2, columns, dtype=dtype), place.full((2, columns), -math.log(3.0), dtype=dtype)
    values[:, 5], logits[:, 5] = x, logit
    rest = (columns - 1) * math.log(0.75)
    rtol = 1e-5 if dtype in FULL else 2e-2
    for module in (fastvi, *([reference] if dtype in FULL else [])):
        tensors = values.clone().requires_grad_(), logits.clone().requires_grad_()
        value, by_x, by_logits = value_and_gradients(module.bernoulli_log_prob, *tensors)
        torch.testing.assert_close(value, torch.full_like(value, expected + rest), rtol=rtol, atol=0.0)
        assert by_logits[:, 5].tolist() == [slope, slope]
        assert not by_x.isnan().any()
    second = torch.func.hessian(lambda row: fastvi.bernoulli_log_prob(values[0], row))(logits[0])
    assert second[5].abs().max() == 0.0


@pytest.mark.parametrize("dtype", FULL, ids=str)
@pytest.mark.parametrize(("x", "logit", "expected", "slope"), CERTAIN)
def test_infinite_bias_of_the_linear_head(x, logit, expected, slope, dtype):
    h, weight = place.ones(3, 4, dtype=dtype).requires_grad_(), place.zeros(2, 4, dtype=dtype).requires_grad_()
    bias = place.tensor([logit, 0.0], dtype=dtype).requires_grad_()
    target = place.tensor([x, 1.0], dtype=dtype)
    value = fastvi.linear_bernoulli_log_prob(h, weight, bias, target)
    assert_all(value.detach(), expected - math.log(2.0))
    target.requires_grad_()
    again = fastvi.linear_bernoulli_log_prob(h, weight, bias, target)
    (by_x,) = torch.autograd.grad(again.sum(), target)
    assert by_x.tolist() == [0.0 if expected == 0.0 else 3 * logit, 0.0]  # at 0 * inf that of torch.xlogy
    by_bias, by_weight = torch.autograd.grad(value.sum(), (bias, weight))
    assert by_bias.tolist() == [3 * slope, 1.5]
    assert by_weight.tolist() == [[3 * slope] * 4, [1.5] * 4]


def test_infinite_logits_stay_nan_where_there_is_nan():
    nan = place.full((1,), math.nan)
    for other in (0.0, 1.0, math.inf, -math.inf, math.nan):
        tensor = place.full((1,), other)
        assert fastvi.bernoulli_log_prob(tensor, nan).isnan()
        assert reference.bernoulli_log_prob(tensor, nan).isnan()
        if other != 0.0:
            assert fastvi.bernoulli_log_prob(nan, tensor).isnan()


@pytest.mark.parametrize(("momentum", "inverse_mass", "expected"), [(1e25, 1e-30, 5e19), (1e-30, 1e38, 5e-23)])
def test_energy_whose_square_is_beyond_float32(momentum, inverse_mass, expected):
    p, mass = place.full((2, 1), momentum), place.full((1,), inverse_mass)
    for function in (fastvi.kinetic_energy, reference.kinetic_energy):
        assert_all(function(p, mass), expected)


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_numpy_has_the_same_corners(dtype):
    def array(*values: float) -> np.ndarray:
        return np.array(values, dtype)

    logvars = (-60000.0, -800.0, -100.0) if dtype == np.float16 else (-1e38, -800.0, -100.0)
    for logvar in logvars:
        own = array(logvar)
        density = fastvi.numpy.normal_log_prob(array(0.5), array(0.5), own)
        np.testing.assert_allclose(density, -0.5 * (float(own[0]) + LOG_TWO_PI), rtol=4 * float(np.finfo(dtype).eps))
        assert fastvi.numpy.kl_normal(array(0.5), own, array(0.5), own) == 0.0
        _, log_ratio = fastvi.numpy.rsample_normal_with_log_ratio(array(0.5), own, 7, array(0.5), own, seed=1)
        assert not log_ratio.any()
    weight, hidden = np.zeros((1, 2), dtype), np.ones((1, 2), dtype)
    for (x, logit, expected, _), head in itertools.product(CERTAIN, (False, True)):
        found = (
            fastvi.numpy.linear_bernoulli_log_prob(hidden, weight, array(logit), array(x))
            if head
            else fastvi.numpy.bernoulli_log_prob(array(x), array(logit))
        )
        assert found == expected
