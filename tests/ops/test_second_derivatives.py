"""Second derivatives of perceptrons: by passes of their own where nothing watches, else those of the plain formula."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import fastvi
from fastvi import reference
from fastvi.ops import _precision
from fastvi.ops._operation import OPERATIONS
from support.place import place

ROUNDING = {"rtol": 1e-11, "atol": 1e-11}
"""Another order of the same float64 operations."""

OWN = ["tanh", "sigmoid", "relu", "softplus", "elu"]
"""Activations whose slope and its derivative follow from their value."""

PERCEPTRONS = ("mlp", "mlp_bernoulli_log_prob")


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.to(place.device, dtype)


def layers(
    *widths: int, without_biases: Sequence[int] = (), dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], list[Tensor | None]]:
    weights, biases = [], []
    for i, (before, width) in enumerate(itertools.pairwise(widths)):
        weights.append((normal(width, before, seed=i, dtype=dtype) / math.sqrt(before)).requires_grad_())
        biases.append(None if i in without_biases else normal(width, seed=9 + i, dtype=dtype).requires_grad_())
    return weights, biases


def given(weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> list[Tensor]:
    return [each for layer in zip(weights, biases, strict=True) for each in layer if each is not None]


def targets(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(place.device)


def number(outputs: Sequence[Tensor]) -> Tensor:
    parts = [output * torch.cos(place.arange(output.numel()).to(output)).view_as(output) for output in outputs]
    return torch.stack([part.sum() for part in parts]).sum()


def assert_all_close(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for result, formula in zip(found, expected, strict=True):
        assert result.shape == formula.shape
        torch.testing.assert_close(result, formula, **ROUNDING)


@pytest.fixture
def calls_of_the_formula(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of operations whose plain formula was differentiated."""
    names: list[str] = []
    for name in PERCEPTRONS:
        differentiate = OPERATIONS[name].plain_backward

        def noted(*arguments: Any, name: str = name, differentiate: Callable[..., Any] = differentiate) -> Any:
            names.append(name)
            return differentiate(*arguments)

        monkeypatch.setattr(OPERATIONS[name], "plain_backward", noted)
    return names


def replaced(parameters: Sequence[Tensor], biases: Sequence[Tensor | None]) -> tuple[list[Tensor], list[Tensor | None]]:
    """Weights and biases out of those of :func:`given`."""
    rest = iter(parameters)
    pairs = [(next(rest), None if bias is None else next(rest)) for bias in biases]
    return [weight for weight, _ in pairs], [bias for _, bias in pairs]


