"""Sizes at the ends: more than 2^31 elements, a million samples, a million dimensions, and one.

What needs several gigabytes of memory runs where ``FASTVI_LARGE_TESTS`` is set.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fastvi
from fastvi import _native
from support.operations import as_tuple
from support.place import place

COLUMNS = 1024
ROWS = 2**21 + 3  # times COLUMNS: more elements than 32 bits count

large = pytest.mark.skipif(
    "FASTVI_LARGE_TESTS" not in os.environ, reason="takes up to 14 GB of memory: set FASTVI_LARGE_TESTS"
)

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""Sums of up to a million float32 terms in parts; one rounding to half precision."""


def row(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape or (1, COLUMNS), generator=torch.Generator().manual_seed(seed)).to(place.device, dtype)


def tall(tensor: Tensor) -> Tensor:
    """One row, ``ROWS`` times, in the memory of one."""
    return tensor.expand(ROWS, COLUMNS)


ROW_WISE = {
    "kl_normal": lambda a, b: fastvi.kl_normal(a, b),
    "kl_normal with a prior": lambda a, b: fastvi.kl_normal(a, b, b, a),
    "normal_log_prob": lambda a, b: fastvi.normal_log_prob(a, b, a),
    "normal_entropy": lambda a, _: fastvi.normal_entropy(a),
    "bernoulli_log_prob": lambda a, b: fastvi.bernoulli_log_prob(a, b),
    "kinetic_energy": lambda a, b: fastvi.kinetic_energy(a, b),
}


def alternately(name: str, count: int) -> Callable[[Tensor, Tensor], Tensor]:
    """An operation of two tensors, which take turns as its operands."""
    return lambda a, b: getattr(fastvi, name)(*itertools.islice(itertools.cycle((a, b)), count))


# Two thousand million of their terms take a minute, and rows are counted alike for all.
COSTLY = {"poisson_log_prob", "negative_binomial_log_prob", "zero_inflated_negative_binomial_log_prob"}
for listed, operands, *_ in _native.module().row_operations():
    if listed not in COSTLY:
        ROW_WISE.setdefault(listed, alternately(listed, len(operands)))


@pytest.mark.slow
@pytest.mark.parametrize("operation", ROW_WISE)
def test_more_elements_than_32_bits_count_by_strides(operation):
    """Rows that share their memory: every result is the one row's."""
    call = ROW_WISE[operation]
    first, second = row(0), row(1)
    results = call(tall(first), tall(second))
    assert results.shape == (ROWS,)
    assert bool((results == call(first, second)).all())


@pytest.mark.slow
def test_more_elements_than_32_bits_count_in_samples():
    """Samples and rows are axes of their own: the parameters' rows are repeated over the samples."""
    mean, logvar = row(2, 3, COLUMNS), row(3, 3, COLUMNS)
    samples = ROWS // 3 + 1
    x = row(4, 1, 1, COLUMNS).expand(samples, 3, COLUMNS)
    results = fastvi.normal_log_prob(x, mean, logvar)
    assert results.shape == (samples, 3)
    assert bool((results == fastvi.normal_log_prob(x[0], mean, logvar)).all())


@large
@pytest.mark.parametrize("operation", ["kl_normal", "bernoulli_log_prob"])
def test_gradients_of_more_elements_than_32_bits_count(operation):
    first, second = (row(seed, dtype=torch.bfloat16).requires_grad_() for seed in (5, 6))
    call = ROW_WISE[operation]
    wanted = tall(first) if operation == "kl_normal" else tall(second)
    other = tall(second.detach()) if operation == "kl_normal" else tall(first.detach())
    outputs = call(wanted, other) if operation == "kl_normal" else call(other, wanted)
    (found,) = torch.autograd.grad(outputs.sum(), wanted)
    assert found.shape == (ROWS, COLUMNS)
    alone = [tensor[:1].detach().requires_grad_(tensor.requires_grad) for tensor in (wanted, other)]
    output = call(*alone) if operation == "kl_normal" else call(*reversed(alone))
    (expected,) = torch.autograd.grad(output.sum(), alone[0])
    for start in range(0, ROWS, 2**18):
        assert bool((found[start : start + 2**18] == expected).all())


@large
def test_draws_past_the_32nd_bit():
    """The last rows of a draw of 2^31 numbers are those that their row offset names, forward and backward."""
    mean, logvar = (row(seed, dtype=torch.bfloat16) for seed in (7, 8))
    tail = slice(ROWS - 5, ROWS)
    z = fastvi.rsample_normal(tall(mean), tall(logvar), seed=9)
    expected = fastvi.rsample_normal(tall(mean)[tail], tall(logvar)[tail], seed=9, row_offset=ROWS - 5)
    assert torch.equal(z[tail], expected)
    del z
    z, log_ratio = fastvi.rsample_normal_with_log_ratio(tall(mean), tall(logvar), 1, seed=9)
    assert torch.equal(z[0, tail], expected)
    _, ratios = fastvi.rsample_normal_with_log_ratio(
        tall(mean)[tail], tall(logvar)[tail], 1, seed=9, row_offset=ROWS - 5
    )
    assert torch.equal(log_ratio[:, tail], ratios)


