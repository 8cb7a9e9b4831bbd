"""What holds for every objective: seeds, shards, dtypes, torch.compile, errors, names, documented examples."""

import dataclasses
import doctest
import importlib
from pathlib import Path

import pytest
import torch

import fastvi.objectives
from fastvi.models import VAE
from fastvi.objectives import (
    CIWAE,
    ELBO,
    IWAE,
    MIWAE,
    OBJECTIVES,
    PIWAE,
    STL,
    TVO,
    VIMCO,
    DReG,
    Renyi,
    ReweightedWakeSleep,
    ScoreFunction,
    diagnose,
    log_weights,
    make_objective,
)
from support import linear_gaussian

EVERY_OBJECTIVE = [
    ELBO(2),
    ELBO(2, analytic_kl=False, beta=0.5),
    STL(3),
    IWAE(5),
    IWAE(5, backward_samples=2),
    DReG(5),
    MIWAE(3, 2),
    PIWAE(3, 2),
    CIWAE(5, 0.3),
    Renyi(5, -0.5),
    TVO(5, 3),
    VIMCO(4),
    VIMCO(4, "arithmetic"),
    ScoreFunction(1, "constant", -3.0),
    ScoreFunction(3),
    ScoreFunction(4, "control-variate"),
    ReweightedWakeSleep(4),
]
every_objective = pytest.mark.parametrize("objective", EVERY_OBJECTIVE, ids=str)


def batch(count):
    """A model of ``count`` equal examples, and different data for them."""
    model, x = linear_gaussian.make()
    shift = torch.linspace(-1.0, 1.0, count, dtype=torch.float64).unsqueeze(1)
    return model.rows(count), x + shift


def value_and_gradients(objective, model, x, **options):
    value = objective(model, x, **options)
    return value.detach(), torch.autograd.grad(value.sum(), tuple(model.parameters().values()))


@every_objective
def test_one_seed_determines_everything(objective):
    model, x = batch(6)
    first = value_and_gradients(objective, model, x, seed=21)
    torch.manual_seed(0)  # of no importance where a seed is given
    torch.testing.assert_close(value_and_gradients(objective, model, x, seed=21), first, rtol=0.0, atol=0.0)
    assert (value_and_gradients(objective, model, x, seed=22)[0] != first[0]).all()


@every_objective
def test_torch_manual_seed_rules_where_no_seed_is_given(objective):
    model, x = batch(6)
    torch.manual_seed(23)
    first = value_and_gradients(objective, model, x)
    second = value_and_gradients(objective, model, x)
    assert (second[0] != first[0]).all()
    torch.manual_seed(23)
    torch.testing.assert_close(value_and_gradients(objective, model, x), first, rtol=0.0, atol=0.0)


@every_objective
def test_every_tensor_is_on_the_device_of_the_model(objective):
    """On "meta", which no other device's tensors may meet, forward or backward."""
    model = VAE(6, 2, (4,)).to("meta")
    value = objective(model, torch.rand(3, 6, device="meta"), seed=0)
    value.sum().backward()
    assert value.is_meta
    assert all(parameter.grad.is_meta for parameter in model.parameters())


@every_objective
def test_a_shard_is_what_it_was_in_the_whole(objective):
    model, x = batch(7)
    whole_value, whole_gradients = value_and_gradients(objective, model, x, seed=24)
    for rows in (slice(0, 3), slice(3, 7)):
        shard = model.map(lambda value, rows=rows: value.detach()[rows].clone().requires_grad_())
        value, gradients = value_and_gradients(objective, shard, x[rows], seed=24, row_offset=rows.start)
        # Einsum's matrix products may sum in another order for another batch.
        torch.testing.assert_close(value, whole_value[rows], rtol=0.0, atol=1e-12)
        expected = tuple(gradient[rows] for gradient in whole_gradients)
        torch.testing.assert_close(gradients, expected, rtol=0.0, atol=1e-12)


@every_objective
def test_value_is_the_bound_with_or_without_a_graph(objective):
    model, x = batch(6)
    with torch.no_grad():
        without = objective(model, x, seed=25)
    with_graph = objective(model, x, seed=25)
    assert with_graph.shape == (6,)
    torch.testing.assert_close(with_graph.detach(), without, rtol=0.0, atol=0.0)


@every_objective
def test_float32(objective):
    model, x = batch(6)
    single = model.map(lambda value: value.detach().float().requires_grad_())
    value, gradients = value_and_gradients(objective, single, x.float(), seed=26)
    assert value.dtype == torch.float32
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)


