"""Numbers, truth values, ``axis`` and generators of seeds as NumPy's users give them; truth values as PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastvi
import fastvi.numpy as fnp

RNG = np.random.default_rng(5)
X = RNG.random((4, 3, 6))
COUNTS = RNG.integers(0, 5, (4, 6)).astype(np.float64)

NUMBERS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], tuple[float, ...]]] = {
    "normal_log_prob": (fnp.normal_log_prob, (X,), (0.5, -1)),
    "laplace_log_prob": (fnp.laplace_log_prob, (X,), (0.5, -1.0)),
    "bernoulli_log_prob": (fnp.bernoulli_log_prob, (X,), (0.7,)),
    "continuous_bernoulli_log_prob": (fnp.continuous_bernoulli_log_prob, (X,), (0.7,)),
    "poisson_log_prob": (fnp.poisson_log_prob, (COUNTS,), (0.3,)),
    "negative_binomial_log_prob": (fnp.negative_binomial_log_prob, (COUNTS,), (2, -0.5)),
    "zero_inflated_negative_binomial_log_prob": (
        fnp.zero_inflated_negative_binomial_log_prob,
        (COUNTS,),
        (2.0, -0.5, 0.1),
    ),
    "kl_normal": (fnp.kl_normal, (X,), (0.1, 1.0, 0.4)),
    "rsample_normal": (lambda mean, logvar: fnp.rsample_normal(mean, logvar, 2, 3), (X,), (0.1,)),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_an_array_of_it(name: str, dtype: Any) -> None:
    operation, arrays, numbers = NUMBERS[name]
    given = [array.astype(dtype) for array in arrays]
    full = [np.full(given[0].shape[-1], number, dtype) for number in numbers]
    expected = operation(*given, *full)
    assert expected.dtype == dtype
    for kind in (float, np.float64):
        np.testing.assert_array_equal(operation(*given, *map(kind, numbers)), expected, strict=True)


def test_normal_density_of_numbers() -> None:
    x = np.array([[1.0, 2.0]])
    expected = -math.log(2.0 * math.pi) - 0.5 * ((1.0 - 0.5) ** 2 + (2.0 - 0.5) ** 2)
    assert float(fnp.normal_log_prob(x, 0.5, 0.0)[0]) == pytest.approx(expected)
    z, log_ratio = fnp.rsample_normal_with_log_ratio(np.zeros((2, 3)), 0, 4, 0.0, 0.0, seed=1)
    assert z.shape == (4, 2, 3)
    np.testing.assert_allclose(log_ratio, 0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fnp.kl_normal(0.0, 1.0), "kl_normal: one of mean, logvar, prior_mean, prior_logvar must be a numpy"),
        (lambda: fnp.normal_log_prob(X, True, 0.0), "normal_log_prob: mean must be a numpy.ndarray, got bool"),
        (lambda: fnp.normal_log_prob(X, 0.0, "1"), "normal_log_prob: logvar must be a numpy.ndarray, got str"),
        (lambda: fnp.normal_log_prob(X > 0.5, 0.0, 0.0), "normal_log_prob: .*must be a numpy.ndarray of floating"),
        (lambda: fnp.bernoulli_log_prob(X > 0.5, 0.0), "one of x, logits must be a numpy.ndarray of floating-point"),
        (lambda: fnp.log_mean_exp(X, 1, axis=0), "log_mean_exp: dim and axis are two names of one argument, got both"),
        (lambda: fastvi.LogMeanExp(1, axis=0), "LogMeanExp: dim and axis are two names of one argument, got both"),
        (lambda: fnp.log_mean_exp(X, axis=0.5), "log_mean_exp: dim must be an int"),  # type: ignore[arg-type]
        (lambda: fastvi.bernoulli_log_prob(torch.ones(3) > 0, torch.ones(3) > 0), "x has dtype torch.bool, expected"),
    ],
)
def test_mistakes_are_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize("name", ["log_mean_exp", "importance_weights", "effective_sample_size"])
def test_axis_is_dim(name: str) -> None:
    for face, x in ((fnp, X), (fastvi, torch.from_numpy(X))):
        operation: Any = getattr(face, name)
        np.testing.assert_array_equal(operation(x, axis=-1), operation(x, 2))
    assert float(fnp.LogMeanExp(axis=1).update(np.zeros((2, 5))).ess[0]) == pytest.approx(5.0)


def test_a_generator_is_a_source_of_seeds() -> None:
    rng = np.random.default_rng(7)
    first, second = fnp.standard_normal(1000, rng), fnp.standard_normal(1000, rng)
    assert abs(np.corrcoef(first, second)[0, 1]) < 5.0 / math.sqrt(1000)
    np.testing.assert_array_equal(fnp.standard_normal(1000, np.random.default_rng(7)), first)


BITS = torch.tensor([[True, False, True, True], [False, False, True, False], [True, True, True, False]])


def _by_logits(x: Tensor, h: Tensor) -> Tensor:
    return fastvi.bernoulli_log_prob(x, h, validate_args=True)


def _by_linear(x: Tensor, h: Tensor) -> Tensor:
    return fastvi.linear_bernoulli_log_prob(h, torch.eye(4, dtype=h.dtype), None, x, validate_args=True)


def _by_mlp(x: Tensor, h: Tensor) -> Tensor:
    return fastvi.mlp_bernoulli_log_prob(h, [torch.eye(4, dtype=h.dtype)], None, x, validate_args=True)


@pytest.mark.parametrize("call", [_by_logits, _by_linear, _by_mlp])
def test_truth_values_are_zeros_and_ones(call: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits = torch.linspace(-3.0, 3.0, 24, dtype=torch.float64).reshape(2, 3, 4).requires_grad_()
    expected = torch.where(BITS, logits, -logits).sigmoid().log().sum(-1)
    found = call(BITS, logits)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.vmap(call, (None, 0))(BITS, logits), expected)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    torch.testing.assert_close(gradient, BITS.double() - logits.sigmoid())
    by_func = torch.func.grad(lambda h: call(BITS, h).sum())(logits.detach())
    torch.testing.assert_close(by_func, gradient.detach())
    with torch.no_grad():
        torch.testing.assert_close(call(BITS.expand(2, 3, 4), logits), expected)


@pytest.mark.slow
def test_truth_values_in_compiled_programs() -> None:
    logits = torch.linspace(-3.0, 3.0, 24).reshape(2, 3, 4)
    expected = torch.where(BITS, logits, -logits).sigmoid().log().sum(-1)
    for call in (_by_logits, _by_linear, _by_mlp):
        torch.testing.assert_close(torch.compile(call, fullgraph=True)(BITS, logits), expected)


def test_truth_values_of_numpy() -> None:
    logits, weight = np.linspace(-3.0, 3.0, 24, dtype=np.float32).reshape(2, 3, 4), np.eye(4, dtype=np.float32)
    bits = BITS.numpy()
    expected = -np.log1p(np.exp(np.where(bits, -logits, logits).astype(np.float64))).sum(-1)
    for found in (
        fnp.bernoulli_log_prob(bits, logits, validate_args=True),
        fnp.bernoulli_log_prob(np.asfortranarray(bits), logits),
        fnp.linear_bernoulli_log_prob(logits, weight, None, bits),
        fnp.mlp_bernoulli_log_prob(logits, [weight], None, bits, validate_args=True),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert found.dtype == np.float32
