"""Predictive sparse decomposition: its codes and gradients in closed form, what it learns, and what it refuses."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch

from fastvi.coding import PSD, active_set, lasso_objective
from support.sparse_coding import distance_from_conditions, some_problem

ALPHA, WEIGHT = 0.1, 0.7


def shrunk(x: torch.Tensor, threshold: float) -> torch.Tensor:
    return x.sign() * (x.abs() - threshold).clamp_min(0.0)


def random_model(num_features: int = 5, num_atoms: int = 9, weight: float = WEIGHT) -> PSD:
    """A model in double precision whose encoder is anything."""
    model = PSD(num_features, num_atoms, ALPHA, prediction_weight=weight, seed=3).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def rows(count: int, columns: int = 5) -> torch.Tensor:
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# Formulas.


def test_the_prediction() -> None:
    model, x = random_model(), rows(7)
    weight, bias, gain = (parameter.detach().numpy() for parameter in (model.weight, model.bias, model.gain))
    expected = np.diag(gain) @ np.tanh(weight.T @ x.numpy().T + bias[:, None])
    np.testing.assert_allclose(model(x).detach().numpy(), expected.T, rtol=1e-13)
    assert model(x[0]).shape == (9,)
    assert model(x.reshape(7, 1, 5)).shape == (7, 1, 9)


def test_the_loss() -> None:
    model, x = random_model(), rows(7)
    codes = torch.randn(7, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = lasso_objective(x, codes, model.dictionary, ALPHA) + 0.5 * WEIGHT * (codes - model(x)).square().sum(-1)
    torch.testing.assert_close(model.loss(x, codes), expected)


def test_gradients_of_the_encoder_in_closed_form() -> None:
    """With e = w (F - z) and s = 1 - tanh^2: e tanh by the gain, e g s by the bias, x' (e g s) by the weight."""
    model, x = random_model(), rows(7)
    codes = torch.randn(7, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model.loss(x, codes).sum().backward()
    with torch.no_grad():
        tanh = torch.tanh(x @ model.weight + model.bias)
        error = WEIGHT * (model.gain * tanh - codes)
        inner = error * model.gain * (1.0 - tanh.square())
        torch.testing.assert_close(model.gain.grad, (error * tanh).sum(0))
        torch.testing.assert_close(model.bias.grad, inner.sum(0))
        torch.testing.assert_close(model.weight.grad, x.mT @ inner)


def test_codes_for_orthonormal_atoms_in_closed_form() -> None:
    """Each code minimises 1/2 (c - z)^2 + alpha |z| + w/2 (z - f)^2: z = S(c + w f, alpha) / (1 + w), c = <x, d>."""
    model, x = random_model(5, 5), rows(7)
    basis = torch.linalg.qr(rows(5)).Q
    model.dictionary.copy_(basis)
    prediction = model(x).detach()
    expected = shrunk(x @ basis.mT + WEIGHT * prediction, ALPHA) / (1.0 + WEIGHT)
    torch.testing.assert_close(model.optimal_codes(x, prediction), expected, rtol=1e-10, atol=1e-10)


def test_codes_meet_the_conditions_of_the_minimum() -> None:
    """The gradient of all smooth terms is -alpha times the sign of a code, and no larger where the code is 0."""
    model, x = random_model(), rows(30)
    prediction = model(x).detach()
    codes = model.optimal_codes(x, prediction)
    down = (x - codes @ model.dictionary) @ model.dictionary.mT + WEIGHT * (prediction - codes)
    missed = torch.where(codes != 0.0, (down - ALPHA * codes.sign()).abs(), (down.abs() - ALPHA).clamp_min(0.0))
    assert missed.max() < 1e-9
    assert (codes == 0.0).any()


def test_codes_without_a_prediction_are_those_of_the_lasso() -> None:
    model, x = random_model(), rows(30)
    codes = model.optimal_codes(x)
    assert distance_from_conditions(x.numpy(), codes.numpy(), model.dictionary.numpy(), ALPHA).max() < 1e-9
    free = random_model(weight=0.0)
    torch.testing.assert_close(free.optimal_codes(x, free(x)), codes, rtol=0.0, atol=0.0)


# Learning.


def planted(count: int = 600) -> torch.Tensor:
    x, _ = some_problem(count, 6, 9)
    return torch.from_numpy(x).float()


def test_atoms_are_of_norm_one_after_each_step() -> None:
    model, x = PSD(6, 9, ALPHA), planted(50)
    for _ in range(5):
        model.fit(x, epochs=1, batch_size=50)
        torch.testing.assert_close(model.dictionary.norm(dim=1), torch.ones(9))


def test_one_step_is_codes_then_atoms_then_encoder() -> None:
    """Of one batch: the reported loss is that of the codes for the encoder before it and the atoms after it."""
    model, x = PSD(6, 9, ALPHA, prediction_weight=WEIGHT).double(), planted(50).double()
    model.fit(x, epochs=1, batch_size=50)  # rows become atoms
    before = copy.deepcopy(model)
    codes = before.optimal_codes(x, before(x))
    losses = model.fit(x, epochs=1, batch_size=50, learning_rate=1e-2)
    with torch.no_grad():
        start = before.loss(x, codes).mean()
        before.dictionary.copy_(model.dictionary)
        assert losses == pytest.approx([float(before.loss(x, codes).mean())], rel=1e-12)
        assert losses[0] < start
        assert model.loss(x, codes).mean() < losses[0]


def test_the_objective_falls_and_the_prediction_learns() -> None:
    model, x = PSD(6, 9, ALPHA, seed=1), planted()
    first = model.fit(x, epochs=1, batch_size=50)
    early = copy.deepcopy(model)
    losses = model.fit(x, epochs=15, batch_size=50)
    assert losses[-1] < losses[0] < first[0]
    errors = []
    for each in (early, model):
        best = active_set(x, each.dictionary, ALPHA).codes
        errors.append(float((each(x).detach() - best).square().sum() / best.square().sum()))
    assert errors[1] < errors[0]


def test_without_the_term_of_the_prediction_it_is_dictionary_learning() -> None:
    """The loss is then the Lasso's, whatever the encoder."""
    model, x = PSD(6, 9, ALPHA, prediction_weight=0.0), planted(100)
    losses = model.fit(x, epochs=10, batch_size=100)
    assert losses[-1] < losses[0]
    torch.testing.assert_close(model.bias, torch.zeros(9), rtol=0.0, atol=0.0)
    assert losses[-1] == pytest.approx(float(active_set(x, model.dictionary, ALPHA).objective.mean()), rel=0.02)


def test_arrays_of_numpy_and_seeds() -> None:
    x = planted(100)
    found = []
    for given, seed in ((x, 0), (x.numpy(), 0), (x.numpy().astype(np.float64), 0), (x, 1)):
        model = PSD(6, 9, ALPHA, seed=seed)
        model.fit(given, epochs=2, batch_size=20)
        found.append(model.dictionary.clone())
    for other in found[1:3]:
        torch.testing.assert_close(found[0], other, rtol=0.0, atol=0.0)
    assert not torch.equal(found[0], found[3])


def test_a_loaded_model_goes_on_where_it_was() -> None:
    """Its atoms are not taken from the rows again."""
    x = planted(200)
    model = PSD(6, 9, ALPHA)
    losses = model.fit(x, epochs=10, batch_size=20)
    other = PSD(6, 9, ALPHA, seed=5)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(x), model(x), rtol=0.0, atol=0.0)
    again = other.fit(x, epochs=1, batch_size=20, learning_rate=1e-5)
    assert again[0] < 0.5 * (losses[0] + losses[-1])


