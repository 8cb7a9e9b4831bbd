"""Likelihoods of counts: zeros and numbers so large that the logarithms of the gamma function cancel.

Expected values are mpmath's on the very numbers that the operation was given, or torch.distributions' in float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

import fastvi
import fastvi.numpy
from fastvi import reference
from support.place import place

WIDE = [torch.float32, torch.float64]
Numbers = Sequence[float]


def poisson(x: float, log_rate: float) -> mpmath.mpf:
    return x * mpmath.mpf(log_rate) - mpmath.exp(log_rate) - mpmath.loggamma(mpmath.mpf(x) + 1)


def negative_binomial(x: float, total_count: float, logits: float) -> mpmath.mpf:
    x, r, logits = mpmath.mpf(x), mpmath.mpf(total_count), mpmath.mpf(logits)
    coefficient = mpmath.loggamma(x + r) - mpmath.loggamma(r) - mpmath.loggamma(x + 1)
    return coefficient - r * mpmath.log1p(mpmath.exp(logits)) - x * mpmath.log1p(mpmath.exp(-logits))


def zero_inflated(x: float, total_count: float, logits: float, gate_logits: float) -> mpmath.mpf:
    gate = 1 / (1 + mpmath.exp(-mpmath.mpf(gate_logits)))
    likelihood = (1 - gate) * mpmath.exp(negative_binomial(x, total_count, logits))
    return mpmath.log(gate + likelihood if x == 0 else likelihood)


def zero_inflated_slopes(x: float, total_count: float, logits: float, gate_logits: float) -> list[mpmath.mpf]:
    """The derivatives by all but x, at x = 0 those of log(gate + (1 - gate) (1 - success)^total_count)."""
    success, gate = (1 / (1 + mpmath.exp(-mpmath.mpf(each))) for each in (logits, gate_logits))
    slopes = [mpmath.digamma(x + mpmath.mpf(total_count)) - mpmath.digamma(total_count) + mpmath.log(1 - success)]
    slopes.append(x * (1 - success) - total_count * success)
    if x > 0:
        return [*slopes, -gate]
    none = (1 - success) ** mpmath.mpf(total_count)
    whole = gate + (1 - gate) * none
    return [*(slope * (1 - gate) * none / whole for slope in slopes), gate * (1 - gate) * (1 - none) / whole]


def size(x: float, total_count: float, logits: float) -> float:
    """What the rounding error of one term is in proportion to, as the docstring has it."""
    a, b = min(x, total_count), max(x, total_count)
    entropy = a * math.log1p(b / a) + a if a else 0.0
    failures, successes = total_count * np.logaddexp(0.0, logits), x * np.logaddexp(0.0, -logits)
    return max(entropy, failures, successes, math.log1p(x / total_count), 1.0)


COUNTS = [0.0, 1.0, 2.0, 5.0, 40.0, 3e3, 1e6]
TOTALS = [1e-4, 0.3, 1.0, 4.0, 50.0, 1e4, 1e6]


def around_the_mean(shifts: Numbers) -> list[tuple[float, float, float]]:
    return [(x, r, math.log((x + 0.5) / r) + shift) for x in COUNTS for r in TOTALS for shift in shifts]


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(80):
        yield


def columns(rows: Sequence[Numbers], dtype: torch.dtype) -> list[Tensor]:
    """A tensor of shape (cases, 1) for each argument, and so a result for each case."""
    return [place.tensor(list(column), dtype=dtype).unsqueeze(-1) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("function", [fastvi, reference], ids=["operation", "formula"])
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_large_numbers_keep_their_digits(function, dtype):
    """Of log Gamma(1e6), 1.3e7, float32 has not one digit behind the point; the result has six places in all."""
    tensors = columns(around_the_mean([-0.5, 0.0, 2.0]), dtype)
    # The formula is there for float64; in float32 it is PyTorch's functions that lose digits.
    units = 16 if function is fastvi or dtype is torch.float64 else 64
    for found, *given in zip(function.negative_binomial_log_prob(*tensors), *tensors, strict=True):
        numbers = [number.item() for number in given]
        error = abs(found.item() - float(negative_binomial(*numbers)))
        assert error <= units * torch.finfo(dtype).eps * size(*numbers), numbers


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_gradients_of_large_numbers_keep_their_digits(dtype):
    tensors = [tensor.requires_grad_() for tensor in columns(around_the_mean([0.25]), dtype)]
    found = torch.autograd.grad(fastvi.negative_binomial_log_prob(*tensors).sum(), tensors)
    for i in range(len(tensors[0])):
        x, r, logits = (mpmath.mpf(tensor[i].item()) for tensor in tensors)
        success, failure = 1 / (1 + mpmath.exp(-logits)), 1 / (1 + mpmath.exp(logits))
        further = mpmath.digamma(x + r)
        parts = {  # what cancels at the mode, by nature
            0: (further - mpmath.digamma(x + 1), mpmath.log(success)),
            1: (further - mpmath.digamma(r), mpmath.log(failure)),
            2: (x * failure, -r * success),
        }
        for place_of, (first, second) in parts.items():
            error = abs(found[place_of][i].item() - (first + second))
            bound = 12 * torch.finfo(dtype).eps * (abs(first) + abs(second))
            assert error <= bound + torch.finfo(dtype).tiny, (place_of, float(x), float(r))


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_many_failures_are_the_poisson_distribution(dtype):
    """The coefficient tends to x log r - log x!, and both by x^2 / r."""
    x = place.tensor([[0.0], [1.0], [3.0], [20.0]], dtype=dtype)
    log_rate, r = place.full((1,), 1.5, dtype=dtype), place.full((1,), 2.0**40, dtype=dtype)
    found = fastvi.negative_binomial_log_prob(x, r, log_rate - math.log(2.0) * 40)
    torch.testing.assert_close(found, fastvi.poisson_log_prob(x, log_rate), rtol=4e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_zeros_of_a_gate(dtype):
    """Every pair of gate and likelihood of zero, also where either is almost certain."""
    gates, logits = [-80.0, -50.0, -3.0, 0.0, 0.5, 30.0, 80.0], [-60.0, -3.0, 0.0, 8.0, 80.0]
    rows = list(itertools.product((0.0, 2.0), (0.2, 3.0, 50.0), logits, gates))
    tensors = columns(rows, dtype)
    operation = fastvi.zero_inflated_negative_binomial_log_prob
    leaves = [tensor.requires_grad_() for tensor in tensors[1:]]
    values = operation(tensors[0], *leaves)
    slopes = torch.autograd.grad(values.sum(), leaves)
    eps = torch.finfo(dtype).eps
    for i, found in enumerate(values.detach()):
        numbers = [tensor[i].item() for tensor in tensors]
        bound = 8 * eps * (size(*numbers[:3]) + abs(numbers[3]))
        assert abs(found.item() - zero_inflated(*numbers)) <= bound, numbers
        for slope, expected in zip(slopes, zero_inflated_slopes(*numbers), strict=True):
            scale = abs(expected) * (1 + abs(numbers[3])) + (size(*numbers[:3]) if numbers[0] else 0)
            error = abs(slope[i].item() - expected)
            assert error <= 12 * eps * scale * size(*numbers[:3]) + 2 * torch.finfo(dtype).tiny, numbers


def test_values_are_those_of_torch_distributions():
    x, r = (
        place.tensor([0.0, 0.5, 1.0, 7.0], dtype=torch.float64),
        place.tensor([0.7, 2.0, 9.5, 3.0], dtype=torch.float64),
    )
    logits = place.tensor([-1.0, 0.0, 0.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(
        fastvi.poisson_log_prob(x, logits),
        torch.distributions.Poisson(logits.exp(), validate_args=False).log_prob(x).sum(),
    )
    density = torch.distributions.NegativeBinomial(r, logits=logits, validate_args=False)
    torch.testing.assert_close(fastvi.negative_binomial_log_prob(x, r, logits), density.log_prob(x).sum())


def test_zero_inflated_formula_by_x_leaps_at_zero():
    """No derivative there: 0, in the operation and the formula."""
    arguments = [place.tensor([0.0, 2.0], dtype=torch.float64, requires_grad=True)]
    arguments += [place.ones(2, dtype=torch.float64) for _ in range(3)]
    for module in (fastvi, reference):
        (by_x,) = torch.autograd.grad(module.zero_inflated_negative_binomial_log_prob(*arguments), arguments[0])
        assert by_x[0] == 0.0
        assert by_x[1] != 0.0


CALLS: dict[str, Callable[..., object]] = {
    "poisson_log_prob": lambda module, x, _, zeros, **options: module.poisson_log_prob(x, zeros, **options),
    "negative_binomial_log_prob": lambda module, x, r, zeros, **options: module.negative_binomial_log_prob(
        x, r, zeros, **options
    ),
    "zero_inflated_negative_binomial_log_prob": lambda module, x, r, zeros, **options: (
        module.zero_inflated_negative_binomial_log_prob(x, r, zeros, zeros, **options)
    ),
}
WRONG = {
    "negative counts": ([1.0, -2.0], [1.0, 1.0], r"x must be at least 0, got values from -2 to 1"),
    "NaN": ([1.0, math.nan], [1.0, 1.0], r"x must be at least 0, got NaN among them"),
    "no failures": ([1.0, 2.0], [3.0, 0.0], r"total_count must be positive, got values from 0 to 3"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_counts_out_of_range_are_named_where_that_is_asked_for(library, name, kind):
    x, r, words = WRONG[kind]
    module, make = (fastvi, place.tensor) if library == "torch" else (fastvi.numpy, np.array)
    arguments = module, make(x), make(r), make([0.0, 0.0])
    CALLS[name](*arguments)
    if name == "poisson_log_prob" and "total_count" in words:
        CALLS[name](*arguments, validate_args=True)
        return
    with pytest.raises(ValueError, match=f"^{name}: {words}$"):
        CALLS[name](*arguments, validate_args=True)


@pytest.mark.parametrize("name", CALLS)
def test_counts_in_range_pass(name):
    for module, make in ((fastvi, place.tensor), (fastvi.numpy, np.array)):
        arguments = module, make([0.0, 3.5]), make([0.5, 1.0]), make([0.0, 1.0])
        assert CALLS[name](*arguments, validate_args=True) == CALLS[name](*arguments)
