"""Results of the operations: equal to the plain formulas for every layout of memory, right in the corners."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor

import fastvi
from support.operations import LARGE, PERCEPTRONS, SAMPLES, TYPICAL, Sample, as_tuple, gradients
from support.place import place

ROUNDING = {"rtol": 1e-12, "atol": 1e-12}
"""Another order of the same float64 operations: sums of some tens of terms of size one."""

LONG_ROUNDING = {"rtol": 1e-11, "atol": 1e-10}
"""The same for sums of tens of thousands of terms."""

SINGLE = {"rtol": 1e-5, "atol": 1e-5}
"""float32 keeps 6e-8 of each term; the terms are below 20, there are some tens of them, and they cancel."""


def ids(samples: list[Sample]) -> dict[str, object]:
    return {"argvalues": samples, "ids": str}


def double(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in tensors]


@pytest.mark.parametrize("sample", **ids(SAMPLES))
def test_float64_is_the_formula(sample):
    tensors = sample.tensors()
    for result, expected in zip(as_tuple(sample.call(*tensors)), as_tuple(sample.twin(*tensors)), strict=True):
        assert result.is_contiguous()
        torch.testing.assert_close(result, expected, **ROUNDING)


# Half precision is rounded once for each result, and again where gradients of broadcast arguments are added up; `eps`
# is twice the error of one rounding.
NARROW = {
    torch.float32: SINGLE,
    torch.bfloat16: {"rtol": torch.finfo(torch.bfloat16).eps, "atol": 1e-5},
    torch.float16: {"rtol": torch.finfo(torch.float16).eps, "atol": 1e-5},
}


def assert_is_formula(sample: Sample, dtype: torch.dtype, rtol: float, atol: float, of_largest: bool = False) -> None:
    """Values and gradients, in the dtype of the arguments: the formula's of the same numbers in float64, rounded.

    ``atol`` may be in units of a tensor's largest element: terms as large cancel in the others.
    """
    tensors = sample.tensors(dtype, requires_grad=True)
    formula = double(tensors)
    found = (*as_tuple(sample.call(*tensors)), *gradients(sample.call, tensors))
    expected = (*as_tuple(sample.twin(*formula)), *gradients(sample.twin, formula))
    subnormal = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps  # the least one: not that little in float16
    for result, exact in zip(found, expected, strict=True):
        assert result.dtype == dtype
        unit = exact.abs().max().item() if of_largest else 1.0
        rounded = exact.to(dtype)  # which may be infinite in float16
        torch.testing.assert_close(result.double(), rounded.double(), rtol=rtol, atol=atol * unit + subnormal)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("sample", **ids(SAMPLES))
def test_narrower_types_are_the_formula(sample, dtype):
    assert_is_formula(sample, dtype, **NARROW[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, *NARROW], ids=str)
@pytest.mark.parametrize("sample", **ids(LARGE))
def test_large_is_the_formula(sample, dtype):
    """Rows cut into pieces, and gradients summed over samples."""
    if dtype == torch.float64:
        assert_is_formula(sample, dtype, **LONG_ROUNDING)
    else:
        assert_is_formula(sample, dtype, **NARROW[dtype], of_largest=True)


def transposed(tensor: Tensor) -> Tensor:
    return tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor


def stepped(tensor: Tensor) -> Tensor:
    """Every second column of a wider one, from the second on."""
    return torch.stack((torch.full_like(tensor, math.nan), tensor), -1)[..., 1]


def second_half(tensor: Tensor) -> Tensor:
    """As ``chunk(2, -1)`` cuts it from what a network returns."""
    if tensor.dim() == 0:
        return tensor
    return torch.cat((torch.full_like(tensor, math.nan), tensor), -1).chunk(2, -1)[1]


def front_axis_last(tensor: Tensor) -> Tensor:
    return tensor.movedim(0, -1).contiguous().movedim(-1, 0) if tensor.dim() > 1 else tensor


def negative_view(tensor: Tensor) -> Tensor:
    """A tensor that PyTorch negates lazily."""
    view = torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
    assert view.is_neg()
    return view


def unaligned(tensor: Tensor) -> Tensor:
    """One element into its memory: not at a multiple of a vector's width."""
    return torch.cat((place.full((1,), math.nan, dtype=tensor.dtype), tensor.flatten()))[1:].view(tensor.shape)


