"""What the native functions refuse by themselves, so that they touch no memory but that of their arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastvi
import fastvi.numpy
from fastvi import _native
from fastvi.ops._backends import MODULES
from support.operations import weighted_sum
from support.place import place

ROWS, MAPS = _native.module().row_operations(), _native.module().map_operations()


def with_last(name: str, count: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A row operation of x, and of another tensor as the last operand."""
    return lambda x, leaf: getattr(fastvi, name)(*[x] * (count - 1), leaf)


def with_factors(name: str, states: int, factors: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A map operation of states x and other factors."""
    return lambda x, leaf: weighted_sum(getattr(fastvi, name)(*[x] * states, *[leaf] * factors))


def without_first(name: str, count: int) -> Callable[[Tensor], object]:
    """A map operation whose first state is no tensor."""
    return lambda r: getattr(fastvi, name)(1.0, *[r] * (count - 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_gradients_of_operands_that_skip_rows(dtype):
    """They are computed in float32, in a copy without the gaps, through which the rows are merged otherwise."""
    whole = place.linspace(-1, 1, 4 * 3 * 8).reshape(4, 3, 8).to(dtype)
    part, vector = whole[:, :2], place.linspace(-1, 1, 8)

    def gradient(function: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> Tensor:
        leaf = vector.to(dtype).requires_grad_()
        return torch.autograd.grad(function(part.to(dtype), leaf).sum(), leaf)[0]

    for function in (
        lambda x, leaf: fastvi.kl_normal(x, x, leaf, leaf.detach()),
        lambda x, leaf: fastvi.normal_log_prob(x, leaf, leaf.detach()),
        lambda x, leaf: fastvi.bernoulli_log_prob(leaf, x),
        lambda x, leaf: fastvi.kinetic_energy(x, leaf),
        *[with_last(name, len(operands)) for name, operands, *_ in ROWS],
        *[with_factors(name, len(states), len(factors)) for name, states, factors, *_ in MAPS],
    ):
        expected = gradient(function, torch.float32)
        torch.testing.assert_close(gradient(function, dtype).float(), expected, rtol=2e-2, atol=2e-1)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, evil: fastvi.log_mean_exp(x, evil),
        lambda x, evil: fastvi.rsample_normal(x, x, evil),
        lambda x, evil: fastvi.rsample_normal(x, x, (2, evil)),
        lambda x, evil: fastvi.rsample_normal(x, x, row_offset=evil),
        lambda x, evil: fastvi.rsample_normal_with_log_ratio(x, x, evil),
    ],
    ids=["dim", "sample_shape", "size", "row_offset", "num_samples"],
)
def test_a_number_that_frees_the_tensor(call):
    """Numbers are asked for their values before any tensor is read."""
    x = place.ones(300, 400)

    class Freeing:
        def __index__(self) -> int:
            x.untyped_storage().resize_(0)
            return 1

    with pytest.raises(ValueError, match="memory"):
        call(x, Freeing())


def test_subclasses_of_arrays_are_read_as_arrays():
    class Array(np.ndarray):
        def __array_function__(self, *arguments: Any, **options: Any) -> Any:
            return np.zeros(1)

    whole = np.linspace(0, 1, 24).reshape(4, 6)
    given, plain = whole.view(Array)[:, ::2], whole[:, ::2]
    np.testing.assert_array_equal(fastvi.numpy.kl_normal(given, given), fastvi.numpy.kl_normal(plain, plain))


@pytest.mark.parametrize("dtype", ["V0", "M8[D]", ">f4", "O"])
def test_arrays_of_other_kinds(dtype):
    array = np.empty(3, dtype)
    with pytest.raises(TypeError, match=r"kl_normal: mean has dtype .*, expected float32, float64 or float16"):
        fastvi.numpy.kl_normal(array, array)


def backward_calls(x: Tensor) -> dict[str, Callable[[Any], tuple[Any, ...]]]:
    """Arguments of the native backward functions, before what is needed: all that is of one kind each."""
    column, draws, seed = x[:, 0], x.expand(2, *x.shape), place.ones((), dtype=torch.int64)
    return {
        "kl_normal": lambda needs: (column, x, x, None, None, 0.0, needs),
        "normal_log_prob": lambda needs: (column, x, x, x, needs),
        "leapfrog_step": lambda needs: (None, x, x, x, x, x[:1], None, 0.5, needs),
        "soft_threshold": lambda needs: (x, x, x[:1], needs),
        "log_mean_exp": lambda needs: (x[0], x, 0, needs),
        "rsample_normal": lambda needs: (draws, x, x, seed, 2, 0, needs),
        "rsample_normal_with_log_ratio": lambda needs: (draws, None, x, x, None, None, seed, 2, False, 0, needs),
    }


@pytest.mark.parametrize(
    ("needs", "error", "message"),
    [
        ([], ValueError, r"needs has 0 elements, expected \d"),
        ([True] * 9, ValueError, r"needs has 9 elements, expected \d"),
        (None, TypeError, "needs must be a list or a tuple of bools, got NoneType"),
        (True, TypeError, "needs must be a list or a tuple of bools, got bool"),
        ("no", TypeError, "needs must be a list or a tuple of bools, got str"),
        ([1], TypeError, r"needs\[0\] must be a bool, got int"),
        ((False, None), TypeError, r"needs\[1\] must be a bool, got NoneType"),
        ([False, np.ones(3)], TypeError, r"needs\[1\] must be a bool, got numpy.ndarray"),
    ],
)
def test_needs_of_another_length_or_type(needs, error, message):
    x = place.ones(2, 3)
    for name, arguments in backward_calls(x).items():
        for functions in (MODULES.of(x).backward, MODULES.of(x).attempt_backward):
            with torch.no_grad(), pytest.raises(error, match=f"^{name}: {message}$"):
                getattr(functions, name)(*arguments(needs))


def test_needs_of_a_seed():
    x = place.ones(2, 3)
    for name, count in (("rsample_normal", 3), ("rsample_normal_with_log_ratio", 5)):
        with pytest.raises(ValueError, match=f"^{name}: needs asks for the gradient of seed, which has none$"):
            getattr(MODULES.of(x).backward, name)(*backward_calls(x)[name]([True] * count))


def test_needs_of_what_is_not_given():
    x = place.ones(2, 3)
    with pytest.raises(ValueError, match="kl_normal: needs asks for the gradient of prior_mean, which is None"):
        MODULES.of(x).backward.kl_normal(x[:, 0], x, x, None, None, 0.0, [True] * 4)


def test_what_is_filled_has_its_own_memory():
    for out in (place.zeros(1).expand(1000), place.zeros(10, 2)[:, 0]):
        with pytest.raises(ValueError, match="out must be contiguous"):
            MODULES.of(out).forward.fill_standard_normal(out, 3)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda r: fastvi.kl_normal(None, r), "mean"),
        (lambda r: fastvi.normal_log_prob(r, None, r), "mean"),
        (lambda r: fastvi.linear_bernoulli_log_prob(r, r, None, None), "x"),
        (lambda r: fastvi.rsample_normal(1.0, r), "mean"),
        (lambda r: fastvi.rsample_normal_with_log_ratio(r, r, 2, 1.0), "prior_mean"),
        *[(without_first(name, len(states) + len(factors)), states[0]) for name, states, factors, *_ in MAPS],
    ],
)
def test_what_is_missed_where_another_argument_has_a_gradient(call, name):
    with pytest.raises(TypeError, match=f": {name} must be a torch.Tensor, got "):
        call(place.ones(3, 3, requires_grad=True))


def test_a_momentum_that_is_broadcast_has_the_positions_shape():
    q, p, grad = place.ones(4, 3), place.ones(3), place.ones(1, 3)
    for _, momentum in (
        fastvi.leapfrog_step(q, p, grad, 0.1),
        torch.func.jvp(lambda q: fastvi.leapfrog_step(q, p, grad, 0.1), (q,), (q,))[0],
    ):
        assert momentum.shape == (4, 3)
