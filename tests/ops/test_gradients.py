"""Gradients of the operations, first and second order: those of the plain formulas, and of finite differences."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import fastvi
from support.operations import (
    SAMPLES,
    SEED,
    TYPICAL,
    Sample,
    as_tuple,
    backward_call,
    derivative,
    gradients,
    weighted_sum,
)
from support.place import place

ROUNDING = {"rtol": 1e-11, "atol": 1e-11}
"""Another order of the same float64 operations, twice differentiated."""

DIFFERENTIABLE = [sample for sample in SAMPLES if sample.gradient_is_the_derivative and not sample.is_empty]


@pytest.mark.parametrize("sample", DIFFERENTIABLE, ids=str)
def test_finite_differences(sample):
    assert torch.autograd.gradcheck(sample.call, sample.tensors(requires_grad=True))


@pytest.mark.parametrize("sample", DIFFERENTIABLE, ids=str)
def test_finite_differences_of_gradients(sample):
    """In a random direction each: `fast_mode` compares products with the Jacobian, not all of its elements."""
    assert torch.autograd.gradgradcheck(sample.call, sample.tensors(requires_grad=True), fast_mode=True)


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_first_order_is_the_formulas(sample):
    tensors = sample.tensors(requires_grad=True)
    for result, expected, tensor in zip(
        gradients(sample.call, tensors), gradients(sample.twin, tensors), tensors, strict=True
    ):
        assert result.shape == tensor.shape
        torch.testing.assert_close(result, expected, **ROUNDING)


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_second_order_is_the_formulas(sample):
    tensors = sample.tensors(requires_grad=True)
    for result, expected in zip(
        gradients(derivative(sample.call), tensors), gradients(derivative(sample.twin), tensors), strict=True
    ):
        torch.testing.assert_close(result, expected, **ROUNDING)


@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_third_order_is_the_formulas(sample):
    tensors = sample.tensors(requires_grad=True)
    for result, expected in zip(
        gradients(derivative(derivative(sample.call)), tensors),
        gradients(derivative(derivative(sample.twin)), tensors),
        strict=True,
    ):
        torch.testing.assert_close(result, expected, **ROUNDING)


@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_any_subset_of_the_arguments(sample):
    """What needs no gradient gets none and changes nothing, at either order."""
    complete = gradients(sample.call, sample.tensors(requires_grad=True))
    for chosen in itertools.product((False, True), repeat=len(sample.names)):
        if not any(chosen):
            continue
        tensors = [tensor.requires_grad_(each) for tensor, each in zip(sample.tensors(), chosen, strict=True)]
        weighted_sum(sample.call(*tensors)).backward()
        for tensor, each, expected in zip(tensors, chosen, complete, strict=True):
            if each:
                torch.testing.assert_close(tensor.grad, expected, **ROUNDING)
            else:
                assert tensor.grad is None
        for result, expected in zip(
            gradients(derivative(sample.call), tensors), gradients(derivative(sample.twin), tensors), strict=True
        ):
            torch.testing.assert_close(result, expected, **ROUNDING)


@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_only_what_is_needed_is_computed(sample):
    """The backward operator leaves every other gradient empty."""
    for name, tensor in zip(sample.names, sample.tensors(), strict=True):
        operator, arguments = backward_call(sample, wanted=[name])
        found = [each for each in as_tuple(operator(*arguments)) if each.numel()]
        assert [each.shape for each in found] == [tensor.shape]


@pytest.mark.parametrize("sample", [s for s in TYPICAL if len(as_tuple(s.call(*s.tensors()))) > 1], ids=str)
def test_one_of_several_outputs(sample):
    for i in range(2):
        tensors = sample.tensors(requires_grad=True)

        def one(function, i=i):
            return lambda *arguments: function(*arguments)[i]

        ours, formula = one(sample.call), one(sample.twin)
        for function, twin in ((ours, formula), (derivative(ours), derivative(formula))):
            for result, expected in zip(gradients(function, tensors), gradients(twin, tensors), strict=True):
                torch.testing.assert_close(result, expected, **ROUNDING)


def strided_upstreams(output: Tensor) -> dict[str, Tensor]:
    values = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype).to(place.device)
    return {
        "of a sum": place.ones((), dtype=output.dtype).expand(output.shape),
        "transposed": values.mT.contiguous().mT if values.dim() > 1 else values,
        "stepped": torch.stack((values, values), -1)[..., 1],
        "a row for all": values[:1].expand(output.shape),
        "a column for all": values[..., :1].expand(output.shape),
        "negated lazily": torch.complex(values, values).conj().imag,
    }


@pytest.mark.parametrize("sample", [sample for sample in SAMPLES if not sample.is_empty], ids=str)
def test_upstream_gradients_of_any_layout(sample):
    tensors = sample.tensors(requires_grad=True)
    outputs, expected_outputs = as_tuple(sample.call(*tensors)), as_tuple(sample.twin(*tensors))
    choices = [strided_upstreams(output) if output.dim() else {} for output in outputs]
    for name in choices[0]:
        upstream = [each.get(name, next(iter(each.values()), None)) for each in choices]
        found = torch.autograd.grad(outputs, tensors, upstream, retain_graph=True, materialize_grads=True)
        expected = torch.autograd.grad(expected_outputs, tensors, upstream, retain_graph=True, materialize_grads=True)
        for result, formula in zip(found, expected, strict=True):
            torch.testing.assert_close(result, formula, **ROUNDING, msg=lambda message, name=name: f"{name}: {message}")


@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_graph_is_kept_and_freed(sample):
    """Gradients accumulate; a graph that was freed is not run again."""
    tensors = sample.tensors(requires_grad=True)
    number = weighted_sum(sample.call(*tensors))
    number.backward(retain_graph=True)
    once = [tensor.grad.clone() for tensor in tensors]
    number.backward()
    for tensor, first in zip(tensors, once, strict=True):
        torch.testing.assert_close(tensor.grad, 2 * first, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="second time"):
        number.backward()


def test_change_of_an_argument_in_place_is_noticed():
    mean, logvar = place.zeros(3, 2, requires_grad=True), place.zeros(3, 2, requires_grad=True)
    scaled = mean * 2
    divergence = fastvi.kl_normal(scaled, logvar)
    scaled.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        divergence.sum().backward()


def test_double_backward_among_other_terms():
    """A gradient penalty: first-order terms, the operation's and others', squared and differentiated again."""
    results = []
    for kl_normal in (fastvi.kl_normal, fastvi.reference.kl_normal):
        mean = place.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3).requires_grad_()
        logvar = (mean.detach() / 2).requires_grad_()
        objective = kl_normal(mean, logvar).square().sum() + (mean**3 * logvar).sum()
        slopes = torch.autograd.grad(objective, (mean, logvar), create_graph=True)
        penalty = objective + sum(slope.square().sum() for slope in slopes)
        results.append(torch.autograd.grad(penalty, (mean, logvar)))
    for result, expected in zip(*results, strict=True):
        torch.testing.assert_close(result, expected, **ROUNDING)


def test_same_tensor_twice():
    """As mean and as logvar at once: both gradients are added."""
    for sample_twin in (fastvi.kl_normal, fastvi.reference.kl_normal):
        both = place.linspace(-1, 1, 3, dtype=torch.float64).requires_grad_()
        sample_twin(both, both).backward()
        expected = both.detach() + torch.expm1(both.detach()) / 2
        torch.testing.assert_close(both.grad, expected, **ROUNDING)


def test_detached_posterior_stops_the_gradient_through_its_density():
    """dz = g (eps / s - z) along the path and nothing else, in the words of the closed form."""
    normal = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = normal.to(place.device).requires_grad_()
    logvar = (mean.detach().flip(0) / 2).requires_grad_()
    z, log_ratio = fastvi.rsample_normal_with_log_ratio(mean, logvar, 5, detach_posterior=True, seed=2)
    log_ratio.sum().backward()
    scale = torch.exp(logvar.detach() / 2)
    eps = (z.detach() - mean.detach()) / scale
    along_path = eps / scale - z.detach()
    torch.testing.assert_close(mean.grad, along_path.sum(0), **ROUNDING)
    torch.testing.assert_close(logvar.grad, (along_path * scale * eps / 2).sum(0), **ROUNDING)


def test_free_bits_send_no_gradient_where_they_clamp():
    mean = place.tensor([[0.1, 2.0]], requires_grad=True)
    logvar = place.tensor([[0.0, 0.5]], requires_grad=True)
    fastvi.kl_normal(mean, logvar, free_bits=0.5).sum().backward()
    torch.testing.assert_close(mean.grad, place.tensor([[0.0, 2.0]]))
    torch.testing.assert_close(logvar.grad, torch.expm1(place.tensor([[0.0, 0.5]])) / 2)


@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_raw_operator_has_no_silent_second_order(sample: Sample):
    """torch.ops.fastvi.<operation> is differentiable once; asked for more it says so."""
    tensors = sample.tensors(requires_grad=True)
    operator = getattr(torch.ops.fastvi, sample.operation)
    outputs = as_tuple(operator(*sample.operator_arguments(tensors)))
    number = weighted_sum(outputs[: len(as_tuple(sample.call(*tensors)))])
    first = torch.autograd.grad(number, tensors, create_graph=True, materialize_grads=True)
    for result, expected in zip(first, gradients(sample.call, tensors), strict=True):
        torch.testing.assert_close(result, expected, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match=sample.operation):
        torch.autograd.grad(weighted_sum(first), tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_gradients_of_no_samples_are_zero(dtype):
    """An empty sum, also where what it would be multiplied by is infinite."""
    for extreme in (1e3, -1e3, float("inf"), -float("inf")):
        parameters = [place.full((2, 3), extreme, dtype=dtype, requires_grad=True) for _ in range(4)]
        mean, logvar, prior_mean, prior_logvar = parameters
        z = fastvi.rsample_normal(mean, logvar, (0, 2), seed=SEED)
        ratio = fastvi.rsample_normal_with_log_ratio(mean, logvar, 0, prior_mean, prior_logvar, seed=SEED)
        for outputs in ((z,), ratio):
            number = sum(output.sum() for output in outputs)
            for gradient in torch.autograd.grad(number, parameters, materialize_grads=True):
                assert torch.equal(gradient, torch.zeros_like(gradient))
