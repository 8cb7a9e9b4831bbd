"""LISTA: ISTA and FISTA as it is made, gradients by finite differences, what training is worth, and what it refuses."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from fastvi.coding import LISTA, PSD, active_set, fista, ista, lasso_objective, lipschitz
from support.sparse_coding import some_problem, unit_atoms

ALPHA = 0.1


def tensors(rows: int, columns: int, atoms: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(array).to(dtype) for array in some_problem(rows, columns, atoms))


def code_error(codes: torch.Tensor, best: torch.Tensor) -> float:
    return float((codes - best).square().sum() / best.square().sum())


# As it is made.


@pytest.mark.parametrize("shared_weights", [True, False])
@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2, 3, 7, 16])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_it_is_made_as_a_descent_of_as_many_steps(
    shared_weights: bool, momentum: bool, num_layers: int, dtype: torch.dtype, tolerance: float
) -> None:
    """More atoms than columns, and fewer: the steps take other products in these two cases."""
    for columns, atoms in ((10, 25), (25, 10)):
        x, dictionary = tensors(20, columns, atoms, dtype)
        network = LISTA(dictionary, ALPHA, num_layers, shared_weights=shared_weights, momentum=momentum)
        options: dict[str, Any] = {"num_steps": num_layers, "tolerance": 0.0}
        expected = (
            fista(x, dictionary, ALPHA, restart=False, **options) if momentum else ista(x, dictionary, ALPHA, **options)
        )
        torch.testing.assert_close(network(x), expected.codes, rtol=tolerance, atol=tolerance)


def test_steps_written_out() -> None:
    """D = diag(2, 1), so that L = 4: z_1 = S(x D / 4, 1/8), z_2 = S(z_1 + (x - z_1 D) D / 4, 1/8)."""
    x = np.array([3.0, -1.0])
    scales, codes = np.array([2.0, 1.0]), np.zeros(2)
    for _ in range(2):
        values = codes + (x - codes * scales) * scales / 4.0
        codes = np.sign(values) * np.maximum(np.abs(values) - 0.125, 0.0)
    network = LISTA(np.diag(scales), 0.5, 2)
    np.testing.assert_allclose(network(torch.from_numpy(x)).detach().numpy(), codes, rtol=1e-15)


def test_layers_are_the_steps() -> None:
    x, dictionary = tensors(6, 10, 25)
    layers = LISTA(dictionary, ALPHA, 4).layers(x)
    assert len(layers) == 4
    for count, codes in enumerate(layers, 1):
        expected = ista(x, dictionary, ALPHA, num_steps=count, tolerance=0.0).codes
        torch.testing.assert_close(codes, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shared_weights", [True, False])
def test_parameters_are_those_of_the_formula(shared_weights: bool) -> None:
    _, dictionary = tensors(1, 10, 25)
    network = LISTA(dictionary, ALPHA, 3, shared_weights=shared_weights)
    copies, bound = 1 if shared_weights else 3, lipschitz(dictionary)
    assert network.encoder.shape == (copies, 10, 25)
    assert network.recurrence.shape == (copies, 25, 25)
    torch.testing.assert_close(network.encoder[0], dictionary.mT / bound)
    torch.testing.assert_close(network.recurrence[-1], torch.eye(25).double() - dictionary @ dictionary.mT / bound)
    torch.testing.assert_close(network.log_threshold.exp(), torch.full((3, 25), ALPHA / bound).double())
    assert not network.momentum_factor.requires_grad
    assert "dictionary" in network.state_dict()


@pytest.mark.parametrize("shape", [(10,), (0, 10), (2, 3, 10)])
def test_leading_axes_stay(shape: tuple[int, ...]) -> None:
    _, dictionary = tensors(1, 10, 25)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    network = LISTA(dictionary, ALPHA, 3)
    codes = network(x)
    assert codes.shape == (*shape[:-1], 25)
    torch.testing.assert_close(codes.reshape(-1, 25), network(x.reshape(-1, 10)))


# Gradients.


@pytest.mark.parametrize("shared_weights", [True, False])
@pytest.mark.parametrize("momentum", [False, True])
def test_gradients_are_those_of_finite_differences(shared_weights: bool, momentum: bool) -> None:
    """Of the squared error of the codes by every parameter and the data, where no code is at its threshold."""
    x, dictionary = tensors(3, 4, 6)
    best = active_set(x, dictionary, ALPHA).codes
    network = LISTA(dictionary, ALPHA, 3, shared_weights=shared_weights, momentum=momentum)
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    given = [
        parameter.detach().clone().requires_grad_() for parameter in network.parameters() if parameter.requires_grad
    ]

    def loss(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        codes = torch.func.functional_call(network, dict(zip(names, parameters, strict=True)), (x,))
        error: torch.Tensor = (codes - best).square().sum()
        return error

    assert torch.autograd.gradcheck(loss, (x.requires_grad_(), *given))


# Training.


def split_problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, dictionary = tensors(1500, 8, 16, torch.float32)
    return x[:1000], x[1000:], dictionary


@pytest.mark.parametrize("options", [{}, {"shared_weights": False}, {"shared_weights": False, "momentum": True}])
def test_trained_codes_are_nearer_than_those_of_as_many_steps(options: dict[str, bool]) -> None:
    """On rows that were not trained on."""
    train, test, dictionary = split_problem()
    targets, best = (active_set(x, dictionary, ALPHA).codes for x in (train, test))
    network = LISTA(dictionary, ALPHA, 3, **options)
    losses = network.fit(train, targets, epochs=15, batch_size=50, learning_rate=3e-3)
    assert losses[-1] < losses[0]
    with torch.no_grad():
        found = code_error(network(test), best)
    by_ista = ista(test, dictionary, ALPHA, num_steps=3, tolerance=0.0).codes
    by_fista = fista(test, dictionary, ALPHA, num_steps=3, tolerance=0.0, restart=False).codes
    assert found < code_error(by_fista, best)
    assert found < code_error(by_ista, best)


def test_training_by_the_objective() -> None:
    """Without any codes: the objective comes nearer to its minimum than by as many steps of FISTA."""
    train, test, dictionary = split_problem()
    network = LISTA(dictionary, ALPHA, 3, shared_weights=False)
    network.fit(train, epochs=15, batch_size=50, learning_rate=3e-3)
    least = active_set(test, dictionary, ALPHA).objective.mean()
    with torch.no_grad():
        found = lasso_objective(test, network(test), dictionary, ALPHA).mean()
    steps = fista(test, dictionary, ALPHA, num_steps=3, tolerance=0.0, restart=False).objective.mean()
    assert least < found < least + 0.7 * (steps - least)


def test_training_repeats_by_its_seed() -> None:
    train, _, dictionary = split_problem()
    found = []
    for seed in (0, 0, 1):
        network = LISTA(dictionary, ALPHA, 2)
        network.fit(train[:100], epochs=2, batch_size=20, seed=seed)
        found.append(network.encoder.detach())
    torch.testing.assert_close(found[0], found[1], rtol=0.0, atol=0.0)
    assert not torch.equal(found[0], found[2])


def test_the_first_loss_is_that_of_the_formula() -> None:
    """One batch: the loss before any step, of the last layer and a tenth of the mean of those before it."""
    x, dictionary = tensors(40, 8, 16)
    best = active_set(x, dictionary, ALPHA).codes
    errors = [code_error(ista(x, dictionary, ALPHA, num_steps=count, tolerance=0.0).codes, best) for count in (1, 2, 3)]
    losses = LISTA(dictionary, ALPHA, 3).fit(x, best, epochs=1, batch_size=40)
    assert losses == pytest.approx([errors[2] + 0.1 * (errors[0] + errors[1]) / 2.0], rel=1e-12)
    assert LISTA(dictionary, ALPHA, 1).fit(x, best, epochs=1, batch_size=40) == pytest.approx([errors[0]], rel=1e-12)


def test_thresholds_stay_positive() -> None:
    """Also where a step is longer than the threshold itself, 0.1 / L."""
    train, _, dictionary = split_problem()
    network = LISTA(dictionary, ALPHA, 3)
    network.fit(train[:100], -train[:100] @ dictionary.mT, epochs=20, batch_size=10, learning_rate=0.2)
    thresholds = network.log_threshold.detach().exp()
    assert (thresholds > 0.0).all()
    assert (thresholds - ALPHA / lipschitz(dictionary)).abs().max() > 0.03


def test_optimal_codes_and_saved_parameters() -> None:
    train, test, dictionary = split_problem()
    network = LISTA(dictionary, ALPHA, 2, momentum=True)
    torch.testing.assert_close(network.optimal_codes(test), active_set(test, dictionary, ALPHA).codes)
    network.fit(train, epochs=1)
    other = LISTA(torch.from_numpy(unit_atoms(16, 8, seed=5)).float(), ALPHA, 2, momentum=True)
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other(test), network(test), rtol=0.0, atol=0.0)
    torch.testing.assert_close(other.dictionary, dictionary)


# What is refused.

DICTIONARY = torch.eye(3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.ones(3), 0.1, 2), ValueError, "LISTA: dictionary has shape (3,), expected (A, D)"),
        ((torch.zeros(2, 3), 0.1, 2), ValueError, "LISTA: dictionary holds no atom but zeros"),
        ((torch.full((2, 3), float("nan")), 0.1, 2), ValueError, "LISTA: dictionary contains NaN or infinity"),
        ((torch.eye(3).int(), 0.1, 2), TypeError, "expected float32 or float64"),
        (([[1.0]], 0.1, 2), TypeError, "must be a NumPy array or a torch.Tensor, got list"),
        ((DICTIONARY, 0.0, 2), ValueError, "LISTA: alpha must be positive and finite, got 0"),
        ((DICTIONARY, float("inf"), 2), ValueError, "LISTA: alpha must be positive and finite, got inf"),
        ((DICTIONARY, "1", 2), TypeError, "alpha"),
        ((DICTIONARY, 0.1, 0), ValueError, "LISTA: num_layers must be at least 1, got 0"),
        ((DICTIONARY, 0.1, 2.5), TypeError, "num_layers"),
    ],
)
def test_bad_arguments(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        LISTA(*arguments)


@pytest.mark.parametrize("name", ["shared_weights", "momentum"])
def test_bad_flags(name: str) -> None:
    options: dict[str, Any] = {name: "yes"}
    with pytest.raises(TypeError, match=name):
        LISTA(DICTIONARY, 0.1, 2, **options)


def test_bad_data() -> None:
    with pytest.raises(ValueError, match=re.escape("LISTA: x has shape (2, 4), expected (..., 3)")):
        LISTA(DICTIONARY, 0.1, 2)(torch.ones(2, 4))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "LISTA.fit: epochs must be at least 1, got 0"),
        ({"batch_size": -1}, ValueError, "LISTA.fit: batch_size must be at least 1, got -1"),
        ({"batch_size": 1.5}, TypeError, "batch_size"),
        ({"learning_rate": 0.0}, ValueError, "LISTA.fit: learning_rate must be positive and finite, got 0"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate"),
        ({"x": torch.ones(3)}, ValueError, "LISTA.fit: x has shape (3,), expected (N, D)"),
        ({"x": torch.ones(0, 3)}, ValueError, "LISTA.fit: x has shape (0, 3)"),
        ({"x": torch.ones(2, 4)}, ValueError, "x has shape (2, 4)"),
        ({"codes": torch.ones(2, 4)}, ValueError, "LISTA.fit: codes has shape (2, 4), expected (2, 3)"),
    ],
)
def test_bad_training(options: dict[str, Any], error: type[Exception], message: str) -> None:
    network = LISTA(DICTIONARY, 0.1, 2)
    before = network.encoder.detach().clone()
    with pytest.raises(error, match=re.escape(message)):
        network.fit(**{"x": torch.ones(2, 3), **options})
    torch.testing.assert_close(network.encoder.detach(), before, rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    "make", [lambda: LISTA(torch.eye(3, dtype=torch.float64), 1.0, 2), lambda: PSD(3, 3, 1.0).double()]
)
def test_words_for_rows_of_another_kind(make):
    network = make()
    name = type(network).__name__
    with pytest.raises(
        TypeError, match=rf"^{name}: x is torch.float32, and the network torch.float64; expected the same$"
    ):
        network(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=rf"^{name}: x has shape \(2, 4\), expected \(\.\.\., 3\)$"):
        network(torch.zeros(2, 4, dtype=torch.float64))
    with pytest.raises(TypeError, match=rf"^{name}: x must be a torch.Tensor, got list$"):
        network([[0.0, 0.0, 0.0]])