LAYOUTS = [transposed, stepped, second_half, front_axis_last, negative_view, unaligned]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("sample", **ids(SAMPLES))
def test_any_layout(sample, layout):
    tensors = sample.tensors(requires_grad=True)
    expected = as_tuple(sample.call(*tensors))
    expected_gradients = gradients(sample.call, tensors)
    moved = [layout(tensor.detach()).requires_grad_() for tensor in tensors]
    for result, contiguous in zip(as_tuple(sample.call(*moved)), expected, strict=True):
        torch.testing.assert_close(result, contiguous, **ROUNDING)
    for result, contiguous in zip(gradients(sample.call, moved), expected_gradients, strict=True):
        torch.testing.assert_close(result, contiguous, **ROUNDING)


@pytest.mark.parametrize("sample", **ids([sample for sample in SAMPLES if not sample.is_empty]))
def test_expanded(sample):
    """Stride zero where an argument could as well have size one."""
    for axis in (0, -1):
        narrow = [tensor.narrow(axis, 0, 1) if tensor.dim() else tensor for tensor in sample.tensors()]
        expanded = [
            tensor.expand(argument.shape).requires_grad_()
            for tensor, argument in zip(narrow, sample.arguments.values(), strict=True)
        ]
        copied = [tensor.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for tensor in expanded]
        for result, expected in zip(as_tuple(sample.call(*expanded)), as_tuple(sample.call(*copied)), strict=True):
            torch.testing.assert_close(result, expected, **ROUNDING)
        for result, expected in zip(gradients(sample.call, expanded), gradients(sample.call, copied), strict=True):
            torch.testing.assert_close(result, expected, **ROUNDING)


SPECIAL = [math.nan, math.inf, -math.inf, -0.0, 1e-30, 1e30, -1e30]


# Detaching changes no value; with free bits the formula's clamp hides a NaN from the gradient. Tested below.
SPECIAL_SAMPLES = [
    sample for sample in TYPICAL if sample.gradient_is_the_derivative and "free_bits" not in sample.constants
]


def with_value(sample: Sample, i: int, value: float, dtype: torch.dtype) -> list[Tensor]:
    tensors = sample.tensors(dtype)
    tensors[i].view(-1)[0] = value
    return [tensor.requires_grad_() for tensor in tensors]


def limit_of_formula(result: Tensor, formula: Tensor, value: float) -> Tensor:
    """The formula's value; where it makes NaN of an infinity (inf - inf, inf / inf) what we return may be the limit."""
    return formula if math.isnan(value) else torch.where(formula.isnan(), result, formula)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("value", SPECIAL)
@pytest.mark.parametrize("sample", **ids(SPECIAL_SAMPLES))
def test_special_values_flow_as_in_the_formula(sample, value, dtype):
    """Each argument in turn has a special value in one place; NaN stays in its row, and so in its gradients."""
    for i in range(len(sample.names)):
        tensors = with_value(sample, i, value, dtype)
        results, formulas = as_tuple(sample.call(*tensors)), as_tuple(sample.twin(*tensors))
        for result, formula in zip(results, formulas, strict=True):
            torch.testing.assert_close(result, limit_of_formula(result, formula, value), **SINGLE, equal_nan=True)
        # Plain sums: with upstream gradients of both signs it would depend on the order whether infinities meet.
        slopes, formula_slopes = (
            torch.autograd.grad(sum(output.sum() for output in outputs), tensors, materialize_grads=True)
            for outputs in (results, formulas)
        )
        for slope, formula in zip(slopes, formula_slopes, strict=True):
            expected, tolerance = limit_of_formula(slope, formula, value), dict(SINGLE)
            if sample.operation in PERCEPTRONS:  # the huge terms of a sum over units may cancel
                tolerance["atol"] *= max(1.0, expected.nan_to_num(1.0, 1.0, 1.0).abs().max().item())
            torch.testing.assert_close(slope, expected, **tolerance, equal_nan=True)


def test_limits_that_the_formulas_miss():
    """Where the plain formula says inf - inf."""
    zero, one, infinity = place.zeros(1), place.ones(1), place.full((1,), math.inf)
    assert fastvi.kl_normal(zero, infinity) == math.inf
    assert fastvi.kl_normal(zero, -infinity) == math.inf
    assert fastvi.kl_normal(zero, infinity, free_bits=0.5) == math.inf
    assert fastvi.kl_normal(one, zero, zero, -infinity) == math.inf


@pytest.mark.parametrize("name", ["mean", "logvar", "prior_mean", "prior_logvar"])
def test_free_bits_do_not_hide_nan(name):
    arguments = {each: place.zeros(2, 3) for each in ("mean", "logvar", "prior_mean", "prior_logvar")}
    arguments[name][0, 1] = math.nan
    divergence = fastvi.kl_normal(**arguments, free_bits=0.5)
    torch.testing.assert_close(divergence, place.tensor([math.nan, 1.5]), equal_nan=True)


