"""``fastvi.numpy`` refuses what ``fastvi`` refuses, in the same words, and reads any subclass of arrays as an array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fastvi
import fastvi.numpy
from support.operations import ONE_EACH, TYPICAL, Sample, as_tuple, function_of

H, WEIGHT, BIAS, X = np.full((2, 3), 0.5), np.full((5, 3), 0.5), np.full(5, 0.5), np.full((2, 5), 0.5)
NARROW, GREY = X.astype(np.float32), np.array([[0.0, 128.0, 255.0, 1.0, 0.0]])
NOT_A_NUMBER, NEGATIVE = np.where(X > 0, np.nan, 0.0), -X

LINEAR: dict[str, tuple[Any, ...]] = {
    "weight of one dimension": (H, WEIGHT[0], BIAS, X),
    "weight of three dimensions": (H, WEIGHT[None], BIAS, X),
    "weight without dimensions": (H, np.array(1.0), BIAS, X),
    "features of h": (H[:, :2], WEIGHT, BIAS, X),
    "features of x": (H, WEIGHT, BIAS, H),
    "h without dimensions": (np.array(1.0), WEIGHT, BIAS, X),
    "x without dimensions": (H, WEIGHT, BIAS, np.array(1.0)),
    "bias": (H, WEIGHT, BIAS[:3], X),
    "bias of two dimensions": (H, WEIGHT, BIAS[None], X),
    "leading shapes": (np.zeros((4, 3)), WEIGHT, BIAS, X),
    "a list": (H, WEIGHT, BIAS, [0.5]),
    "no weight": (H, None, BIAS, X),
    "dtype of h": (H.astype(int), WEIGHT, BIAS, X),
    "dtype of x": (H, WEIGHT, BIAS, NARROW),
    "dtypes of two": (H, WEIGHT, BIAS.astype(np.float32), NARROW),
    "grey values": (H, WEIGHT, BIAS, GREY, True),
    "grey values of another type": (H, WEIGHT, BIAS, GREY.astype(np.uint8), True),
    "complex observations": (H, WEIGHT, BIAS, GREY.astype(complex), True),
    "NaN": (H, WEIGHT, BIAS, NOT_A_NUMBER, True),
    "negative": (H, WEIGHT, BIAS, NEGATIVE, True),
    "flag": (H, WEIGHT, BIAS, X, 1),
}
BERNOULLI: dict[str, tuple[Any, ...]] = {
    "grey values": (GREY, X, True),
    "grey values of another type": (GREY.astype(np.uint8), X, True),
    "complex observations": (GREY.astype(complex), X, True),
    "NaN": (NOT_A_NUMBER, X, True),
    "negative": (NEGATIVE, X, True),
    "shapes": (X, H),
}
SECOND = np.full((4, 5), 0.5)
MLP: dict[str, tuple[Any, ...]] = {
    "no weights": (H, []),
    "an array for weights": (H, WEIGHT),
    "an array for biases": (H, [WEIGHT], BIAS),
    "biases": (H, [WEIGHT, SECOND], [BIAS]),
    "weight of one dimension": (H, [WEIGHT, SECOND[0]]),
    "first weight": (H, [SECOND]),
    "second weight": (H, [WEIGHT, WEIGHT]),
    "bias": (H, [WEIGHT], [BIAS[:2]]),
    "None among weights": (H, [WEIGHT, None]),
    "dtype of x": (H.astype(int), [WEIGHT]),
    "dtype of a weight": (H, [WEIGHT, SECOND.astype(np.float32)]),
    "a list for a bias": (H, [WEIGHT], [[0.5]]),
    "x without dimensions": (np.array(1.0), [WEIGHT]),
    "activation": (H, [WEIGHT], None, "leaky"),
    "type of the activation": (H, [WEIGHT], None, 1),
    "flag": (H, [WEIGHT], None, "tanh", 1),
}
MLP_BERNOULLI: dict[str, tuple[Any, ...]] = {
    "features of x": (H, [WEIGHT], None, H),
    "x without dimensions": (H, [WEIGHT], None, np.array(1.0)),
    "leading shapes": (np.zeros((4, 3)), [WEIGHT], None, X),
    "weight of one dimension": (H, [WEIGHT[0]], None, X),
    "bias": (H, [WEIGHT], [BIAS[:2]], X),
    "dtype of x": (H, [WEIGHT], None, NARROW),
    "a list for x": (H, [WEIGHT], None, [0.5]),
    "grey values": (H, [WEIGHT], None, GREY, "tanh", True),
    "grey values of another type": (H, [WEIGHT], None, GREY.astype(np.uint8), "tanh", True),
    "NaN": (H, [WEIGHT], None, NOT_A_NUMBER, "tanh", True),
    "flag": (H, [WEIGHT], None, X, "tanh", None),
}
CALLS = [
    pytest.param(operation, arguments, id=f"{operation}-{name}")
    for operation, calls in {
        "linear_bernoulli_log_prob": LINEAR,
        "bernoulli_log_prob": BERNOULLI,
        "mlp": MLP,
        "mlp_bernoulli_log_prob": MLP_BERNOULLI,
    }.items()
    for name, arguments in calls.items()
]


def as_tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, list):
        return [as_tensors(each) for each in value]
    return value


def in_words_of_numpy(message: str) -> str:
    for of_torch, of_numpy in (
        ("torch.float32, torch.float64, torch.bfloat16 or torch.float16", "float32, float64 or float16"),
        ("torch.Tensor", "numpy.ndarray"),
        ("got Tensor", "got ndarray"),
        ("torch.", ""),
    ):
        message = message.replace(of_torch, of_numpy)
    return message


def refusal(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[type[BaseException], str]:
    with pytest.raises((TypeError, ValueError)) as raised:
        function(*arguments)
    return raised.type, str(raised.value)


@pytest.mark.parametrize(("operation", "arguments"), CALLS)
def test_the_same_words_for_arrays_as_for_tensors(operation: str, arguments: tuple[Any, ...]):
    kind, message = refusal(getattr(fastvi, operation), tuple(as_tensors(each) for each in arguments))
    assert message.startswith(f"{operation}: ")
    assert refusal(getattr(fastvi.numpy, operation), arguments) == (kind, in_words_of_numpy(message))


class Watched(np.ndarray):
    """A subclass whose own functions nobody may call."""

    def __array_function__(self, *arguments: Any, **options: Any) -> Any:
        raise AssertionError("__array_function__ was called")

    def __array_ufunc__(self, *arguments: Any, **options: Any) -> Any:
        raise AssertionError("__array_ufunc__ was called")

    def refuse(self, *arguments: Any, **options: Any) -> Any:
        raise AssertionError("a method was called")

    astype = reshape = view = min = max = refuse


def watched(array: np.ndarray) -> np.ndarray:
    return np.ndarray.view(array, Watched)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("sample", [*ONE_EACH, *TYPICAL], ids=str)
def test_functions_of_a_subclass_are_not_called(sample: Sample, dtype: torch.dtype):
    """Whatever they would give: the values are those of the plain array."""
    function = function_of(fastvi.numpy, sample.operation)
    plain = {name: tensor.cpu().numpy() for name, tensor in zip(sample.names, sample.tensors(dtype), strict=True)}
    found = function(**{name: watched(array) for name, array in plain.items()}, **sample.constants)
    for result, expected in zip(as_tuple(found), as_tuple(function(**plain, **sample.constants)), strict=True):
        assert type(result) is np.ndarray
        np.testing.assert_array_equal(result, expected)


def test_functions_of_a_subclass_are_not_called_to_look_at_observations():
    h, weight, x = watched(H), watched(WEIGHT), watched(X)
    for found in (
        fastvi.numpy.bernoulli_log_prob(x, x, True),
        fastvi.numpy.linear_bernoulli_log_prob(h, weight, None, x, True),
        fastvi.numpy.mlp_bernoulli_log_prob(h, [weight], None, x, validate_args=True),
        fastvi.numpy.kinetic_energy(h, 0.5),
        fastvi.numpy.kinetic_energy(h, watched(np.array(0.5))),
        fastvi.numpy.kl_normal(h, h, prior_mean=watched(H[0])),
        fastvi.numpy.LogMeanExp().update(h).value,
    ):
        assert type(found) is np.ndarray
        assert np.isfinite(found).all()
    with pytest.raises(ValueError, match="x must lie in"):
        fastvi.numpy.bernoulli_log_prob(watched(GREY), x, True)