@pytest.mark.parametrize("activation", OWN)
@pytest.mark.parametrize("activate_last", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("with_biases", ["all", "some"])
def test_finite_differences(depth, activate_last, activation, with_biases, calls_of_the_formula):
    without = [] if with_biases == "all" else [i for i in range(depth) if i % 2 == 0]
    weights, biases = layers(*[3, 2, 3, 2, 2][: depth + 1], without_biases=without)
    x = normal(2, 3, seed=20).requires_grad_()

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        return fastvi.mlp(x, *replaced(parameters, biases), activation, activate_last)

    assert torch.autograd.gradgradcheck(call, (x, *given(weights, biases)))
    assert calls_of_the_formula == []


@pytest.mark.parametrize("activation", OWN)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("with_biases", ["all", "some"])
def test_finite_differences_of_the_likelihood(depth, activation, with_biases, calls_of_the_formula):
    without = [] if with_biases == "all" else [i for i in range(depth) if i % 2 == 0]
    weights, biases = layers(*[3, 2, 3, 2][:depth], 4, without_biases=without)
    z, x = normal(2, 1, 3, seed=20).requires_grad_(), targets(2, 4)

    def call(z: Tensor, *parameters: Tensor) -> Tensor:
        return fastvi.mlp_bernoulli_log_prob(z, *replaced(parameters, biases), x, activation)

    assert torch.autograd.gradgradcheck(call, (z, *given(weights, biases)))
    assert calls_of_the_formula == []


def assert_any_pair_of_subsets(
    functions: Sequence[Callable[[], Tensor]], leaves: Sequence[Tensor], others: Sequence[Tensor] = ()
) -> None:
    """Gradients by each of the leaves, and by all, differentiated by each of them, by the upstream, and by all."""
    outputs = [function() for function in functions]
    upstream = normal(*outputs[0].shape, seed=30).requires_grad_()
    for first in ([leaf] for leaf in leaves), [leaves]:
        for by in first:
            for twice in [[each] for each in (*leaves, upstream, *others)] + [[*leaves, upstream, *others]]:
                found, expected = (
                    torch.autograd.grad(
                        number(torch.autograd.grad(output, by, upstream, create_graph=True)), twice,
                        retain_graph=True, materialize_grads=True, allow_unused=True,
                    )
                    for output in outputs
                )  # fmt: skip
                assert_all_close(found, expected)


@pytest.mark.parametrize("activation", OWN)
@pytest.mark.parametrize("activate_last", [False, True])
def test_any_outer_gradients_and_any_that_are_wanted(activation, activate_last, calls_of_the_formula):
    weights, biases = layers(4, 5, 3, 2, without_biases=[1])
    x = normal(2, 3, 4, seed=20).requires_grad_()
    assert_any_pair_of_subsets(
        [lambda m=module: m.mlp(x, weights, biases, activation, activate_last) for module in (fastvi, reference)],
        [x, *given(weights, biases)],
    )
    assert calls_of_the_formula == []


@pytest.mark.parametrize("activation", OWN)
@pytest.mark.parametrize(
    ("z_shape", "x_shape"), [((2, 3, 4), (3, 6)), ((3, 4), (2, 3, 6)), ((2, 1, 4), (3, 6)), ((4,), (6,))], ids=str
)
def test_any_outer_gradients_of_the_likelihood(activation, z_shape, x_shape, calls_of_the_formula):
    """x is broadcast over the rows of z and the other way; it may need a gradient in the second derivative."""
    weights, biases = layers(4, 5, 6, without_biases=[0] if activation == "tanh" else [])
    z, x = normal(*z_shape, seed=20).requires_grad_(), targets(*x_shape).requires_grad_()
    assert_any_pair_of_subsets(
        [
            lambda m=module: m.mlp_bernoulli_log_prob(z, weights, biases, x, activation)
            for module in (fastvi, reference)
        ],
        [z, *given(weights, biases)],
        [x],
    )
    assert calls_of_the_formula == []


@pytest.mark.parametrize("operation", PERCEPTRONS)
def test_operands_that_need_no_gradient(operation, calls_of_the_formula):
    weights, biases = layers(4, 5, 3, 6)
    x, observed = normal(7, 4, seed=20), targets(7, 6)
    leaves = [x, *given(weights, biases)]
    for chosen in range(1, 2 ** len(leaves)):
        some = [leaf.requires_grad_(bool(chosen >> i & 1)) for i, leaf in enumerate(leaves)]
        some = [leaf for leaf in some if leaf.requires_grad]
        results = []
        for module in (fastvi, reference):
            last = (observed,) if operation == "mlp_bernoulli_log_prob" else ()
            output = getattr(module, operation)(x, weights, biases, *last)
            first = torch.autograd.grad(output.square().sum(), some, create_graph=True)
            results.append(torch.autograd.grad(number(first), some))
        assert_all_close(*results)
    assert calls_of_the_formula == []


def modules_of(weights: Sequence[Tensor], biases: Sequence[Tensor | None], activation: torch.nn.Module) -> Any:
    stack: list[torch.nn.Module] = []
    for weight, bias in zip(weights, biases, strict=True):
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        stack += [linear, activation]
    return torch.nn.Sequential(*stack[:-1])


@pytest.mark.parametrize("widths", [(4, 6, 5, 3), (4, 6, 5, 4, 3, 5, 6)], ids=str)
def test_gradient_penalty_is_that_of_pytorchs_layers(widths, calls_of_the_formula):
    """Of one operation, and of two that follow each other."""
    weights, biases = layers(*widths)
    x = normal(7, 4, seed=20).requires_grad_()
    module = modules_of(weights, biases, torch.nn.Softplus())

    def penalty(output: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        return (slope.norm(dim=-1) - 1.0).square().mean()

    found = torch.autograd.grad(
        penalty(fastvi.mlp(x, weights, biases, "softplus")), [x, *given(weights, biases)], materialize_grads=True
    )
    expected = torch.autograd.grad(penalty(module(x)), [x, *module.parameters()], materialize_grads=True)
    assert_all_close(found, expected)
    assert calls_of_the_formula == []


def test_product_of_the_hessian_with_a_vector_is_that_of_pytorchs_layers(calls_of_the_formula):
    weights, biases = layers(4, 6, 5, 3)
    z, x = normal(2, 7, 4, seed=20).requires_grad_(), targets(7, 3)
    module = modules_of(weights, biases, torch.nn.Tanh())

    def product(log_likelihood: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(log_likelihood.sum(), leaves, create_graph=True)
        return torch.autograd.grad(first, leaves, [normal(*each.shape, seed=40 + i) for i, each in enumerate(first)])

    found = product(fastvi.mlp_bernoulli_log_prob(z, weights, biases, x), [z, *given(weights, biases)])
    density = torch.distributions.Bernoulli(logits=module(z), validate_args=False)
    assert_all_close(found, product(density.log_prob(x).sum(-1), [z, *module.parameters()]))
    assert calls_of_the_formula == []


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_in_single_precision(scale):
    """As near to float64 as the formula in float32, also where units are saturated and probabilities are 0 or 1."""
    weights, biases = layers(20, 30, 40)
    z, x = normal(50, 20, seed=20) * scale, targets(50, 40).round()
    found = []
    for module, dtype in ((fastvi, torch.float32), (reference, torch.float32), (reference, torch.float64)):
        w, b = ([each.detach().to(dtype).requires_grad_() for each in some] for some in (weights, biases))
        inputs = z.to(dtype).requires_grad_()
        value = module.mlp_bernoulli_log_prob(inputs, w, b, x.to(dtype))
        (slope,) = torch.autograd.grad(value.sum(), inputs, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), [inputs, *w, *b]))
    for ours, formula, exact in zip(*found, strict=True):
        size = exact.abs().max()
        error, formulas = ((each.double() - exact).abs().max() for each in (ours, formula))
        assert error <= 4.0 * formulas + 1e-6 * size


@pytest.mark.parametrize("operation", PERCEPTRONS)
@pytest.mark.parametrize("activation", OWN)
def test_third_derivatives(operation, activation):
    weights, biases = layers(4, 5, 3)
    x, observed = normal(3, 4, seed=20).requires_grad_(), targets(3, 3)
    leaves = [x, *given(weights, biases)]
    results = []
    for module in (fastvi, reference):
        last = (observed, activation) if operation == "mlp_bernoulli_log_prob" else (activation,)
        gradients: Sequence[Tensor] = [getattr(module, operation)(x, weights, biases, *last).square()]
        for _ in range(2):
            gradients = torch.autograd.grad(number(gradients), leaves, create_graph=True, materialize_grads=True)
        results.append(torch.autograd.grad(number(gradients), leaves, materialize_grads=True))
    assert_all_close(*results)


@pytest.mark.parametrize("operation", PERCEPTRONS)
def test_transforms(operation):
    weights, biases = layers(4, 5, 3)
    x, observed = normal(3, 4, seed=20), targets(3)
    fixed = [each.detach() for each in weights], [each.detach() for each in biases]

    def call(module: Any, x: Tensor) -> Tensor:
        last = (observed, "sigmoid") if operation == "mlp_bernoulli_log_prob" else ("sigmoid",)
        return getattr(module, operation)(x, *fixed, *last).sum()

    for transform in (
        torch.func.hessian,
        lambda f: torch.func.jacrev(torch.func.grad(f)),
        lambda f: torch.func.vmap(torch.func.jacrev(torch.func.grad(f))),
        lambda f: torch.func.grad(lambda x: torch.func.grad(f)(x).square().sum()),
    ):
        assert_all_close(*([transform(lambda x, m=module: call(m, x))(x)] for module in (fastvi, reference)))


@pytest.mark.parametrize("operation", PERCEPTRONS)
def test_batched_outer_gradients(operation):
    """``is_grads_batched`` is vmap over the second derivative."""
    weights, biases = layers(4, 5, 3)
    x, observed = normal(3, 4, seed=20).requires_grad_(), targets(3)
    results = []
    for module in (fastvi, reference):
        last = (observed,) if operation == "mlp_bernoulli_log_prob" else ()
        output = getattr(module, operation)(x, weights, biases, *last)
        (slope,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        results.append(
            torch.autograd.grad(slope, [x, weights[0]], torch.stack((slope, 2.0 * slope)), is_grads_batched=True)
        )
    assert_all_close(*results)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("activate_last", [False, True])
def test_nothing_that_was_given_is_overwritten(rows, activate_last):
    weights, biases = layers(4, 5, 3)
    x = normal(rows, 4, seed=20).requires_grad_()
    leaves = [x, *given(weights, biases)]
    upstream = normal(rows, 3, seed=30)
    output = fastvi.mlp(x, weights, biases, "tanh", activate_last)
    for by in [*([leaf] for leaf in leaves), leaves]:
        first = torch.autograd.grad(output, by, upstream, create_graph=True)
        outer = [normal(*each.shape, seed=40) for each in first]
        before = [each.detach().clone() for each in (*leaves, upstream, *outer)]
        once, again = (
            torch.autograd.grad(first, leaves, outer, retain_graph=True, materialize_grads=True) for _ in range(2)
        )
        for each, copy in zip((*leaves, upstream, *outer, *once), (*before, *again), strict=True):
            assert torch.equal(each, copy)


def test_outer_gradients_of_any_strides():
    weights, biases = layers(4, 6, 4)
    x = normal(4, 4, seed=20).requires_grad_()
    leaves = [x, *weights]
    for change in (lambda t: t.t().contiguous().t(), lambda t: t[:1].expand(t.shape), lambda t: torch.cat((t, t), 1)):
        results = []
        for module in (fastvi, reference):
            first = torch.autograd.grad(module.mlp(x, weights, biases).sum(), leaves, create_graph=True)
            outer = [change(normal(*each.shape, seed=40))[:, : each.shape[1]] for each in first]
            results.append(torch.autograd.grad(first, leaves, outer))
        assert_all_close(*results)


def test_saved_tensors_that_come_back_elsewhere():
    """What is kept may lie with gaps when hooks return it."""
    weights, biases = layers(4, 6, 3)
    x, observed = normal(3, 4, seed=20).requires_grad_(), targets(3, 3)
    leaves = [x, *given(weights, biases)]
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: torch.stack((t.detach(), t.detach()), -1), lambda pair: pair[..., 0]
    ):
        output = fastvi.mlp_bernoulli_log_prob(x, weights, biases, observed)
        first = torch.autograd.grad(output.sum(), x, create_graph=True)
    found = torch.autograd.grad(number(first), leaves, materialize_grads=True)
    output = reference.mlp_bernoulli_log_prob(x, weights, biases, observed)
    first = torch.autograd.grad(output.sum(), x, create_graph=True)
    assert_all_close(found, torch.autograd.grad(number(first), leaves, materialize_grads=True))


@pytest.mark.parametrize("operation", PERCEPTRONS)
def test_autocast_around_the_second_derivative_changes_nothing(operation):
    weights, biases = layers(4, 6, 3, dtype=torch.float32)
    x, observed = normal(3, 4, seed=20, dtype=torch.float32).requires_grad_(), targets(3, 3).float()
    leaves = [x, *given(weights, biases)]
    last = (observed,) if operation == "mlp_bernoulli_log_prob" else ()
    output = getattr(fastvi, operation)(x, weights, biases, *last)
    first = torch.autograd.grad(output.square().sum(), leaves, create_graph=True)
    plain = torch.autograd.grad(number(first), leaves, retain_graph=True)
    with torch.autocast(torch.device(place.device).type, torch.bfloat16):
        inside = torch.autograd.grad(number(first), leaves)
    for result, expected in zip(inside, plain, strict=True):
        assert torch.equal(result, expected)


def twice(operation: str, activation: str, dtype: torch.dtype, wants_observed: bool, create_graph: bool) -> Any:
    weights, biases = layers(4, 6, 3, dtype=dtype)
    x, observed = normal(3, 4, seed=20, dtype=dtype).requires_grad_(), targets(3, 3).to(dtype)
    leaves = [x, *given(weights, biases)]
    if wants_observed:
        leaves.append(observed.requires_grad_())
    last = (observed, activation) if operation == "mlp_bernoulli_log_prob" else (activation,)
    output = getattr(fastvi, operation)(x, weights, biases, *last)
    first = torch.autograd.grad(output.square().sum(), leaves, create_graph=True)
    return torch.autograd.grad(number(first), leaves, create_graph=create_graph)


@pytest.mark.parametrize("operation", PERCEPTRONS)
def test_the_formula_is_differentiated_where_it_must_be(operation, calls_of_the_formula):
    """Slopes that were kept, half precision, the gradient by the observations, and third derivatives."""
    twice(operation, "tanh", torch.float32, False, False)
    assert calls_of_the_formula == []
    cases = [("silu", torch.float64, False, False), ("gelu", torch.float32, False, False)]
    cases += [("tanh", torch.bfloat16, False, False), ("tanh", torch.float64, False, True)]
    if operation == "mlp_bernoulli_log_prob":
        cases.append(("tanh", torch.float64, True, False))
    for case in cases:
        calls_of_the_formula.clear()
        twice(operation, *case)
        assert set(calls_of_the_formula) == {operation}


@pytest.mark.parametrize("operation", PERCEPTRONS)
def test_factors_that_autocast_rounds_are_left_to_the_formula(operation, calls_of_the_formula, monkeypatch):
    """In float32, to the second derivative of the operands as they are."""
    monkeypatch.setattr(_precision, "MULTIPLIED_BY_PROCESSOR", frozenset({torch.bfloat16}))
    plain = twice(operation, "tanh", torch.float32, False, False)
    assert calls_of_the_formula == []
    with torch.autocast(torch.device(place.device).type, torch.bfloat16):
        rounded = twice(operation, "tanh", torch.float32, False, False)
    assert set(calls_of_the_formula) == {operation}
    for found, expected in zip(rounded, plain, strict=True):
        assert (found - expected).norm() <= 0.1 * expected.norm()