@pytest.mark.parametrize("logit", [-1000.0, -100.0, 100.0, 1000.0])
def test_large_logits(logit):
    """No overflow on any route: the kernels', the plain formula's, and its derivatives'."""
    weight = place.full((1, 1), logit)
    h, x = place.ones(1), place.full((1,), 0.25)
    expected = 0.25 * logit - max(logit, 0.0)
    slope = place.tensor([0.25 - (logit > 0)])
    for function in (fastvi.bernoulli_log_prob, fastvi.reference.bernoulli_log_prob):
        assert function(x, weight[0]) == expected
        assert torch.equal(torch.func.grad(function, argnums=1)(x, weight[0]), slope)
        curvature = torch.func.jacrev(torch.func.grad(function, argnums=1), argnums=1)(x, weight[0])
        assert torch.equal(curvature, place.zeros(1, 1))
    assert fastvi.linear_bernoulli_log_prob(h, weight, None, x) == expected
    by_row = torch.func.vmap(fastvi.linear_bernoulli_log_prob, in_dims=(0, None, None, None))
    assert torch.equal(by_row(h.expand(2, 1), weight, None, x), place.full((2,), expected))


@pytest.mark.parametrize("value", [0.0, *SPECIAL])
def test_detaching_changes_no_value(value):
    mean, logvar = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).to(place.device).unbind()
    logvar[0, 0] = value
    results = [
        fastvi.rsample_normal_with_log_ratio(mean, logvar, 4, detach_posterior=detach, seed=0)
        for detach in (False, True)
    ]
    for result, detached in zip(*results, strict=True):
        torch.testing.assert_close(result, detached, rtol=0, atol=0, equal_nan=True)


def test_closed_forms():
    zeros, ones = place.zeros(2, 3), place.ones(2, 3)
    assert torch.equal(fastvi.kl_normal(zeros, zeros), place.zeros(2))
    assert torch.equal(fastvi.kl_normal(ones, zeros), place.full((2,), 1.5))
    assert torch.equal(fastvi.kl_normal(ones, zeros, ones, zeros), place.zeros(2))
    assert torch.equal(fastvi.kl_normal(zeros, zeros, free_bits=0.25), place.full((2,), 0.75))
    log_two_pi = math.log(2 * math.pi)
    torch.testing.assert_close(fastvi.normal_log_prob(zeros, zeros, zeros), place.full((2,), -1.5 * log_two_pi))
    torch.testing.assert_close(fastvi.normal_entropy(zeros), place.full((2,), 1.5 * (1 + log_two_pi)))
    torch.testing.assert_close(fastvi.bernoulli_log_prob(ones, zeros), place.full((2,), -3 * math.log(2)))
    assert torch.equal(fastvi.bernoulli_log_prob(ones, 1e4 * ones), place.zeros(2))
    assert torch.equal(fastvi.bernoulli_log_prob(zeros, 1e4 * ones), place.full((2,), -3e4))
    torch.testing.assert_close(fastvi.log_mean_exp(place.full((7, 2), 1e3)), place.full((2,), 1e3))
    torch.testing.assert_close(fastvi.importance_weights(zeros), place.full((2, 3), 0.5))
    torch.testing.assert_close(fastvi.effective_sample_size(place.full((7,), -1e3)), place.tensor(7.0))
    torch.testing.assert_close(fastvi.kinetic_energy(ones, 2.0), place.full((2,), 3.0))
    z, log_ratio = fastvi.rsample_normal_with_log_ratio(ones, zeros, 4, ones, zeros, seed=0)
    assert torch.equal(z, fastvi.rsample_normal(ones, zeros, 4, seed=0))
    torch.testing.assert_close(log_ratio, place.zeros(4, 2), rtol=0, atol=2e-6)  # 3 terms of size 5 that cancel


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("logvar", [1e-8, -1e-8, 1e-4, -1e-4, 0.1, -0.1, 3.0, -3.0])
def test_small_divergences_keep_their_digits(logvar, dtype):
    """KL = (e^l - 1 - l) / 2, which is 2.5e-17 for l = 1e-8: the digits are gone once e^l is rounded."""
    given = place.tensor([logvar], dtype=dtype)
    with mpmath.workdps(50):
        exact = mpmath.mpf(given.item())
        expected = float((mpmath.exp(exact) - 1 - exact) / 2)
        expected_slope = float((mpmath.exp(exact) - 1) / 2)
    given.requires_grad_()
    divergence = fastvi.kl_normal(place.zeros(1, dtype=dtype), given)
    ulps = 4 * torch.finfo(dtype).eps  # 2 from the exponential, the rest from what follows it
    assert divergence.item() == pytest.approx(expected, rel=ulps, abs=0)
    divergence.backward()
    assert given.grad is not None
    assert given.grad.item() == pytest.approx(expected_slope, rel=ulps, abs=0)


