"""The NumPy operations against their PyTorch twins, bit for bit: they run the same kernels on the same memory."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

import fastvi.numpy as fnp
from fastvi import ops
from support.operations import SAMPLES, SEED, WITH_PRODUCTS, Sample, as_tuple, function_of

DTYPES = (torch.float32, torch.float64, torch.float16)


def _same_bits(actual: Any, expected: Any) -> None:
    """Equal shapes, dtypes and bits, except that any NaN is as good as another."""
    actual, expected = as_tuple(actual), as_tuple(expected)
    assert len(actual) == len(expected)
    for found, wanted in zip(actual, expected, strict=True):
        assert type(found) is np.ndarray
        assert found.dtype == wanted.numpy().dtype
        np.testing.assert_array_equal(found, wanted.numpy(), strict=True)
        np.testing.assert_array_equal(np.signbit(found), np.signbit(wanted.numpy()))


def _packed_field(array: np.ndarray) -> np.ndarray:
    """The values as a field of a packed record: neither aligned nor a whole number of elements apart."""
    records = np.zeros(array.shape, np.dtype([("mark", "i1"), ("value", array.dtype)]))
    records["value"] = array
    return records["value"]


def _every_second(array: np.ndarray) -> np.ndarray:
    wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), np.nan, array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C order": np.ascontiguousarray,
    "Fortran order": np.asfortranarray,
    "every second": _every_second,
    "reversed rows": lambda array: array[::-1].copy()[::-1],
    "reversed columns": lambda array: array[..., ::-1].copy()[..., ::-1],
    "packed field": _packed_field,
    "read only": lambda array: np.broadcast_to(array, array.shape),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.operation not in WITH_PRODUCTS], ids=str)
def test_equals_the_tensor_operation(sample: Sample, layout: str, dtype: torch.dtype) -> None:
    tensors = sample.tensors(dtype)
    arrays = [LAYOUTS[layout](t.numpy()) if t.dim() else t.numpy() for t in tensors]
    before = [array.copy() for array in arrays]
    actual = getattr(fnp, sample.operation)(**dict(zip(sample.names, arrays, strict=True)), **sample.constants)
    _same_bits(actual, sample.call(*tensors))
    for array, value in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, value)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.operation in WITH_PRODUCTS], ids=str)
def test_layers_equal_the_tensor_operation_where_products_are_exact(
    sample: Sample, layout: str, dtype: torch.dtype
) -> None:
    # Multiples of 1/8: matrix products of this size hold no rounding, whoever computes them and in whatever order.
    tensors = [(t * 8.0).round() / 8.0 for t in sample.tensors(dtype)]
    arrays = [LAYOUTS[layout](tensor.numpy()) for tensor in tensors]
    arguments = dict(zip(sample.names, arrays, strict=True)) | sample.constants
    found, expected = function_of(fnp, sample.operation)(**arguments), sample.call(*tensors)
    if sum(name.startswith("weight") for name in sample.names) == 1:
        _same_bits(found, expected)
    else:  # the products of activated layers are rounded
        tolerance = 16 * torch.finfo(dtype).eps
        assert (found.shape, found.dtype) == (expected.shape, expected.numpy().dtype)
        np.testing.assert_allclose(found, expected.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), 0, 5, (3, 0), (2, 7), (3, 1025)], ids=str)
def test_draws_equal_those_of_the_tensor_operation(shape: Any, dtype: torch.dtype) -> None:
    array_dtype = {torch.float32: np.float32, torch.float64: np.float64, torch.float16: np.float16}[dtype]
    _same_bits(fnp.standard_normal(shape, SEED, dtype=array_dtype), ops.standard_normal(shape, SEED, dtype=dtype))


def test_draws_are_float64_by_default() -> None:
    assert fnp.standard_normal(3, seed=0).dtype == np.float64


@given(
    data=st.data(),
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    dtype=st.sampled_from([np.float32, np.float64, np.float16]),
)
def test_any_view_gives_what_its_copy_gives(data: st.DataObject, shape: list[int], dtype: type) -> None:
    """Steps of any size and sign, broadcast axes, and infinities and NaN among the values."""
    large = 6e4 if dtype is np.float16 else 1e30
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, large, -large]
    views = []
    for _ in range(3):
        steps = [data.draw(st.sampled_from([-2, -1, 1, 3])) for _ in shape]
        broadcast = [data.draw(st.booleans()) for _ in shape]
        memory = [1 if once else abs(step) * size for step, size, once in zip(steps, shape, broadcast, strict=True)]
        base = fnp.standard_normal(memory, seed=data.draw(st.integers(0, 2**63 - 1)), dtype=dtype)
        if base.size:
            base.flat[data.draw(st.integers(0, base.size - 1))] = data.draw(st.sampled_from(special))
        slices = tuple(slice(None) if once else slice(None, None, s) for s, once in zip(steps, broadcast, strict=True))
        views.append(np.broadcast_to(base[slices], shape))
    copies = [view.copy() for view in views]
    for operation, constants in ((fnp.kl_normal, ()), (fnp.normal_log_prob, ()), (fnp.leapfrog_step, (0.1,))):
        found = as_tuple(operation(*views, *constants))
        wanted = as_tuple(operation(*copies, *constants))
        for of_views, of_copies in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(of_views, of_copies)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_running_log_mean_exp_equals_the_tensor_class(dtype: type) -> None:
    draws = 3.0 * fnp.standard_normal((40, 6), seed=SEED, dtype=dtype)
    draws[:, 0] = -np.inf
    draws[7, 1] = np.inf
    draws[7, 2] = np.nan
    draws[:10, 3] = -np.inf
    ours, theirs = fnp.LogMeanExp(), ops.LogMeanExp()
    for start, stop in ((0, 10), (10, 11), (11, 40)):
        ours = ours.update(draws[start:stop])
        theirs = theirs.update(torch.from_numpy(draws[start:stop].copy()))
    assert ours.count == theirs.count == 40
    # The same kernels, then float64 exponentials of two libraries: what differs by a few ulp of float64 is seen in
    # float64 alone, and there, after two merges, within 16 of them.
    tolerance = 16 * np.finfo(np.float64).eps if dtype is np.float64 else np.finfo(np.float32).eps
    for found, wanted in ((ours.value, theirs.value), (ours.ess, theirs.ess)):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, wanted.numpy(), rtol=tolerance, atol=tolerance, strict=True)


@pytest.mark.parametrize(("dtype", "size"), [(np.float64, 1e16), (np.float64, -1e300), (np.float32, 1e38)])
def test_running_log_mean_exp_of_equal_weights_of_any_size(dtype: type, size: float) -> None:
    running = fnp.LogMeanExp(axis=0)
    for count in (3, 1, 6):
        running.update(np.full((count, 2), size, dtype))
    assert running.ess.tolist() == pytest.approx([10.0, 10.0], rel=1e-15)
    np.testing.assert_array_equal(running.value, np.full(2, size, dtype), strict=True)


def test_running_log_mean_exp_merges_and_rejects() -> None:
    chunk = fnp.standard_normal((12, 2), seed=SEED)
    halves = fnp.LogMeanExp().update(chunk[:5]).merge(fnp.LogMeanExp().update(chunk[5:]))
    in_turn = fnp.LogMeanExp().update(chunk[:5]).update(chunk[5:])
    np.testing.assert_array_equal(halves.value, in_turn.value)
    np.testing.assert_array_equal(halves.ess, in_turn.ess)
    assert halves.merge(fnp.LogMeanExp()).count == 12
    with pytest.raises(ValueError, match="no chunk was seen"):
        _ = fnp.LogMeanExp().value
    with pytest.raises(ValueError, match=r"columns of shape \(3,\), expected \(2,\)"):
        halves.update(np.zeros((4, 3)))
    with pytest.raises(TypeError, match="other must be a LogMeanExp, got int"):
        halves.merge(3)
    with pytest.raises(TypeError, match=r"got LogMeanExp of fastvi\.ops"):
        halves.merge(ops.LogMeanExp())


def test_without_a_seed_draws_differ_from_call_to_call() -> None:
    mean = np.zeros((2, 3))
    assert np.any(fnp.standard_normal(4) != fnp.standard_normal(4))
    assert np.any(fnp.rsample_normal(mean, mean) != fnp.rsample_normal(mean, mean))
    first, second = (fnp.rsample_normal_with_log_ratio(mean, mean, 2)[0] for _ in range(2))
    assert np.any(first != second)


def test_detach_posterior_changes_no_value() -> None:
    mean, logvar = fnp.standard_normal((2, 4, 3), seed=SEED)
    for plain, detached in zip(
        fnp.rsample_normal_with_log_ratio(mean, logvar, 2, seed=1),
        fnp.rsample_normal_with_log_ratio(mean, logvar, 2, detach_posterior=True, seed=1),
        strict=True,
    ):
        np.testing.assert_array_equal(plain, detached)


ROW = np.zeros((2, 3))
WEIGHT = np.zeros((5, 3))
TARGET = np.zeros((2, 5))

BAD_CALLS: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("list", lambda: fnp.kl_normal([0.0], ROW), TypeError, r"kl_normal: mean must be a numpy.ndarray, got list"),
    ("tensor", lambda: fnp.normal_entropy(torch.zeros(3)), TypeError, "logvar must be a numpy.ndarray, got Tensor"),
    ("mask", lambda: fnp.normal_entropy(np.ma.zeros(3)), TypeError, "logvar must be a numpy.ndarray, got Masked"),
    ("integers", lambda: fnp.bernoulli_log_prob(ROW.astype(int), ROW), TypeError, "x has dtype int64, expected float"),
    ("long", lambda: fnp.normal_entropy(ROW.astype(np.longdouble)), TypeError, "logvar has dtype .*, expected"),
    ("byte order", lambda: fnp.normal_entropy(ROW.astype(">f8")), TypeError, "logvar has dtype >f8, expected float"),
    (
        "two dtypes",
        lambda: fnp.normal_log_prob(ROW, ROW.astype(np.float32), ROW),
        TypeError,
        "normal_log_prob: mean has dtype float32, but x has float64",
    ),
    ("shapes", lambda: fnp.kl_normal(ROW, np.zeros(2)), ValueError, r"kl_normal: .*mean \(2, 3\), logvar \(2,\)"),
    ("no dimension", lambda: fnp.normal_entropy(np.zeros(())), ValueError, "normal_entropy: logvar has no dimension"),
    ("free bits", lambda: fnp.kl_normal(ROW, ROW, free_bits=-1.0), ValueError, "free_bits is -1.0, expected a non-neg"),
    (
        "seed type",
        lambda: fnp.standard_normal(2, seed=1.5),
        TypeError,
        "seed must be an int, a numpy.*Generator or None, got float",
    ),
    ("seed range", lambda: fnp.rsample_normal(ROW, ROW, seed=2**63), ValueError, r"seed is 9.*expected .* \[0, 2\^63"),
    ("negative seed", lambda: fnp.rsample_normal(ROW, ROW, seed=-1), ValueError, "seed is -1, expected"),
    (
        "size",
        lambda: fnp.standard_normal((2, -1)),
        ValueError,
        r"standard_normal: shape\[1\] is -1, expected a non-neg",
    ),
    ("size type", lambda: fnp.standard_normal(2.0), TypeError, "shape must be an integer or a sequence of them"),
    ("draw dtype", lambda: fnp.standard_normal(2, dtype=int), TypeError, "dtype is .*int.*, expected float32, fl"),
    ("draw dtype name", lambda: fnp.standard_normal(2, dtype="f5"), TypeError, "dtype is 'f5', expected float32, fl"),
    ("offset", lambda: fnp.rsample_normal(ROW, ROW, row_offset=-1), ValueError, "row_offset is -1, expected a non-neg"),
    (
        "samples type",
        lambda: fnp.rsample_normal_with_log_ratio(ROW, ROW, 1.0),
        TypeError,
        "rsample_normal_with_log_ratio: num_samples must be an integer, got float",
    ),
    (
        "too many samples",
        lambda: fnp.rsample_normal(ROW[:0], ROW[:0], 2**32),
        ValueError,
        "4294967296 samples, expected at most 4294967295",
    ),
    (
        "weight",
        lambda: fnp.linear_bernoulli_log_prob(ROW, ROW[0], None, TARGET),
        ValueError,
        r"weight has shape \(3,\)",
    ),
    (
        "features of h",
        lambda: fnp.linear_bernoulli_log_prob(TARGET, WEIGHT, None, TARGET),
        ValueError,
        r"h has shape \(2, 5\), expected \(..., 3\) for weight \(5, 3\)",
    ),
    (
        "features of x",
        lambda: fnp.linear_bernoulli_log_prob(ROW, WEIGHT, None, ROW),
        ValueError,
        r"x has shape \(2, 3\), expected \(..., 5\)",
    ),
    (
        "bias",
        lambda: fnp.linear_bernoulli_log_prob(ROW, WEIGHT, ROW[0], TARGET),
        ValueError,
        r"bias has shape \(3,\), expected \(5,\)",
    ),
    (
        "leading shapes",
        lambda: fnp.linear_bernoulli_log_prob(np.zeros((4, 3)), WEIGHT, None, TARGET),
        ValueError,
        r"leading shapes do not broadcast: got h \(4, 3\), x \(2, 5\)",
    ),
    ("dim", lambda: fnp.log_mean_exp(ROW, 2), ValueError, "log_mean_exp: dim is 2, expected one of the 2 dimensions"),
    ("dim type", lambda: fnp.log_mean_exp(ROW, 0.0), TypeError, "log_mean_exp: dim must be an int, got float"),
    (
        "empty",
        lambda: fnp.effective_sample_size(ROW[:0]),
        ValueError,
        r"log_weights has shape \(0, 3\), expected elements along dimension 0",
    ),
    ("step", lambda: fnp.leapfrog_step(ROW, ROW, ROW, None), TypeError, "step_size must be a numpy.ndarray or a num"),
    ("step dtype", lambda: fnp.leapfrog_step(ROW, ROW, ROW, np.ones(3, int)), TypeError, "step_size has dtype int64"),
    ("mass", lambda: fnp.kinetic_energy(ROW, "1"), TypeError, "inverse_mass must be a numpy.ndarray or a number"),
    ("position", lambda: fnp.leapfrog_step(1.0, ROW, ROW, 0.1), TypeError, "q must be a numpy.ndarray, got float"),
    ("states", lambda: fnp.leapfrog_step(ROW, ROW[:, :2], ROW, 0.1), ValueError, r"leapfrog_step: .*p \(2, 2\)"),
    ("no state", lambda: fnp.leapfrog_step(*[np.zeros(())] * 3, 0.1), ValueError, "leapfrog_step: q has no dimension"),
]


@pytest.mark.parametrize(("call", "error", "message"), [c[1:] for c in BAD_CALLS], ids=[c[0] for c in BAD_CALLS])
def test_bad_input_is_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_same_names_and_arguments_as_the_tensor_operations() -> None:
    assert fnp.__all__ == ops.__all__


def test_importing_it_leaves_torch_alone(run_python: Callable[..., str]) -> None:
    """Although it is installed here; ``test_without_torch.py`` is about where it is not."""
    run_python("import sys, fastvi.numpy; assert 'torch' not in sys.modules")


def test_docstring_examples() -> None:
    results = doctest.testmod(fnp)
    assert results.failed == 0
    assert results.attempted > 0


def test_observations_outside_the_unit_interval_are_named_where_that_is_asked_for():
    x, logits, weight = np.array([[0.0, 255.0]]), np.zeros((1, 2)), np.zeros((2, 3))
    words = "values from 0 to 255; grey values from 0 to 255 are divided by 255 first"
    fnp.bernoulli_log_prob(x, logits)
    for name, call in {
        "bernoulli_log_prob": lambda: fnp.bernoulli_log_prob(x, logits, validate_args=True),
        "continuous_bernoulli_log_prob": lambda: fnp.continuous_bernoulli_log_prob(x, logits, validate_args=True),
        "linear_bernoulli_log_prob": lambda: fnp.linear_bernoulli_log_prob(
            np.zeros((1, 3)), weight, None, x, validate_args=True
        ),
        "mlp_bernoulli_log_prob": lambda: fnp.mlp_bernoulli_log_prob(
            np.zeros((1, 3)), [weight], None, x, validate_args=True
        ),
    }.items():
        with pytest.raises(ValueError, match=rf"^{name}: x must lie in \[0, 1\], got {words}$"):
            call()


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
@pytest.mark.parametrize("name", ["prior_mean", "prior_logvar"])
@pytest.mark.parametrize("operation", ["kl_normal", "rsample_normal_with_log_ratio"])
def test_errors_name_the_prior_that_was_given(operation, name, dtype):
    values = np.zeros((2, 3), np.float32)
    samples = {"num_samples": 2} if operation.startswith("rsample") else {}
    with pytest.raises(TypeError, match=f"^{operation}: {name} has dtype {np.dtype(dtype)}"):
        getattr(fnp, operation)(values, values, **samples, **{name: np.zeros(3, dtype)})


def test_results_too_large_for_float16_are_infinite_without_a_warning():
    """Their arithmetic is float32, and warnings are errors in these tests."""
    large, weight = np.full((1, 2), 300.0, np.float16), np.full((2, 2), 300.0, np.float16)
    x = np.zeros((1, 2), np.float16)
    found = [
        fnp.kinetic_energy(large, 2.0),
        fnp.linear_bernoulli_log_prob(large, weight, None, x),
        fnp.mlp(large, [weight]),
        fnp.mlp_bernoulli_log_prob(large, [weight], None, x),
    ]
    assert [float(each.ravel()[0]) for each in found] == [np.inf, -np.inf, np.inf, -np.inf]