# What is refused.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_features": 0}, ValueError, "PSD: num_features must be at least 1, got 0"),
        ({"num_atoms": -2}, ValueError, "PSD: num_atoms must be at least 1, got -2"),
        ({"num_atoms": 2.5}, TypeError, "num_atoms"),
        ({"alpha": 0.0}, ValueError, "PSD: alpha must be positive and finite, got 0"),
        ({"alpha": "much"}, TypeError, "alpha"),
        ({"prediction_weight": -1.0}, ValueError, "PSD: prediction_weight must be 0 or more and finite, got -1"),
        ({"prediction_weight": float("inf")}, ValueError, "prediction_weight"),
        ({"seed": 0.5}, TypeError, "seed"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        PSD(**{"num_features": 3, "num_atoms": 4, "alpha": 0.1, **options})


def test_bad_data() -> None:
    with pytest.raises(ValueError, match=re.escape("PSD: x has shape (2, 4), expected (..., 3)")):
        PSD(3, 4, 0.1)(torch.ones(2, 4))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"x": torch.ones(3)}, ValueError, "PSD.fit: x has shape (3,), expected (N, 3)"),
        ({"x": torch.ones(0, 3)}, ValueError, "PSD.fit: x has shape (0, 3)"),
        ({"x": torch.ones(2, 4)}, ValueError, "PSD.fit: x has shape (2, 4), expected (N, 3)"),
        ({"x": torch.full((2, 3), float("nan"))}, ValueError, "PSD.fit: x contains NaN or infinity"),
        ({"x": [[1.0, 2.0, 3.0]]}, TypeError, "PSD.fit: x must be a NumPy array or a torch.Tensor, got list"),
        ({"epochs": 0}, ValueError, "PSD.fit: epochs must be at least 1, got 0"),
        ({"batch_size": 0}, ValueError, "PSD.fit: batch_size must be at least 1, got 0"),
        ({"learning_rate": 0.0}, ValueError, "PSD.fit: learning_rate must be positive and finite, got 0"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate"),
    ],
)
def test_bad_training(options: dict[str, Any], error: type[Exception], message: str) -> None:
    model = PSD(3, 4, 0.1)
    before = model.dictionary.clone()
    with pytest.raises(error, match=re.escape(message)):
        model.fit(**{"x": torch.ones(2, 3), **options})
    torch.testing.assert_close(model.dictionary, before, rtol=0.0, atol=0.0)
