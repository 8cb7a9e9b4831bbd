"""Numbers under torch.compile: another value is another input of the same program, not another program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

import fastvi
from fastvi.objectives import ELBO, IWAE, STL, DReG, LinearWarmUp
from support.operations import as_tuple
from support.place import place

pytestmark = [pytest.mark.composition, pytest.mark.usefixtures("fresh_compiler")]

FLOATS = [0.05 + 0.11 * i for i in range(12)]
SIZES = list(range(2, 14))  # PyTorch compiles 0 and 1 for themselves


def example() -> tuple[Tensor, Tensor]:
    mean = place.linspace(-1, 1, 15, dtype=torch.float64).reshape(3, 5).requires_grad_()
    return mean, mean.detach().cos().requires_grad_()


def with_gradients(function: Callable[..., Any], value: Any, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    outputs = as_tuple(function(value, *tensors))
    number = sum(torch.cos(output).sum() for output in outputs)
    assert isinstance(number, Tensor)
    gradients = torch.autograd.grad(number, list(tensors), materialize_grads=True) if number.requires_grad else ()
    return (*outputs, *gradients)


def programs(function: Callable[..., Any], values: Sequence[Any], backend: str = "aot_eager", **options: Any) -> int:
    """How many programs were compiled for calls with all values, after each gave what it gives without the compiler."""
    compiled = torch.compile(function, fullgraph=True, backend=backend, **options)
    for value in values:
        tensors = example()
        found, expected = (with_gradients(each, value, tensors) for each in (compiled, function))
        for result, plain in zip(found, expected, strict=True):
            torch.testing.assert_close(result, plain, rtol=1e-11, atol=1e-11)
    count: int = counters["stats"]["unique_graphs"]
    return count


NUMBERS: dict[str, tuple[Callable[..., Any], Sequence[Any]]] = {
    "kl_normal free_bits": (lambda v, a, b: fastvi.kl_normal(a, b, free_bits=v), FLOATS),
    "kl_normal free_bits and a prior": (lambda v, a, b: fastvi.kl_normal(a, b, b, a, free_bits=v), FLOATS),
    "leapfrog_step kick": (lambda v, a, b: fastvi.leapfrog_step(a, b, a, 0.1, kick=v), FLOATS),
    "leapfrog_step step_size": (lambda v, a, b: fastvi.leapfrog_step(a, b, a, v), FLOATS),
    "leapfrog_step all": (lambda v, a, b: fastvi.leapfrog_step(a, b, a, v, inverse_mass=v + 1, kick=v / 2), FLOATS),
    "momentum_kick all": (lambda v, a, b: fastvi.momentum_kick(a, b, v, kick=v / 2), FLOATS),
    "kinetic_energy inverse_mass": (lambda v, a, b: fastvi.kinetic_energy(a, v), FLOATS),
    "rsample_normal seed": (lambda v, a, b: fastvi.rsample_normal(a, b, 2, seed=v), [2**61 + i for i in range(12)]),
    "rsample_normal row_offset": (lambda v, a, b: fastvi.rsample_normal(a, b, 2, seed=1, row_offset=v), SIZES),
    "rsample_normal sample_shape": (lambda v, a, b: fastvi.rsample_normal(a, b, (v, 2), seed=1), SIZES),
    "rsample_normal_with_log_ratio num_samples": (
        lambda v, a, b: fastvi.rsample_normal_with_log_ratio(a, b, v, seed=1, row_offset=v),
        SIZES,
    ),
    "standard_normal": (
        lambda v, a, b: fastvi.standard_normal((v, 3), seed=v, dtype=torch.float64, device=place.device) * a.sum(),
        SIZES,
    ),
    "vmap free_bits": (lambda v, a, b: torch.vmap(lambda t, u: fastvi.kl_normal(t, u, free_bits=v))(a, b), FLOATS),
    "vmap kick": (lambda v, a, b: torch.vmap(lambda t, u: fastvi.leapfrog_step(t, u, t, v, kick=v))(a, b), FLOATS),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_another_number_is_no_other_program(name: str):
    """One for the first value, which the compiler takes for a constant, and one for all others."""
    assert programs(*NUMBERS[name]) <= 2


@pytest.mark.parametrize("name", ["kl_normal free_bits", "leapfrog_step kick", "leapfrog_step step_size"])
def test_dynamic_numbers_have_one_program(name: str):
    assert programs(*NUMBERS[name], dynamic=True) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kl_normal free_bits", "leapfrog_step all"])
def test_inductor_too(name: str):
    assert programs(*NUMBERS[name], backend="inductor") <= 2


def test_the_numbers_that_programs_hold_come_back():
    """Those that are usual have the operator without a tensor; between them any other number is one program."""
    values = [0.5, 0.3, 0.4, 1.0, 0.7, 0.5, 0.9, 1.0, 0.2]
    assert programs(lambda v, a, b: fastvi.leapfrog_step(a, b, a, 0.1, kick=v), values) <= 4


def test_numbers_that_are_no_free_bits_are_refused():
    compiled = torch.compile(lambda v, a: fastvi.kl_normal(a, a, free_bits=v), backend="aot_eager")
    for value in (0.1, 0.2, 0.3):
        compiled(value, place.ones(3))
    for value in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=r"kl_normal: free_bits is .*, expected a non-negative number"):
            compiled(value, place.ones(3))


def test_a_step_beyond_float32_is_infinite():
    compiled = torch.compile(lambda v, q: fastvi.leapfrog_step(q, q, q, v), fullgraph=True, backend="aot_eager")
    q = place.ones(3)
    for value in (0.5, 0.25, 1e39, 1e300):
        for result, plain in zip(compiled(value, q), fastvi.leapfrog_step(q, q, q, value), strict=True):
            torch.testing.assert_close(result, plain, equal_nan=True)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.prior_mean = self.prior_logvar = None
        self.encoder = torch.nn.Linear(5, 4, dtype=torch.float64, device=place.device)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.encoder(x).chunk(2, -1)
        return mean, logvar

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return fastvi.normal_log_prob(x[:, :2], z, torch.zeros_like(z))


warm_up = LinearWarmUp(steps=12)
OBJECTIVES: dict[str, tuple[Callable[[Any], Any], Sequence[Any]]] = {
    "beta": (lambda v: ELBO(beta=v), FLOATS),
    "beta of a sampled divergence": (lambda v: ELBO(beta=v, analytic_kl=False), FLOATS),
    "free_bits": (lambda v: ELBO(free_bits=v), FLOATS),
    "beta and free_bits": (lambda v: ELBO(beta=v / 2, free_bits=v), FLOATS),
    "warm-up": (lambda v: ELBO().with_beta(warm_up(v)), range(1, 13)),
    "ELBO num_samples": (lambda v: ELBO(v), SIZES),
    "STL num_samples": (lambda v: STL(v), SIZES),
    "IWAE num_samples": (lambda v: IWAE(v), SIZES),
    "DReG num_samples": (lambda v: DReG(v), SIZES),
}


# PyTorch's compiler itself makes the object of an autograd.Function that it calls deprecated.
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives(name: str):
    make, values = OBJECTIVES[name]
    model = Model()

    def step(objective: Any, x: Tensor, seed: int, row_offset: int) -> Tensor:
        return objective(model, x, seed=seed, row_offset=row_offset)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    x = example()[0].detach()
    for i, value in enumerate(values):
        results = []
        for function in (compiled, step):
            bound = function(make(value), x, i + 5, i + 7)
            results.append((bound, *torch.autograd.grad(bound.sum(), list(model.parameters()))))
        for result, plain in zip(*results, strict=True):
            torch.testing.assert_close(result, plain, rtol=1e-11, atol=1e-11)
    assert counters["stats"]["unique_graphs"] <= 2
