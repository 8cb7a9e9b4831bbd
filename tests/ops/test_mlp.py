"""Perceptrons: more layers than one operation takes, graphs that share tensors, and what is kept between the passes."""

from __future__ import annotations

import copy
import math
import threading

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import fastvi
from fastvi import reference
from fastvi._perceptron import ACTIVATIONS
from support.place import place

ROUNDING = {"rtol": 1e-11, "atol": 1e-11}
"""Another order of the same float64 operations."""


def layers(*widths: int, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(sum(widths))

    def normal(*shape: int) -> Tensor:
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(shape[-1])
        return drawn.to(place.device, dtype).requires_grad_()

    pairs = list(zip(widths[1:], widths, strict=False))
    return [normal(*shape) for shape in pairs], [normal(width) for width, _ in pairs]


def data(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(place.device, dtype)


def number(output: Tensor) -> Tensor:
    return (
        output * torch.cos(torch.arange(output.numel(), device=output.device, dtype=output.dtype)).view_as(output)
    ).sum()


def assert_all_close(found, expected):
    for result, formula in zip(found, expected, strict=True):
        torch.testing.assert_close(result, formula, **ROUNDING)


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("activate_last", [False, True])
@pytest.mark.parametrize("depth", [4, 5, 8, 9])
def test_any_depth(depth, activate_last, activation):
    """Beyond four layers the operation is applied several times."""
    weights, biases = layers(*[5 + i % 3 for i in range(depth + 1)])
    some: list[Tensor | None] = [bias if i % 2 else None for i, bias in enumerate(biases)]
    x = data(3, 5).requires_grad_()
    wanted = [x, *weights, *biases[1::2]]
    found, expected = (module.mlp(x, weights, some, activation, activate_last) for module in (fastvi, reference))
    torch.testing.assert_close(found, expected, **ROUNDING)
    assert_all_close(*(torch.autograd.grad(number(each), wanted) for each in (found, expected)))
    target = torch.rand(3, weights[-1].shape[0], dtype=torch.float64).to(place.device)
    found, expected = (
        module.mlp_bernoulli_log_prob(x, weights, some, target, activation) for module in (fastvi, reference)
    )
    torch.testing.assert_close(found, expected, **ROUNDING)
    assert_all_close(*(torch.autograd.grad(number(each), wanted) for each in (found, expected)))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_pytorchs(activation):
    """Those of its modules, but where PyTorch's approximate: softplus above 20, gelu below -5."""
    modules = {"tanh": "Tanh", "sigmoid": "Sigmoid", "relu": "ReLU", "softplus": "Softplus"}
    module = getattr(torch.nn, modules.get(activation, activation.upper() if activation != "silu" else "SiLU"))()
    x = place.linspace(-5, 20, 1001, dtype=torch.float64).unsqueeze(1)
    one = place.ones(1, 1, dtype=torch.float64)
    torch.testing.assert_close(fastvi.mlp(x, [one], None, activation, True), module(x), rtol=1e-12, atol=1e-12)


def test_where_there_is_no_derivative_it_is_zero():
    """As PyTorch has it for relu at zero."""
    zero = place.zeros(1, 1, requires_grad=True)
    value = fastvi.mlp(zero, [place.ones(1, 1)], None, "relu", True)
    assert torch.autograd.grad(value.sum(), zero)[0] == 0.0


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_graphs_do_not_share_what_they_keep(activation):
    """Two forward passes before the backward passes, in either order, and each backward pass twice."""
    weights, biases = layers(4, 6, 5, 3)
    inputs = [data(7, 4), 2.0 * data(7, 4)]
    expected = [torch.autograd.grad(number(reference.mlp(x, weights, biases, activation)), weights) for x in inputs]
    for order in ((0, 1), (1, 0), (0, 1, 0, 1), (1, 1, 0, 0)):
        outputs = [fastvi.mlp(x, weights, biases, activation) for x in inputs]
        for i in order:
            assert_all_close(torch.autograd.grad(number(outputs[i]), weights, retain_graph=True), expected[i])


@pytest.mark.parametrize("activation", ["tanh", "silu"])
def test_threads_do_not_share_what_they_keep(activation):
    weights, biases = layers(20, 30, 25, 10)
    inputs = [data(200, 20) * (i + 1) for i in range(4)]
    expected = [torch.autograd.grad(number(reference.mlp(x, weights, biases, activation)), weights) for x in inputs]
    found: dict[tuple[int, int], tuple[Tensor, ...]] = {}

    def work(i: int) -> None:
        for j in range(10):
            found[i, j] = torch.autograd.grad(number(fastvi.mlp(inputs[i], weights, biases, activation)), weights)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 40
    for (i, _), gradients in found.items():
        assert_all_close(gradients, expected[i])


def test_one_weight_in_two_layers():
    (weight,), (bias,) = layers(5, 5)
    x = data(3, 5)
    found, expected = (
        torch.autograd.grad(number(module.mlp(x, [weight, weight, weight], [bias, None, bias])), (weight, bias))
        for module in (fastvi, reference)
    )
    assert_all_close(found, expected)
    square = data(5, 5).requires_grad_()  # and as the data
    found, expected = (
        torch.autograd.grad(number(module.mlp(square, [square, weight])), (square, weight))
        for module in (fastvi, reference)
    )
    assert_all_close(found, expected)


def test_second_derivatives_of_the_parameters():
    weights, biases = layers(4, 6, 3)
    x = data(3, 4).requires_grad_()
    leaves = [x, *weights, *biases]

    def twice(module):
        first = torch.autograd.grad(number(module.mlp(x, weights, biases)), leaves, create_graph=True)
        return torch.autograd.grad(sum(gradient.square().sum() for gradient in first), leaves, materialize_grads=True)

    assert_all_close(twice(fastvi), twice(reference))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(use_reentrant):
    weights, biases = layers(4, 6, 3)
    x = data(3, 4).requires_grad_()
    number(checkpoint(fastvi.mlp, x, weights, biases, "elu", use_reentrant=use_reentrant)).backward()
    expected = torch.autograd.grad(number(reference.mlp(x, weights, biases, "elu")), x)
    assert_all_close([x.grad], expected)


@pytest.mark.parametrize("which", ["weight", "bias", "x", "targets"])
def test_a_change_between_the_passes_is_pytorchs_error(which):
    weights, biases = layers(4, 6, 3)
    x, targets = data(3, 4), data(3, 3).sigmoid()
    outputs = [fastvi.mlp(x, weights, biases), fastvi.mlp_bernoulli_log_prob(x, weights, biases, targets)]
    with torch.no_grad():
        {"weight": weights[1], "bias": biases[0], "x": x, "targets": targets}[which].mul_(2.0)
    for output in outputs[1:] if which == "targets" else outputs:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.sum().backward()


@pytest.mark.parametrize("activate_last", [False, True])
def test_the_result_may_be_changed_in_place(activate_last):
    """The backward pass has a copy of its own of what it reads."""
    weights, biases = layers(4, 6, 3)
    x = data(3, 4)
    output = fastvi.mlp(x, weights, biases, "softplus", activate_last).mul_(2.0)
    expected = 2.0 * reference.mlp(x, weights, biases, "softplus", activate_last)
    assert_all_close(*(torch.autograd.grad(number(each), weights) for each in (output, expected)))


@pytest.mark.parametrize("change", [lambda t: t, lambda t: t.t().contiguous().t() if t.dim() == 2 else t.clone()])
def test_hooks_on_saved_tensors(change):
    """They see tensors, as autograd saves them, and may hand others back: elsewhere in memory, laid out otherwise."""
    weights, biases = layers(4, 6, 3)
    x = data(3, 4).requires_grad_()
    seen = []

    def pack(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        return torch.cat((tensor.reshape(-1)[:1], tensor.reshape(-1))).detach()

    def unpack(packed: Tensor) -> Tensor:
        original = next(
            each for each in seen if each.numel() == packed.numel() - 1 and torch.equal(each.reshape(-1), packed[1:])
        )
        return change(packed[1:].view(original.shape))

    for activation in ("tanh", "gelu"):
        seen.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            output = fastvi.mlp(x, weights, biases, activation)
        expected = torch.autograd.grad(number(reference.mlp(x, weights, biases, activation)), [x, *weights])
        assert_all_close(torch.autograd.grad(number(output), [x, *weights]), expected)


def test_saved_memory_of_another_size_is_refused():
    weights, biases = layers(4, 6, 3)
    x = data(3, 4)
    for call in (
        lambda: fastvi.mlp(x, weights, biases),
        lambda: fastvi.mlp_bernoulli_log_prob(x, weights, biases, data(3, 3).sigmoid()),
    ):
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: t, lambda t: t[:2] if t.dim() == 1 and len(t) == 18 else t
        ):
            output = call()
        with pytest.raises(ValueError, match=r"expected|elements"):
            output.sum().backward()


def test_weights_of_any_strides():
    weights, biases = layers(4, 6, 3)
    x = data(5, 4)
    strided = [weight.detach().t().contiguous().t().requires_grad_() for weight in weights]
    gaps = [torch.stack((bias, bias), 1).detach()[:, 0].requires_grad_() for bias in biases]
    assert not any(tensor.is_contiguous() for tensor in (*strided, *gaps))
    for inputs in (x, x.t().contiguous().t(), x[:1].expand(5, 4), torch.cat((x, x), 1)[:, ::2]):
        found = fastvi.mlp(inputs, strided, gaps)
        expected = reference.mlp(inputs, weights, biases)
        torch.testing.assert_close(found, expected, **ROUNDING)
        assert_all_close(
            torch.autograd.grad(number(found), [*strided, *gaps]),
            torch.autograd.grad(number(expected), [*weights, *biases]),
        )


def test_autocast_gives_float32():
    weights, biases = layers(4, 6, 3, dtype=torch.float32)
    x = data(3, 4, dtype=torch.float32)
    plain = fastvi.mlp(x, weights, biases)
    with torch.autocast(torch.device(place.device).type, torch.bfloat16):
        rounded = fastvi.mlp(x, weights, biases)
        mixed = fastvi.mlp(x.bfloat16(), [weights[0].bfloat16(), weights[1]], biases)
    for found in (rounded, mixed):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, plain, rtol=0.05, atol=0.05)


@pytest.mark.composition
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_with_lists_of_parameters():
    weights, biases = layers(4, 6, 3)
    parameters = torch.nn.ParameterList([torch.nn.Parameter(weight.detach().clone()) for weight in weights])
    x = data(3, 4)

    def loss(x: Tensor) -> Tensor:
        return number(fastvi.mlp(x, parameters, tuple(biases), "silu"))

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), loss(x), **ROUNDING)
    assert_all_close(*(torch.autograd.grad(each(x), list(parameters)) for each in (compiled, loss)))