@large
def test_flat_draws_past_the_32nd_bit():
    """More than 2^31 numbers: the first are those of a short draw, and the last are normal too."""
    draws = fastvi.standard_normal(2**31 + 4096, seed=3, dtype=torch.bfloat16, device=place.device)
    assert torch.equal(draws[:4096], fastvi.standard_normal(4096, seed=3, dtype=torch.bfloat16, device=place.device))
    last = draws[-4096:].double()
    assert abs(last.mean()) < 6 / 64  # six standard errors
    assert abs(last.square().mean() - 1) < 6 * 2**0.5 / 64
    assert not torch.equal(last, draws[:4096].double())


@large
def test_reductions_over_more_elements_than_32_bits_count():
    x = place.zeros(2, 2**30 + 2, dtype=torch.bfloat16)
    x[:, -1] = 30.0
    torch.testing.assert_close(
        fastvi.log_mean_exp(x, 1).double(),
        place.full((2,), math.log((2**30 + 1 + math.exp(30.0)) / (2**30 + 2)), dtype=torch.float64),
        rtol=2**-8,
        atol=0,
    )
    weights = fastvi.importance_weights(x, 1)
    assert weights.shape == x.shape
    assert weights[0, -1] == weights[1, -1]
    assert bool((weights[1, :-1] == weights[0, 0]).all())


@large
def test_leapfrog_of_more_elements_than_32_bits_count():
    q, p, grad = (tall(row(seed, dtype=torch.bfloat16)) for seed in (1, 2, 3))
    position, momentum = fastvi.leapfrog_step(q, p, grad, 0.1)
    expected = fastvi.leapfrog_step(q[:1], p[:1], grad[:1], 0.1)
    for results, first in zip((position, momentum), expected, strict=True):
        for start in range(0, ROWS, 2**18):
            assert bool((results[start : start + 2**18] == first).all())


@pytest.mark.parametrize("shape", [(10**6, 3), (3, 10**6), (2, 10**6, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_million_samples(shape, dtype):
    """Log-mean-exp, weights and their quality over 10^6 samples, and the gradient."""
    dim = shape.index(10**6)
    x = (3 * row(0, *shape)).to(dtype)
    double = x.double().requires_grad_()
    single = x.clone().requires_grad_()
    value, expected = fastvi.log_mean_exp(single, dim), fastvi.reference.log_mean_exp(double, dim)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=tolerance)
    (gradient,), (formula,) = (torch.autograd.grad(v.sum(), t) for v, t in ((value, single), (expected, double)))
    torch.testing.assert_close(gradient.double(), formula, rtol=2 * tolerance, atol=0)
    weights = fastvi.importance_weights(x, dim)
    torch.testing.assert_close(weights.double(), formula.detach(), rtol=2 * tolerance, atol=0)
    size = fastvi.effective_sample_size(x, dim)
    reference = fastvi.reference.effective_sample_size(double.detach(), dim)
    torch.testing.assert_close(size.double(), reference, rtol=2 * tolerance, atol=0)


@pytest.mark.parametrize("dimension", [1, 2, 7, 63, 10**6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("operation", sorted({*ROW_WISE, "rsample_normal", "rsample_normal_with_log_ratio"}))
def test_dimensions_from_one_to_a_million(operation, dimension, dtype):
    """Values and gradients of two rows of any length are the formula's."""
    first, second = (row(seed, 2, dimension, dtype=dtype).requires_grad_() for seed in (1, 2))
    doubles = [tensor.detach().double().requires_grad_() for tensor in (first, second)]
    arguments = {"sample_shape": 2, "seed": 4} if operation == "rsample_normal" else {"num_samples": 2, "seed": 4}

    def call(*tensors: Tensor) -> tuple[Tensor, ...]:
        if operation in ROW_WISE:
            return as_tuple(ROW_WISE[operation](*tensors))
        return as_tuple(getattr(fastvi, operation)(*tensors, **arguments))

    expected, results = call(*doubles), call(first, second)
    tolerance = TOLERANCE[dtype]
    for result, formula in zip(results, expected, strict=True):
        size = max(1.0, formula.abs().max().item())
        torch.testing.assert_close(result.double(), formula.detach(), rtol=tolerance, atol=tolerance * size)
    for result, formula in zip(
        torch.autograd.grad([o.sum() for o in results], (first, second), materialize_grads=True, allow_unused=True),
        torch.autograd.grad([o.sum() for o in expected], doubles, materialize_grads=True, allow_unused=True),
        strict=True,
    ):
        size = max(1.0, formula.abs().max().item())
        torch.testing.assert_close(result.double(), formula, rtol=2 * tolerance, atol=2 * tolerance * size)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(
    ("name", "count"),
    [("normal_log_prob", 3), ("bernoulli_log_prob", 2), ("leapfrog_step", 4), ("rsample_normal", 2)],
)
def test_a_common_shape_of_too_many_elements(name, count, requires_grad):
    """Operands that have little memory each, and together more elements than 63 bits count."""
    first = torch.zeros(1, device=place.device, requires_grad=requires_grad)
    tensors = (first.expand(2, 1, 1, 1), first.expand(2**32, 1, 1), first.expand(1, 2**32, 1))
    arguments = itertools.islice(itertools.cycle(tensors[-count:] if count == 2 else tensors), count)
    shape = r"\((2, )?4294967296, 4294967296, 1\)"
    with pytest.raises(ValueError, match=f"^{name}: shapes broadcast to {shape}, expected fewer than "):
        getattr(fastvi, name)(*arguments)
