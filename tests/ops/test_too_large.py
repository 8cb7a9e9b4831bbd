"""Results that no memory holds, and tensors of more dimensions than the kernels read: one line that says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastvi
import fastvi.numpy
from fastvi.ops._operation import OPERATIONS
from support.operations import TYPICAL, WITH_PRODUCTS, Sample, function_of, public_name
from support.place import place

FULLEST = {sample.operation: sample for sample in sorted(TYPICAL, key=lambda sample: len(sample.names))}
KERNELS_ALONE = [sample for sample in FULLEST.values() if sample.operation not in WITH_PRODUCTS]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
HUGE = 2**47  # elements: of two bytes each they are beyond the 2^47 bytes of a process's addresses

on_cpu_only = pytest.mark.skipif(place.device != "cpu", reason="a GPU's memory has another size")


def huge(dtype: torch.dtype) -> Tensor:
    """Many rows of one number, which take no memory."""
    return torch.zeros(1, dtype=dtype).expand(HUGE, 1)


LARGE_RESULTS: dict[str, tuple[Callable[[Tensor], Any], tuple[int, ...]]] = {
    "kl_normal": (lambda x: fastvi.kl_normal(x, x), (HUGE,)),
    "normal_entropy": (fastvi.normal_entropy, (HUGE,)),
    "laplace_log_prob": (lambda x: fastvi.laplace_log_prob(x, x, x), (HUGE,)),
    "leapfrog_step": (lambda x: fastvi.leapfrog_step(x, x, x, 0.1), (HUGE, 1)),
    "soft_threshold": (lambda x: fastvi.soft_threshold(x, 1.0), (HUGE, 1)),
    "rsample_normal": (lambda x: fastvi.rsample_normal(x, x, 2), (2, HUGE, 1)),
    "rsample_normal_with_log_ratio": (lambda x: fastvi.rsample_normal_with_log_ratio(x, x, 2), (2, HUGE, 1)),
    "standard_normal": (lambda x: fastvi.standard_normal(HUGE, dtype=x.dtype), (HUGE,)),
}


@on_cpu_only
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("requires_grad", [False, True], ids=["plain", "recorded"])
@pytest.mark.parametrize("operation", LARGE_RESULTS)
def test_results_that_no_memory_holds(operation: str, requires_grad: bool, dtype: torch.dtype):
    call, shape = LARGE_RESULTS[operation]
    with pytest.raises(RuntimeError) as raised:
        call(huge(dtype).requires_grad_(requires_grad))
    assert str(raised.value) == f"{operation}: no memory for a result of shape {shape} and dtype {dtype}"


@on_cpu_only
def test_results_with_more_bytes_than_can_be_counted():
    with pytest.raises(RuntimeError, match=r"^standard_normal: no memory for a result of shape \(2\d+, 2\d+\) and dty"):
        fastvi.standard_normal((2**61, 2**61))
    with pytest.raises(
        RuntimeError, match=r"^rsample_normal: no memory for a result of shape \(2\d+, \d+, 1\) and dty"
    ):
        fastvi.rsample_normal(huge(torch.float32), huge(torch.float32), 2**31)


@on_cpu_only
def test_copies_that_no_memory_holds():
    """Rows whose numbers are not neighbours are copied before the kernel reads them."""
    wide = torch.zeros(1).expand(2**24, 2**24)
    message = r"no memory for a copy of shape \(16777216, 16777216\) and dtype torch.float32$"
    with pytest.raises(RuntimeError, match=f"^normal_entropy: {message}"):
        fastvi.normal_entropy(wide)
    with pytest.raises(RuntimeError, match=f"^log_mean_exp: {message}"):
        fastvi.log_mean_exp(wide)


@on_cpu_only
def test_gradients_that_no_memory_holds():
    x = torch.zeros(1).expand(HUGE, 1)
    operator = torch.ops.fastvi.kl_normal_backward
    with pytest.raises(RuntimeError) as raised:
        operator(torch.zeros(1).expand(HUGE), x, x, None, None, 0.0, [True, False, False, False])
    assert str(raised.value) == f"kl_normal: no memory for a result of shape ({HUGE}, 1) and dtype torch.float32"


LARGE_ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "kl_normal": lambda x: fastvi.numpy.kl_normal(x, x),
    "normal_entropy": fastvi.numpy.normal_entropy,
    "laplace_log_prob": lambda x: fastvi.numpy.laplace_log_prob(x, x, x),
    "leapfrog_step": lambda x: fastvi.numpy.leapfrog_step(x, x, x, 0.1),
    "soft_threshold": lambda x: fastvi.numpy.soft_threshold(x, 1.0),
    "rsample_normal": lambda x: fastvi.numpy.rsample_normal(x, x, 2),
    "rsample_normal_with_log_ratio": lambda x: fastvi.numpy.rsample_normal_with_log_ratio(x, x, 2),
    "standard_normal": lambda x: fastvi.numpy.standard_normal(HUGE, dtype=x.dtype),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("operation", LARGE_ARRAYS)
def test_arrays_that_no_memory_holds(operation: str, dtype: type):
    x, shape = np.broadcast_to(np.zeros(1, dtype), (HUGE, 1)), LARGE_RESULTS[operation][1]
    with pytest.raises(MemoryError) as raised:
        LARGE_ARRAYS[operation](x)
    assert str(raised.value) == f"{operation}: no memory for a result of shape {shape} and dtype {np.dtype(dtype)}"


def test_arrays_with_more_bytes_than_can_be_counted():
    with pytest.raises(
        MemoryError, match=r"^standard_normal: no memory for a result of shape \(2\d+, 2\d+\) and dtype"
    ):
        fastvi.numpy.standard_normal((2**61, 2**61))
    x = np.broadcast_to(np.zeros(1), (2**45, 1))
    with pytest.raises(
        MemoryError, match=r"^rsample_normal: no memory for a result of shape \(131072, \d+, 1\) and dt"
    ):
        fastvi.numpy.rsample_normal(x, x, 2**17)
    wide = np.broadcast_to(np.zeros(1), (2**24, 2**24))
    with pytest.raises(
        MemoryError, match=r"^normal_entropy: no memory for a copy of shape \(\d+, \d+\) and dtype float64$"
    ):
        fastvi.numpy.normal_entropy(wide)


def with_dimensions(tensor: Tensor, rank: int) -> Tensor:
    return tensor.reshape((1,) * (rank - tensor.dim()) + tuple(tensor.shape))


@pytest.mark.parametrize(
    ("sample", "name"),
    [(sample, name) for sample in KERNELS_ALONE for name in sample.names],
    ids=[f"{sample.operation}-{name}" for sample in KERNELS_ALONE for name in sample.names],
)
@pytest.mark.parametrize("requires_grad", [False, True], ids=["plain", "recorded"])
def test_more_dimensions_than_the_kernels_read(sample: Sample, name: str, requires_grad: bool):
    message = rf"^{sample.operation}: {public_name(name)} has 65 dimensions, expected at most 64$"
    tensors = dict(zip(sample.names, sample.tensors(requires_grad=requires_grad), strict=True))
    tensors[name] = with_dimensions(tensors[name], 65)
    with pytest.raises(ValueError, match=message):
        function_of(fastvi, sample.operation)(**tensors, **sample.constants)
    given = [each.detach() for each in tensors.values()]
    with pytest.raises(ValueError, match=message):
        getattr(torch.ops.fastvi, sample.operation)(*sample.operator_arguments(given))


def test_as_many_dimensions_as_the_kernels_read():
    x = place.linspace(-1, 1, 6).reshape(2, 3)
    result = fastvi.kl_normal(with_dimensions(x, 64), x)
    assert result.shape == (1,) * 62 + (2,)
    assert torch.equal(result.flatten(), fastvi.kl_normal(x, x))


def test_dimensions_of_what_layers_are_given():
    one, many = place.ones(1, 1), with_dimensions(place.ones(1, 1), 65)
    for operation, name, call in (
        ("linear_bernoulli_log_prob", "h", lambda: fastvi.linear_bernoulli_log_prob(many, one, None, one)),
        ("linear_bernoulli_log_prob", "x", lambda: fastvi.linear_bernoulli_log_prob(one, one, None, many)),
        ("mlp_bernoulli_log_prob", "z", lambda: fastvi.mlp_bernoulli_log_prob(many, [one], None, one)),
        ("mlp_bernoulli_log_prob", "x", lambda: fastvi.mlp_bernoulli_log_prob(one, [one], None, many)),
    ):
        with pytest.raises(ValueError, match=f"^{operation}: {name} has 65 dimensions, expected at most 64$"):
            call()
    assert fastvi.mlp(many, [one]).shape == many.shape  # a matrix product, which takes any number


def test_dimensions_of_draws():
    mean, sizes = place.ones(2, 3), (1,) * 65
    for call, name in (
        (lambda: fastvi.standard_normal(sizes, device=place.device), "standard_normal: shape"),
        (lambda: fastvi.numpy.standard_normal(sizes), "standard_normal: shape"),
        (lambda: fastvi.rsample_normal(mean, mean, sizes), "rsample_normal: sample_shape"),
        (lambda: fastvi.rsample_normal(mean, mean, sizes[2:]), "rsample_normal: the result"),
        (lambda: fastvi.rsample_normal(mean, mean, seed=place.ones(sizes, dtype=torch.int64)), "rsample_normal: seed"),
    ):
        with pytest.raises(ValueError, match=f"^{name} has 65 dimensions, expected at most 64$"):
            call()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_operator_names_each_dtype_that_it_takes_once(dtype: torch.dtype):
    x, wrong = place.ones(2, 3, dtype=dtype), place.ones(3, dtype=torch.int32)
    factors = {torch.float32: "torch.float32", torch.float64: "torch.float64"}
    expected = factors.get(dtype, f"{dtype} or torch.float32")
    for operation, tensors, name in (
        ("soft_threshold", (x, wrong), "threshold"),
        ("leapfrog_step", (x, x, x, wrong, None, 0.5), "step_size"),
        ("leapfrog_step", (x, x, x, x[:, :1], wrong, 0.5), "inverse_mass"),
    ):
        assert name in OPERATIONS[operation].factors
        with pytest.raises(TypeError, match=rf"^{operation}: {name} has dtype torch.int32, expected {expected}$"):
            getattr(torch.ops.fastvi, operation)(*tensors)