@pytest.mark.composition
def test_vmap_over_models():
    """An ensemble: the parameters are stacked, the data are the same."""
    weights, biases = layers(4, 6, 3)
    stacked = [torch.stack((weight.detach(), 2.0 * weight.detach())) for weight in weights]
    x = data(5, 4)

    def call(*some: Tensor) -> Tensor:
        return fastvi.mlp(x, list(some), biases, "softplus")

    found = torch.func.vmap(call)(*stacked)
    assert_all_close(
        found, [reference.mlp(x, [w * scale for w in weights], biases, "softplus") for scale in (1.0, 2.0)]
    )


@pytest.mark.parametrize("widths", [(4, 3), (4, 50, 3), (4, 7, 50, 20, 3)], ids=str)
def test_without_a_graph(widths):
    """The hidden layers take the place of those before the last one."""
    weights, biases = layers(*widths)
    x = data(20, 4)
    with torch.no_grad():
        for activate_last in (False, True):
            found = fastvi.mlp(x, weights, biases, "gelu", activate_last)
            torch.testing.assert_close(found, reference.mlp(x, weights, biases, "gelu", activate_last), **ROUNDING)


@pytest.mark.parametrize(("samples", "batch"), [(1, 3), (7, 100), (600, 2)])
def test_a_likelihood_without_a_graph_takes_blocks_of_rows(samples, batch, chosen_kernels):
    """Rows of several blocks, which end inside the batch: each has the bits that it has alone, where the CPU's run."""
    weights, biases = layers(4, 20, 70, 35)
    z, x = data(samples, batch, 4), data(batch, 35).sigmoid()
    with torch.no_grad():
        found = fastvi.mlp_bernoulli_log_prob(z, weights, biases, x, "tanh")
        torch.testing.assert_close(found, reference.mlp_bernoulli_log_prob(z, weights, biases, x, "tanh"), **ROUNDING)
        some = fastvi.mlp_bernoulli_log_prob(z[-1:, 1:3].contiguous(), weights, biases, x[1:3], "tanh")
        torch.testing.assert_close(some, found[-1:, 1:3], **ROUNDING)
        if place.device == "cpu" and chosen_kernels is None:  # products on other devices are PyTorch's
            assert torch.equal(some, found[-1:, 1:3])


def test_copies_of_parameters_are_independent():
    weights, biases = layers(4, 6, 3)
    other = copy.deepcopy(weights)
    fastvi.mlp(data(3, 4), other, biases).sum().backward()
    assert all(weight.grad is None for weight in weights)
    assert all(weight.grad is not None for weight in other)
