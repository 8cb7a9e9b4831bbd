"""Soft thresholding with thresholds that are none: numbers are refused, tensors give what its documentation says."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import fastvi
import fastvi.numpy
from fastvi import reference
from support.place import place

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
NAN, INF = math.nan, math.inf
X = (-3.0, -0.25, -0.0, 0.0, 0.25, 3.0, INF, -INF, NAN)
SIGNS = (-1.0, -1.0, 0.0, 0.0, 1.0, 1.0, 1.0, -1.0, 0.0)
# x - t sign(x), for each x; these numbers are exact in all dtypes.
EXPECTED: dict[float, tuple[float, ...]] = {
    -0.5: (-3.5, -0.75, 0.0, 0.0, 0.75, 3.5, INF, -INF, NAN),
    -2.0: (-5.0, -2.25, 0.0, 0.0, 2.25, 5.0, INF, -INF, NAN),
    -INF: (-INF, -INF, NAN, NAN, INF, INF, INF, -INF, NAN),
    NAN: (NAN,) * len(X),
}
Function = Callable[[Tensor, Tensor], Tensor]


def jacobian_vector(x: Tensor, threshold: Tensor) -> Tensor:
    """By forward mode, which takes the plain formula."""
    return torch.func.jvp(fastvi.soft_threshold, (x, threshold), (x, threshold))[0]


COMPILED = torch.compile(fastvi.soft_threshold, backend="aot_eager")


def compiled(x: Tensor, threshold: Tensor) -> Tensor:
    """A program for each dtype and shape: without more room for them the last ones would run as they stand."""
    with torch._dynamo.config.patch(recompile_limit=64):
        return COMPILED(x, threshold)


ROUTES: dict[str, Function] = {
    "public": fastvi.soft_threshold,
    "operator": torch.ops.fastvi.soft_threshold,
    "formula": reference.soft_threshold,
    "compiled": compiled,
    "vmap": lambda x, threshold: torch.func.vmap(fastvi.soft_threshold)(x, threshold.expand_as(x)),
    "forward mode": jacobian_vector,
}
SHAPES = {"a number": (), "one": (1, 1), "one a row": (2, 1), "one a column": (len(X),)}


def inputs(number: float, dtype: torch.dtype, shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    x = place.tensor([X, X], dtype=dtype)
    return x, place.full(shape, number, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("number", EXPECTED)
@pytest.mark.parametrize("route", ROUTES)
def test_values(route: str, number: float, shape: str, dtype: torch.dtype):
    x, threshold = inputs(number, dtype, SHAPES[shape])
    expected = place.tensor([EXPECTED[number]] * 2, dtype=dtype)
    torch.testing.assert_close(ROUTES[route](x, threshold), expected, rtol=0.0, atol=0.0, equal_nan=True)


REFUSED = r"^soft_threshold: threshold must be at least 0, got "


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("number", EXPECTED)
def test_a_threshold_that_is_a_number(number: float, dtype: torch.dtype):
    x, _ = inputs(number, dtype)
    for given in (number, np.float32(number)):
        with pytest.raises(ValueError, match=REFUSED):
            fastvi.soft_threshold(x, given)


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_threshold_of_zero_leaves_all_as_it_is(zero: float):
    x = place.tensor([X])[:, :-1]
    for given in (zero, place.full((1,), zero)):
        assert torch.equal(fastvi.soft_threshold(x, given), x)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("number", EXPECTED)
def test_arrays(number: float, dtype: type):
    x, expected = np.array([X, X], dtype), np.array([EXPECTED[number]] * 2, dtype)
    for threshold in (np.array(number, dtype), np.full((2, 1), number, dtype), np.full(len(X), number, dtype)):
        np.testing.assert_array_equal(fastvi.numpy.soft_threshold(x, threshold), expected)
    with pytest.raises(ValueError, match=REFUSED):
        fastvi.numpy.soft_threshold(x, number)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("number", EXPECTED)
@pytest.mark.parametrize("route", ["public", "operator", "formula", "compiled"])
def test_derivatives(route: str, number: float, dtype: torch.dtype):
    """One by x, and minus the sign of x by the threshold, where NaN has none."""
    x, threshold = (each.requires_grad_() for each in inputs(number, dtype, (2, len(X))))
    by_x, by_threshold = torch.autograd.grad(ROUTES[route](x, threshold).sum(), (x, threshold))
    assert torch.equal(by_x, torch.ones_like(x))
    usual = place.tensor([value == value for value in X])
    expected = -place.tensor([SIGNS] * 2, dtype=dtype)
    assert torch.equal(by_threshold[:, usual], expected[:, usual])