INFINITY = math.inf


@pytest.mark.parametrize(
    ("column", "expected", "slope"),
    [
        ([-INFINITY, -INFINITY], -INFINITY, [0.0, 0.0]),
        ([-INFINITY, 1.0], 1.0 - math.log(2), [0.0, 1.0]),
        ([INFINITY, 1.0], INFINITY, None),
        ([INFINITY, INFINITY], INFINITY, None),
        ([INFINITY, -INFINITY], INFINITY, None),
        ([math.nan, 1.0], math.nan, [math.nan, math.nan]),
        ([math.nan, -INFINITY], math.nan, [math.nan, math.nan]),
        ([math.nan, INFINITY], math.nan, [math.nan, math.nan]),
        ([-1e300, -1e300], -1e300, [0.5, 0.5]),
        ([1e300, -1e300], 1e300, [1.0, 0.0]),
    ],
)
@pytest.mark.parametrize("dim", [0, 1])
def test_corners_of_log_mean_exp(column, expected, slope, dim):
    """Among ordinary columns, which they leave alone. The slope at plus infinity has no value that is right."""
    x = place.zeros(2, 3, dtype=torch.float64)
    x[:, 1] = place.tensor(column, dtype=torch.float64)
    x = (x if dim == 0 else x.t().contiguous()).requires_grad_()
    value = fastvi.log_mean_exp(x, dim)
    expected_values = place.tensor([0.0, expected, 0.0], dtype=torch.float64)
    torch.testing.assert_close(value.detach(), expected_values, equal_nan=True)
    value.sum().backward()
    assert x.grad is not None
    by_column = x.grad if dim == 0 else x.grad.t()
    torch.testing.assert_close(by_column[:, ::2], place.full((2, 2), 0.5).double())
    if slope is not None:
        torch.testing.assert_close(by_column[:, 1], place.tensor(slope).double(), equal_nan=True)


def test_second_derivative_of_an_empty_column_is_zero():
    x = place.full((3, 2), -math.inf, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(fastvi.log_mean_exp(x).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert torch.equal(curvature, place.zeros(3, 2).double())


@pytest.mark.parametrize("operation", ["log_mean_exp", "importance_weights", "effective_sample_size"])
def test_empty_reduction_is_refused(operation):
    with pytest.raises(ValueError, match=rf"{operation}: .*\(0, 3\), expected"):
        getattr(fastvi, operation)(place.zeros(0, 3), 0)


def test_log_mean_exp_of_a_million_in_float32():
    """Partial sums: a running float32 sum of a million ones would be off by several per cent in the worst case."""
    x = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0)).to(place.device)
    exact = fastvi.log_mean_exp(x.double())
    torch.testing.assert_close(fastvi.log_mean_exp(x).double(), exact, rtol=0, atol=1e-6)


def test_more_elements_than_32_bits_count():
    """2.4e9 elements of stride zero: an index that overflows would leave memory that is ours."""
    row = torch.randn(1153, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(place.device)
    entropy = fastvi.normal_entropy(row.expand(2048, 1024, 1153))
    assert entropy.shape == (2048, 1024)
    assert bool((entropy == fastvi.normal_entropy(row)).all())


def test_results_own_their_memory():
    """No result is a view of an argument, even where it equals it."""
    q, p, zero = place.ones(3), place.ones(3), place.zeros(3)
    position, momentum = fastvi.leapfrog_step(q, p, zero, 0.0)
    pointers = {tensor.data_ptr() for tensor in (q, p, zero, position, momentum)}
    assert len(pointers) == 5
    z = fastvi.rsample_normal(q, place.full((3,), -math.inf), seed=0)
    assert torch.equal(z, q)
    assert z.data_ptr() != q.data_ptr()


def test_scale_zero_gives_the_mean():
    """logvar = -inf is a scale of zero: the draw is the mean, as in the formula."""
    mean = place.arange(6.0).reshape(2, 3)
    assert torch.equal(fastvi.rsample_normal(mean, place.full((3,), -math.inf), 5, seed=1), mean.expand(5, 2, 3))


@pytest.mark.parametrize("function", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
@pytest.mark.parametrize("sample", **ids(TYPICAL))
def test_without_gradients(sample, function: Callable[[], object]):
    tensors = sample.tensors(requires_grad=True)
    expected = as_tuple(sample.call(*tensors))
    with function():
        results = as_tuple(sample.call(*tensors))
    for result, with_gradient in zip(results, expected, strict=True):
        assert not result.requires_grad
        assert with_gradient.requires_grad
        assert torch.equal(result, with_gradient.detach())
