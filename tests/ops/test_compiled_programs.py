"""What torch.compile puts into its programs: a VAE's bound as one operator, and perceptrons by whichever is faster."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastvi
from fastvi.models import VAE
from fastvi.objectives import ELBO, IWAE, STL
from fastvi.ops._layers import COMPILED_ROWS
from support.place import place

pytestmark = [pytest.mark.composition, pytest.mark.usefixtures("fresh_compiler")]

OBJECTIVES = [IWAE(1), IWAE(3), STL(3), ELBO(), ELBO(2, beta=0.5)]


class Programs:
    """A backend that runs programs as they are, and has the names of their operators."""

    def __init__(self) -> None:
        self.found: list[set[str]] = []

    def __call__(self, program: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
        self.found.append({node.target.name() for node in program.graph.nodes if hasattr(node.target, "name")})
        return program.forward


def model_and_images(batch: int = 9, dtype: torch.dtype = torch.float64) -> tuple[VAE, Tensor]:
    torch.manual_seed(0)
    model = VAE(12, 3, (7, 5)).to(place.device, dtype)
    return model, torch.rand(batch, 12, generator=torch.Generator().manual_seed(1)).round().to(place.device, dtype)


def with_gradients(bound: Callable[..., Tensor], model: VAE, *arguments: Any) -> list[Tensor]:
    value = bound(*arguments)
    return [value.detach(), *torch.autograd.grad(value.mean(), list(model.parameters()))]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_a_bound_is_one_operator_with_the_same_bits(objective):
    model, x = model_and_images()

    def bound(x, row_offset):
        return objective(model, x, seed=3, row_offset=row_offset)

    programs = Programs()
    compiled = torch.compile(bound, fullgraph=True, backend=programs)
    for found, expected in zip(with_gradients(compiled, model, x, 4), with_gradients(bound, model, x, 4), strict=True):
        assert torch.equal(found, expected)
    assert "fastvi::perceptron_bound" in programs.found[0]


@pytest.mark.parametrize("objective", [IWAE(2), ELBO()], ids=repr)
def test_a_bound_by_the_compiler_of_gradients_too(objective):
    model, x = model_and_images()
    model.posterior_head.requires_grad_(False)
    model.decoder[0].bias.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def bound(x):
        return objective(model, x, seed=3)

    compiled = torch.compile(bound, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (9, 4, 150):
        x = model_and_images(batch)[1]
        found, expected = (torch.autograd.grad(each(x).sum(), trained) for each in (compiled, bound))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_another_batch_is_no_other_program():
    model, _ = model_and_images()
    programs = Programs()
    compiled = torch.compile(lambda x: IWAE(2)(model, x, seed=3), fullgraph=True, backend=programs, dynamic=True)
    for batch in (2, 9, COMPILED_ROWS, COMPILED_ROWS + 7):
        compiled(model_and_images(batch)[1])
    assert len(programs.found) == 1


def test_free_bits_are_inputs_of_the_program():
    """Another number is no other program, and so the parts are asked, whose operator has it as an input."""
    model, x = model_and_images()

    def bound(x, free_bits):
        return ELBO(2, free_bits=free_bits)(model, x, seed=3)

    programs = Programs()
    compiled = torch.compile(bound, fullgraph=True, backend=programs)
    for free_bits in [0.05 + 0.1 * i for i in range(12)]:
        torch.testing.assert_close(compiled(x, free_bits), bound(x, free_bits), rtol=1e-12, atol=1e-13)
    assert len(programs.found) <= 2


def test_a_bound_in_autocast():
    model, x = model_and_images(dtype=torch.float32)

    def bound(x):
        with torch.autocast(place.device, torch.bfloat16):
            return IWAE(2)(model, x, seed=3)

    compiled = torch.compile(bound, fullgraph=True, backend="aot_eager")
    for found, expected in zip(with_gradients(compiled, model, x), with_gradients(bound, model, x), strict=True):
        assert torch.equal(found, expected)


def test_draws_of_the_generator():
    model, x = model_and_images()
    compiled = torch.compile(lambda x: IWAE(2)(model, x), fullgraph=True, backend="aot_eager")
    found = []
    for bound in (compiled, lambda x: IWAE(2)(model, x)):
        torch.manual_seed(5)
        found.append(bound(x))
    assert torch.equal(*found)


def with_hook(model: VAE) -> None:
    model.decoder[0].register_forward_hook(lambda module, inputs, output: output * 2)


def with_own_encode(model: VAE) -> None:
    encode = model.encode
    model.encode = lambda x: tuple(2 * each for each in encode(x))


def with_prior(model: VAE) -> None:
    model.prior_mean = torch.nn.Parameter(torch.ones(3, dtype=torch.float64, device=place.device))


def without_gradients(model: VAE) -> None:
    model.requires_grad_(False)


@pytest.mark.parametrize("change", [with_hook, with_own_encode, with_prior, without_gradients])
def test_what_makes_the_model_another_one(change):
    model, x = model_and_images()
    change(model)
    programs = Programs()
    compiled = torch.compile(lambda x: IWAE(2)(model, x, seed=3), fullgraph=True, backend=programs)
    torch.testing.assert_close(compiled(x), IWAE(2)(model, x, seed=3), rtol=1e-12, atol=1e-13)
    if change is not without_gradients:
        assert "fastvi::perceptron_bound" not in programs.found[0]


def layers(*sizes: int) -> tuple[list[Tensor], list[Tensor]]:
    torch.manual_seed(0)
    linear = [
        torch.nn.Linear(fan_in, fan_out, dtype=torch.float64, device=place.device)
        for fan_in, fan_out in itertools.pairwise(sizes)
    ]
    return [each.weight for each in linear], [each.bias for each in linear]


WEIGHTS, BIASES = layers(4, 6, 5)


def observations(h: Tensor) -> Tensor:
    return torch.ones(5, dtype=torch.float64, device=place.device)


CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mlp": lambda x: fastvi.mlp(x, WEIGHTS, BIASES, "silu"),
    "mlp_bernoulli_log_prob": lambda z: fastvi.mlp_bernoulli_log_prob(z, WEIGHTS, BIASES, observations(z), "silu"),
    "linear_bernoulli_log_prob": lambda h: fastvi.linear_bernoulli_log_prob(
        h @ WEIGHTS[0].t(), WEIGHTS[1], BIASES[1], observations(h)
    ),
}


def batch_of(*sizes: int) -> Tensor:
    x = torch.linspace(-1, 1, torch.Size(sizes).numel() * 4, dtype=torch.float64, device=place.device)
    return x.reshape(*sizes, 4).requires_grad_()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("sizes", [(COMPILED_ROWS,), (2, COMPILED_ROWS // 2), (COMPILED_ROWS + 1,), (4, COMPILED_ROWS)])
def test_few_rows_are_the_formula_and_many_the_operator(name, sizes):
    x = batch_of(*sizes)
    programs = Programs()
    compiled = torch.compile(CALLS[name], fullgraph=True, backend=programs)
    found, expected = (each(x) for each in (compiled, CALLS[name]))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(each.sum(), [x, *WEIGHTS]) for each in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    few = x[..., 0].numel() <= COMPILED_ROWS and place.device == "cpu"
    assert (f"fastvi::{name}" in programs.found[0]) is not few


@pytest.mark.parametrize("name", CALLS)
def test_sizes_that_are_not_known_are_compared_with_nothing(name):
    programs = Programs()
    compiled = torch.compile(CALLS[name], fullgraph=True, backend=programs, dynamic=True)
    for rows in (3, COMPILED_ROWS, COMPILED_ROWS + 1):
        x = batch_of(rows)
        torch.testing.assert_close(compiled(x), CALLS[name](x), rtol=1e-12, atol=1e-12)
    assert [f"fastvi::{name}" in each for each in programs.found] == [True]


@pytest.mark.parametrize("name", CALLS)
def test_exported_programs_have_the_operator(name):
    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return CALLS[name](x)

    x = batch_of(3).detach()
    exported = torch.export.export(Module(), (x,))
    assert f"fastvi::{name}" in {node.target.name() for node in exported.graph.nodes if hasattr(node.target, "name")}
    assert torch.equal(exported.module()(x), CALLS[name](x))


def bound_arguments(batch: int = 4) -> list[Any]:
    model, x = model_and_images(batch)
    parameters: list[Any] = []
    for parts in ((*model.encoder, model.posterior_head), (*model.decoder, model.likelihood_head)):
        linear = [each for each in parts if isinstance(each, torch.nn.Linear)]
        parameters += [tensor for each in linear for tensor in (each.weight, each.bias)] + [None, None]
    return [x, place.tensor(3), *parameters, "tanh", "tanh", 2, False, 0]


@pytest.mark.parametrize("free_bits", [None, 0.25])
def test_opcheck_of_a_bound(free_bits):
    torch.library.opcheck(torch.ops.fastvi.perceptron_bound.default, (*bound_arguments(), free_bits, None))


def test_a_call_that_passed_vouches_for_no_other_one():
    """What is checked of the calls of an operator is remembered: each fault comes out before and after a good call."""
    operator = torch.ops.fastvi.perceptron_bound.default
    good = bound_arguments()
    freed = good[0].clone()
    behind = torch.cat([good[3], good[3]])[len(good[3]) :]
    faults = {
        "for x of shape": [good[0][:, :5], *good[1:]],
        "expected torch.float32": [good[0].float(), *good[1:]],
        "num_samples is -1": [*good[:20], -1, *good[21:]],
        "activation": [*good[:18], "sin", *good[19:]],
        "x has no memory": [freed, *good[1:]],
        "encoder_bias_0 has no memory": [*good[:3], behind, *good[4:]],
        "encoder_weight_0 must be a torch.Tensor": [*good[:2], None, *good[3:]],
        "layout": [good[0].to_sparse(), *good[1:]],
    }
    torch.testing.assert_close(operator(freed, *good[1:])[0], operator(*good)[0], rtol=0, atol=0)
    for each in (freed, behind):
        each.untyped_storage().resize_(0)
    for _ in range(2):
        for words, arguments in faults.items():
            with pytest.raises((TypeError, ValueError), match=words):
                operator(*arguments)
        operator(*good)