@every_objective
def test_empty_batch(objective):
    model, x = batch(6)
    empty = model.map(lambda value: value.detach()[:0].requires_grad_())
    value, gradients = value_and_gradients(objective, empty, x[:0], seed=27)
    assert value.shape == (0,)
    assert [gradient.shape for gradient in gradients] == [leaf.shape for leaf in empty.parameters().values()]


# Dynamo itself makes an instance of autograd.Function, and warns of it, when it traces one (PyTorch 2.13).
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated:DeprecationWarning")
@every_objective
def test_compiled_whole(objective):
    """fullgraph: no graph break; the aot_eager backend checks the traced forward and backward without a C++ build."""
    model, x = batch(6)
    torch._dynamo.reset()
    compiled = torch.compile(objective, backend="aot_eager", fullgraph=True)
    torch.manual_seed(28)
    value, gradients = value_and_gradients(compiled, model, x)
    torch.manual_seed(28)
    expected_value, expected = value_and_gradients(objective, model, x)
    # The same formulas in another order of float64 operations.
    torch.testing.assert_close(value, expected_value, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(gradients, expected, rtol=0.0, atol=1e-12)


@every_objective
def test_functional_gradient(objective):
    """torch.func.grad, in which tensors are wrapped, gives the gradients of autograd."""
    model, x = batch(6)

    def total(parameters):
        return objective(dataclasses.replace(model, **parameters), x, seed=29).sum()

    _, expected = value_and_gradients(objective, model, x, seed=29)
    gradients = torch.func.grad(total)(model.map(torch.Tensor.detach).parameters())
    torch.testing.assert_close(tuple(gradients.values()), expected, rtol=0.0, atol=1e-12)  # another order of sums


@every_objective
def test_likelihood_of_a_wrong_shape_is_refused(objective):
    """A (B,) likelihood would broadcast silently."""
    model, x = batch(6)

    class Averaged:
        prior_mean, prior_logvar, encode = model.prior_mean, model.prior_logvar, model.encode

        def log_likelihood(self, x, z):
            return model.log_likelihood(x, z).mean(0)

    with pytest.raises(ValueError, match=r"Averaged.log_likelihood: expected the shape .* = \(\d, 6\).*got \(6,\)"):
        objective(Averaged(), x)


def test_every_objective_is_among_those_that_are_tested():
    # That of classes asks for another model: tests/objectives/test_semi_supervised.py.
    bounds = {entry for entry in OBJECTIVES.values() if entry.is_bound and not entry.uses_labels}
    assert {type(objective) for objective in EVERY_OBJECTIVE} == bounds
    assert {entry.__name__ for entry in OBJECTIVES.values()} <= set(fastvi.objectives.__all__)


def test_objectives_by_name():
    assert make_objective("elbo", num_samples=2, free_bits=0.1) == ELBO(2, free_bits=0.1)
    assert make_objective("stl") == STL(1)
    assert make_objective("iwae", num_samples=5, backward_samples=1) == IWAE(5, 1)
    assert make_objective("dreg", num_samples=5) == DReG(5)
    assert make_objective("miwae", num_bounds=8, num_samples=4) == MIWAE(8, 4)
    assert make_objective("piwae", num_bounds=8, num_samples=4) == PIWAE(8, 4)
    assert make_objective("ciwae", num_samples=4, beta=0.1) == CIWAE(4, 0.1)
    assert make_objective("renyi", num_samples=4, alpha=-1.0) == Renyi(4, -1.0)
    assert make_objective("tvo", num_samples=4, endpoint="right") == TVO(4, endpoint="right")


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("best", {}, ValueError, f"make_objective: name must be one of {', '.join(OBJECTIVES)}, got 'best'"),
        (
            "iwae",
            {"num_samples": 5, "beta": 2.0},
            TypeError,
            "make_objective: 'iwae' has the options num_samples, backward_samples; got beta",
        ),
        ("dreg", {}, TypeError, "make_objective: 'dreg' needs num_samples"),
        ("iwae", {"num_samples": 0}, ValueError, "IWAE: num_samples must be at least 1, got 0"),
    ],
)
def test_bad_names_and_options(name, options, error, message):
    with pytest.raises(error, match=message):
        make_objective(name, **options)


MODULES = {entry.__module__ for entry in OBJECTIVES.values()} | {diagnose.__module__, log_weights.__module__}


@pytest.mark.parametrize("name", [*sorted(MODULES), "fastvi.objectives.registry"])
def test_documented_examples(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0


def test_documentation_page():
    page = Path(__file__).parents[2] / "docs" / "objectives.md"
    results = doctest.testfile(str(page), module_relative=False)
    assert results.attempted > 0
    assert results.failed == 0
    text = page.read_text(encoding="utf-8")
    assert [name for name in fastvi.objectives.__all__ if f"`{name}" not in text] == []
