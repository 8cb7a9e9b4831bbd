"""The decoder's log-likelihood with its gradient by z as one node: values, derivatives of both, matrix products."""

from __future__ import annotations

import itertools

import pytest
import torch

from fastvi import reference
from fastvi.ops._one_node import Network
from fastvi.ops._with_gradient import log_prob_and_gradient

ACTIVATIONS = ("tanh", "sigmoid", "relu", "softplus", "elu")
WIDTHS = {"one layer": (3, 5), "two layers": (3, 4, 5), "four layers": (3, 6, 4, 7, 5)}


def make(widths, leading=(2, 4), bias=True, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    weights = [normal(wide, narrow) for narrow, wide in itertools.pairwise(widths)]
    biases = [normal(wide) if bias else None for wide in widths[1:]]
    x = torch.rand(leading[-1], widths[-1], generator=generator, dtype=torch.float64).to(dtype).round()
    return normal(*leading, widths[0]), weights, biases, x


def plain(z, weights, biases, x, activation):
    start = z if z.requires_grad else z.detach().requires_grad_()
    value = reference.mlp_bernoulli_log_prob(start, weights, biases, x, activation)
    return value, torch.autograd.grad(value.sum(), start, create_graph=True)[0]


def derivatives(results, leaves, used):
    """By every leaf, of the results times fixed factors."""
    generator = torch.Generator().manual_seed(6)
    total = 0.0
    for result, use in zip(results, used, strict=True):
        factor = torch.randn(result.shape, generator=generator, dtype=torch.float64).to(result.dtype)
        total = total + use * (result * factor).sum() if use else total
    return torch.autograd.grad(total, leaves, materialize_grads=True)


@pytest.mark.parametrize("used", [(True, True), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS.keys())
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_values_and_derivatives_are_those_of_the_formula(activation, widths, used):
    z, weights, biases, x = make(widths)
    found = log_prob_and_gradient(z, x, Network.of(weights, biases, activation))
    expected = plain(z, weights, biases, x, activation)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    leaves = [z, *weights, *biases]
    torch.testing.assert_close(
        derivatives(found, leaves, used), derivatives(expected, leaves, used), rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("frozen", ["z", "weights", "biases", "without biases"])
def test_only_what_is_needed(frozen):
    z, weights, biases, x = make((3, 4, 5), bias=frozen != "without biases")
    for tensor in {"z": [z], "weights": weights, "biases": biases}.get(frozen, []):
        tensor.requires_grad_(False)
    found = log_prob_and_gradient(z, x, Network.of(weights, biases, "tanh"))
    expected = plain(z, weights, biases, x, "tanh")
    leaves = [each for each in (z, *weights, *biases) if each is not None and each.requires_grad]
    torch.testing.assert_close(
        derivatives(found, leaves, (True, True)), derivatives(expected, leaves, (True, True)), rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("leading", [(4,), (2, 4), (3, 2, 4), (0, 4)], ids=str)
def test_any_number_of_samples(leading):
    z, weights, biases, x = make((3, 4, 5), leading)
    found = log_prob_and_gradient(z, x, Network.of(weights, biases, "tanh"))
    expected = plain(z, weights, biases, x, "tanh")
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    leaves = [z, *weights, *biases]
    torch.testing.assert_close(
        derivatives(found, leaves, (True, True)), derivatives(expected, leaves, (True, True)), rtol=1e-11, atol=1e-11
    )


def test_further_derivatives():
    z, weights, biases, x = make((2, 3, 3), (1, 2))

    def function(z, *parameters):
        return log_prob_and_gradient(z, x, Network.of(parameters[:2], parameters[2:], "tanh"))

    assert torch.autograd.gradcheck(function, (z, *weights, *biases))
    assert torch.autograd.gradgradcheck(function, (z, *weights, *biases))


def test_nothing_is_kept_without_gradients():
    z, weights, biases, x = make((3, 4, 5))
    network = Network.of(weights, biases, "tanh")
    expected = [each.detach() for each in log_prob_and_gradient(z, x, network)]
    with torch.no_grad():
        found = log_prob_and_gradient(z, x, network)
    with torch.inference_mode():
        inferred = log_prob_and_gradient(z.detach(), x, network)
    assert not any(each.requires_grad for each in (*found, *inferred))
    torch.testing.assert_close([list(found), list(inferred)], [expected, expected], rtol=0.0, atol=0.0)


def test_float32():
    z, weights, biases, x = make((3, 6, 5), dtype=torch.float32)
    found = log_prob_and_gradient(z, x, Network.of(weights, biases, "tanh"))
    exact = [each.detach().double().requires_grad_() for each in (z, *weights, *biases)]
    expected = plain(exact[0], exact[1:3], exact[3:], x.double(), "tanh")
    pairs = [(found, expected)]
    pairs.append((derivatives(found, [z, *weights, *biases], (1, 1)), derivatives(expected, exact, (1, 1))))
    for values, targets in pairs:
        for value, target in zip(values, targets, strict=True):
            torch.testing.assert_close(value.double(), target, rtol=1e-4, atol=1e-5 * target.abs().max().item())


def test_what_it_is_not_made_for_is_left_to_the_operations():
    z, weights, biases, x = make((3, 4, 5))
    assert log_prob_and_gradient(z, x, Network.of(weights, biases, "silu")) is None
    assert log_prob_and_gradient(z, x.clone().requires_grad_(), Network.of(weights, biases, "tanh")) is None
    assert log_prob_and_gradient(z, x[:1], Network.of(weights, biases, "tanh")) is None
    halves = [[each.half() for each in group] for group in (weights, biases)]
    assert log_prob_and_gradient(z.half(), x.half(), Network.of(*halves, "tanh")) is None
    z, weights, biases, x = make((3, 4, 5), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert log_prob_and_gradient(z, x, Network.of(weights, biases, "tanh")) is None


@pytest.mark.cpu_kernels
def test_six_products_a_layer():
    """Two forward and four backward; of more rows than the native perceptron takes, so that all are PyTorch's."""
    rows, widths = 600, (3, 4, 6, 5)
    z, weights, biases, x = make(widths, (rows // 4, 4), dtype=torch.float32)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], with_flops=True) as recorded:
        found = log_prob_and_gradient(z, x, Network.of(weights, biases, "tanh"))
        derivatives(found, [z, *weights, *biases], (True, True))
    averages = recorded.key_averages()
    count = sum(event.count for event in averages if event.key in ("aten::mm", "aten::addmm_"))
    assert count == 6 * 3
