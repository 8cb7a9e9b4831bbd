"""ISTA and FISTA against closed forms, their bounds, scikit-learn's Lasso, and what they refuse."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fastvi.coding import active_set, duality_gap, fista, ista, lasso_objective, lipschitz
from support.sparse_coding import distance_from_conditions, objectives, scikit_codes, some_problem, unit_atoms

METHODS = [ista, fista]
SOLVERS = [ista, fista, active_set]


def shrunk(x: np.ndarray, threshold: float) -> np.ndarray:
    result: np.ndarray = np.sign(x) * np.maximum(np.abs(x) - threshold, 0.0)
    return result


def orthonormal(columns: int, atoms: int, seed: int = 0) -> np.ndarray:
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(columns, columns)))
    return basis[:atoms]


# Functions of codes.


def test_the_objective() -> None:
    x, dictionary = some_problem(7, 5, 8)
    codes = np.random.default_rng(2).normal(size=(7, 8))
    np.testing.assert_allclose(
        lasso_objective(x, codes, dictionary, 0.3), objectives(x, codes, dictionary, 0.3), rtol=1e-13
    )


def test_the_objective_has_gradients() -> None:
    x, dictionary = (torch.from_numpy(array).requires_grad_() for array in some_problem(3, 4, 6))
    codes = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda *tensors: lasso_objective(*tensors, 0.3), (x, codes, dictionary))


def test_lipschitz_is_the_largest_eigenvalue() -> None:
    for atoms, columns in ((6, 4), (4, 6), (5, 5)):
        dictionary = unit_atoms(atoms, columns)
        expected = np.linalg.eigvalsh(dictionary @ dictionary.T)[-1]
        for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-6)):
            assert float(lipschitz(dictionary.astype(dtype))) == pytest.approx(expected, rel=tolerance)
            assert float(lipschitz(torch.from_numpy(dictionary.astype(dtype)))) == pytest.approx(
                expected, rel=tolerance
            )


@pytest.mark.parametrize("alpha", [0.05, 0.4])
def test_the_gap_bounds_the_distance_from_the_minimum(alpha: float) -> None:
    x, dictionary = some_problem(40, 10, 25)
    least = objectives(x, scikit_codes(x, dictionary, alpha), dictionary, alpha)
    codes = np.zeros((40, 25))
    for _ in range(6):
        above = objectives(x, codes, dictionary, alpha) - least
        assert (duality_gap(x, codes, dictionary, alpha) >= above - 1e-12).all()
        codes = ista(x, dictionary, alpha, start=codes, num_steps=20, tolerance=0.0).codes


def test_the_gap_vanishes_at_the_minimum() -> None:
    x, dictionary = some_problem(20, 10, 25)
    gap = duality_gap(x, scikit_codes(x, dictionary, 0.1), dictionary, 0.1)
    assert (gap >= 0.0).all()
    assert (gap <= 1e-9).all()


def test_the_gap_of_zero_codes_written_out() -> None:
    """x = (3, 0), atoms e1, e2, alpha 1: the dual point is x / 3, the dual objective 3 - 1/2, the primal one 9/2."""
    gap = duality_gap(np.array([[3.0, 0.0]]), np.zeros((1, 2)), np.eye(2), 1.0)
    np.testing.assert_allclose(gap, [4.5 - (3.0 - 0.5)])


# Closed forms.


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_orthonormal_atoms_give_soft_thresholds(solver: Callable[..., Any], dtype: Any) -> None:
    dictionary = orthonormal(8, 6)
    x = 2.0 * np.random.default_rng(1).normal(size=(50, 8))
    found = solver(x.astype(dtype), dictionary.astype(dtype), 0.7)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(found.codes, shrunk(x @ dictionary.T, 0.7), atol=tolerance)
    assert found.codes.dtype == dtype
    assert found.converged.all()


@pytest.mark.parametrize("method", METHODS)
def test_one_step_written_out(method: Callable[..., Any]) -> None:
    """S(z + s (x - z D) D', s alpha); the first step of FISTA is that of ISTA."""
    x, dictionary = some_problem(9, 5, 7)
    start = np.random.default_rng(3).normal(size=(9, 7))
    for step_size in (None, 0.11):
        length = step_size or 1.0 / np.linalg.eigvalsh(dictionary @ dictionary.T)[-1]
        expected = shrunk(start + length * (x - start @ dictionary) @ dictionary.T, length * 0.2)
        found = method(x, dictionary, 0.2, start=start, num_steps=1, step_size=step_size, tolerance=0.0)
        np.testing.assert_allclose(found.codes, expected, atol=1e-13)
        assert found.num_steps == 1


def test_fista_written_out() -> None:
    """Beck and Teboulle 2009, equations 4.1 to 4.3."""
    x, dictionary = some_problem(9, 5, 7)
    length, alpha = 1.0 / np.linalg.eigvalsh(dictionary @ dictionary.T)[-1], 0.2
    before = extrapolated = np.zeros((9, 7))
    momentum = 1.0
    for _ in range(12):
        codes = shrunk(extrapolated + length * (x - extrapolated @ dictionary) @ dictionary.T, length * alpha)
        after = (1.0 + np.sqrt(1.0 + 4.0 * momentum**2)) / 2.0
        extrapolated = codes + (momentum - 1.0) / after * (codes - before)
        before, momentum = codes, after
    found = fista(x, dictionary, alpha, num_steps=12, restart=False, tolerance=0.0)
    np.testing.assert_allclose(found.codes, before, atol=1e-12)


# Bounds.


@pytest.mark.parametrize(("columns", "atoms"), [(10, 25), (25, 10)])
def test_ista_never_rises(columns: int, atoms: int) -> None:
    x, dictionary = some_problem(30, columns, atoms)
    codes = np.random.default_rng(5).normal(size=(30, atoms))
    before = objectives(x, codes, dictionary, 0.1)
    for _ in range(60):
        codes = ista(x, dictionary, 0.1, start=codes, num_steps=1, tolerance=0.0).codes
        after = objectives(x, codes, dictionary, 0.1)
        assert (after <= before * (1.0 + 1e-14)).all()
        before = after


@pytest.mark.parametrize("from_zero", [True, False])
def test_rates(from_zero: bool) -> None:
    """L |z_0 - z*|^2 / (2 t) of ISTA and 2 L |z_0 - z*|^2 / (t + 1)^2 of FISTA: Beck and Teboulle 2009, 3.1 and 4.4."""
    x, dictionary = some_problem(20, 10, 25)
    alpha = 0.05
    best = scikit_codes(x, dictionary, alpha)
    least = objectives(x, best, dictionary, alpha)
    start = np.zeros((20, 25)) if from_zero else np.random.default_rng(6).normal(size=(20, 25))
    distance = lipschitz(dictionary) * ((start - best) ** 2).sum(-1)
    for t in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144):
        options = {"start": start, "num_steps": t, "tolerance": 0.0}
        slow = objectives(x, ista(x, dictionary, alpha, **options).codes, dictionary, alpha) - least
        fast = objectives(x, fista(x, dictionary, alpha, restart=False, **options).codes, dictionary, alpha) - least
        assert (slow <= distance / (2.0 * t) + 1e-12).all()
        assert (fast <= 2.0 * distance / (t + 1) ** 2 + 1e-12).all()


@pytest.mark.parametrize("restart", [True, False])
def test_momentum_and_restarts_need_fewer_steps(restart: bool) -> None:
    x, dictionary = some_problem(20, 10, 25)
    slow = ista(x, dictionary, 0.05, num_steps=50_000, tolerance=1e-6)
    fast = fista(x, dictionary, 0.05, num_steps=50_000, tolerance=1e-6, restart=restart)
    assert slow.converged.all()
    assert fast.converged.all()
    assert fast.num_steps < slow.num_steps
    if restart:
        assert fast.num_steps < fista(x, dictionary, 0.05, num_steps=50_000, tolerance=1e-6, restart=False).num_steps


# Solutions.


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("alpha", [0.02, 0.3])
@pytest.mark.parametrize(("columns", "atoms"), [(10, 25), (25, 10), (12, 12)])
def test_the_solution_is_that_of_scikit_learn(
    solver: Callable[..., Any], alpha: float, columns: int, atoms: int
) -> None:
    x, dictionary = some_problem(30, columns, atoms)
    options = {} if solver is active_set else {"num_steps": 200_000, "tolerance": 1e-11}
    found = solver(x, dictionary, alpha, **options)
    expected = objectives(x, scikit_codes(x, dictionary, alpha), dictionary, alpha)
    assert found.converged.all()
    np.testing.assert_allclose(objectives(x, found.codes, dictionary, alpha), expected, rtol=1e-8)
    np.testing.assert_allclose(found.objective, expected, rtol=1e-8)
    assert (found.gap <= 1e-9).all()
    assert distance_from_conditions(x, found.codes, dictionary, alpha).max() < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_backtracking_comes_to_the_same(method: Callable[..., Any]) -> None:
    x, dictionary = some_problem(20, 10, 25)
    dictionary *= np.linspace(0.2, 3.0, 25)[:, None]  # so that the longest step of an atom is much too long
    found = method(x, dictionary, 0.3, backtracking=True, num_steps=100_000, tolerance=1e-9)
    expected = objectives(x, scikit_codes(x, dictionary, 0.3), dictionary, 0.3)
    assert found.converged.all()
    np.testing.assert_allclose(found.objective, expected, rtol=1e-8)


def test_ista_never_rises_with_backtracking() -> None:
    x, dictionary = some_problem(20, 10, 25)
    dictionary *= np.linspace(0.2, 3.0, 25)[:, None]
    values = [
        objectives(
            x,
            ista(x, dictionary, 0.05, backtracking=True, num_steps=steps, tolerance=0.0).codes,
            dictionary,
            0.05,
        )
        for steps in range(40)
    ]
    assert (np.diff(np.stack(values), axis=0) <= 1e-9).all()


# The stopping rule.


@pytest.mark.parametrize("method", METHODS)
def test_rows_stop_at_their_gap(method: Callable[..., Any]) -> None:
    x, dictionary = some_problem(40, 10, 25)
    x[0] = 0.0
    for tolerance in (1e-2, 1e-5):
        found = method(x, dictionary, 0.05, num_steps=50_000, tolerance=tolerance)
        assert found.converged.all()
        assert (found.gap <= tolerance * 0.5 * (x**2).sum(-1)).all()
        np.testing.assert_allclose(found.gap, duality_gap(x, found.codes, dictionary, 0.05), atol=1e-13)


@pytest.mark.parametrize("method", METHODS)
def test_rows_that_leave_early_do_not_disturb_the_others(method: Callable[..., Any]) -> None:
    """Each row has the codes that it has alone, though they leave at different steps."""
    x, dictionary = some_problem(12, 10, 25)
    x *= np.geomspace(0.05, 20.0, 12)[:, None]
    together = method(x, dictionary, 0.1, num_steps=5000, tolerance=1e-4)
    alone = [method(row[None], dictionary, 0.1, num_steps=5000, tolerance=1e-4) for row in x]
    assert len({found.num_steps for found in alone}) > 3
    assert together.num_steps == max(found.num_steps for found in alone)
    np.testing.assert_allclose(together.codes, np.concatenate([found.codes for found in alone]), atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_what_has_not_converged_says_so(method: Callable[..., Any]) -> None:
    x, dictionary = some_problem(10, 10, 25)
    x[3] = 0.0
    found = method(x, dictionary, 0.05, num_steps=3)
    assert found.num_steps == 3
    np.testing.assert_array_equal(found.converged, np.arange(10) == 3)
    none = method(x, dictionary, 0.05, num_steps=0)
    np.testing.assert_array_equal(none.codes, np.zeros((10, 25)))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solution_as_a_start_stays(solver: Callable[..., Any]) -> None:
    x, dictionary = some_problem(10, 10, 25)
    exact = active_set(x, dictionary, 0.05)
    found = solver(x, dictionary, 0.05, start=exact.codes)
    np.testing.assert_allclose(found.codes, exact.codes, atol=1e-12)
    assert found.num_steps == 0
    assert found.converged.all()


# Arrays.


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_and_arrays_give_the_same(solver: Callable[..., Any], dtype: torch.dtype) -> None:
    x, dictionary = (torch.from_numpy(array).to(dtype) for array in some_problem(8, 10, 25))
    tensors = solver(x, dictionary, 0.2)
    arrays = solver(x.numpy(), dictionary.numpy(), 0.2)
    for name in ("codes", "objective", "gap", "converged"):
        ours, theirs = getattr(tensors, name), getattr(arrays, name)
        assert isinstance(ours, torch.Tensor)
        assert isinstance(theirs, np.ndarray)
        np.testing.assert_array_equal(ours.numpy(), theirs)
    assert tensors.codes.dtype == tensors.objective.dtype == tensors.gap.dtype == dtype
    assert tensors.converged.dtype == torch.bool
    assert (tensors.codes.shape, tensors.objective.shape) == ((8, 25), (8,))
    assert not tensors.codes.requires_grad


@pytest.mark.parametrize("solver", SOLVERS)
def test_layouts_of_memory(solver: Callable[..., Any]) -> None:
    x, dictionary = (torch.from_numpy(array) for array in some_problem(8, 10, 25))
    start = torch.zeros(8, 25, dtype=torch.float64)
    expected = solver(x, dictionary, 0.2, start=start)
    gaps = torch.zeros(16, 20, dtype=torch.float64)
    gaps[::2, ::2] = x
    other = solver(gaps[::2, ::2], dictionary.mT.contiguous().mT, 0.2, start=start.mT.contiguous().mT)
    torch.testing.assert_close(other.codes, expected.codes, rtol=0.0, atol=1e-12)
    reversed_array = solver(x.numpy()[::-1], dictionary.numpy(), 0.2)
    np.testing.assert_allclose(reversed_array.codes[::-1], expected.codes, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_is_given_is_not_changed(solver: Callable[..., Any]) -> None:
    x, dictionary = some_problem(8, 10, 25)
    start = np.random.default_rng(0).normal(size=(8, 25))
    copies = [array.copy() for array in (x, dictionary, start)]
    for array in (x, dictionary, start):
        array.flags.writeable = False
    solver(x, dictionary, 0.2, start=start)
    for array, copy in zip((x, dictionary, start), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_rows(solver: Callable[..., Any]) -> None:
    found = solver(np.zeros((0, 10)), unit_atoms(25, 10), 0.2)
    assert found.codes.shape == (0, 25)
    assert found.objective.shape == found.gap.shape == found.converged.shape == (0,)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_give_nan_and_leave_the_others_alone(solver: Callable[..., Any], bad: float) -> None:
    x, dictionary = some_problem(8, 10, 25)
    expected = solver(x, dictionary, 0.2, num_steps=20_000)
    x[5, 2] = bad
    found = solver(x, dictionary, 0.2, num_steps=20_000)
    assert np.isnan(found.codes[5]).any()
    assert not np.isfinite(found.objective[5])
    assert not found.converged[5]
    others = np.arange(8) != 5
    np.testing.assert_allclose(found.codes[others], expected.codes[others], atol=1e-12)
    assert found.converged[others].all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_atoms_of_zero_have_no_codes(solver: Callable[..., Any]) -> None:
    x, dictionary = some_problem(8, 10, 25)
    dictionary[[0, 7]] = 0.0
    found = solver(x, dictionary, 0.2, num_steps=20_000)
    assert (found.codes[:, [0, 7]] == 0.0).all()
    assert found.converged.all()
    nothing = solver(x, np.zeros((3, 10)), 0.2)
    assert (nothing.codes == 0.0).all()
    assert nothing.converged.all()
    np.testing.assert_allclose(nothing.objective, 0.5 * (x**2).sum(-1))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_large_alpha_gives_zeros(solver: Callable[..., Any]) -> None:
    x, dictionary = some_problem(8, 10, 25)
    largest = np.abs(x @ dictionary.T).max()
    found = solver(x, dictionary, largest * 1.0001)
    assert (found.codes == 0.0).all()
    assert found.converged.all()
    assert (found.num_steps, found.gap.max()) == (0, 0.0)


@pytest.mark.cpu_kernels
@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_one_step_has_the_same_bits_for_any_number_of_threads(method: Callable[..., Any], dtype: torch.dtype) -> None:
    """On small integers over powers of two, whose products are exact in any order: what is left is the pass of ours."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-8, 8, (700, 16), generator=generator).to(dtype) / 4.0
    dictionary = torch.randint(-2, 3, (40, 16), generator=generator).to(dtype) / 2.0
    start = torch.randint(-3, 4, (700, 40), generator=generator).to(dtype) / 2.0
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        options = {"start": start, "num_steps": 1, "step_size": 1.0 / 3.0, "tolerance": 0.0}
        found.append(method(x, dictionary, 0.3, **options).codes)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


# What is refused.

X, DICTIONARY = some_problem(4, 3, 5)
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": X.tolist()}, TypeError, "x must be a NumPy array or a torch.Tensor, got list"),
    ({"x": X.astype(np.complex128)}, TypeError, "x is complex128, expected float32 or float64"),
    ({"x": torch.from_numpy(X).half(), "dictionary": torch.from_numpy(DICTIONARY).half()}, TypeError, "x is"),
    ({"x": X.astype(np.float32)}, TypeError, "dictionary"),
    ({"x": X[:, :2]}, ValueError, "x has shape (4, 2), expected"),
    ({"dictionary": DICTIONARY[0]}, ValueError, "dictionary has shape (3,), expected (A, D)"),
    ({"dictionary": DICTIONARY[:0]}, ValueError, "dictionary has shape (0, 3), expected (A, D)"),
    ({"dictionary": DICTIONARY * np.nan}, ValueError, "dictionary contains NaN or infinity"),
    ({"dictionary": "edges"}, TypeError, "dictionary must be a NumPy array or a torch.Tensor, got str"),
    ({"alpha": 0.0}, ValueError, "alpha must be positive and finite, got 0"),
    ({"alpha": -1.0}, ValueError, "alpha must be positive and finite, got -1"),
    ({"alpha": np.nan}, ValueError, "alpha"),
    ({"alpha": np.inf}, ValueError, "alpha must be positive and finite, got inf"),
    ({"alpha": "1"}, TypeError, "alpha"),
    ({"start": np.zeros((4, 4))}, ValueError, "start has shape (4, 4), expected (4, 5)"),
    ({"start": np.zeros((4, 5), np.float32)}, TypeError, "start is"),
    ({"num_steps": -1}, ValueError, "num_steps must be"),
    ({"num_steps": 1.5}, TypeError, "num_steps"),
]
OF_METHODS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"tolerance": -1e-3}, ValueError, "tolerance must be 0 or more, got -0.001"),
    ({"tolerance": np.nan}, ValueError, "tolerance"),
    ({"step_size": 0.0}, ValueError, "step_size must be positive and finite, got 0"),
    ({"step_size": np.inf}, ValueError, "step_size must be positive and finite, got inf"),
    ({"step_size": 0.1, "backtracking": True}, ValueError, "step_size"),
    ({"backtracking": "yes"}, TypeError, "backtracking"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), REFUSED, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("solver", SOLVERS)
def test_bad_input_is_named(
    solver: Callable[..., Any], wrong: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{solver.__name__}: .*{re.escape(message)}"):
        solver(**({"x": X, "dictionary": DICTIONARY, "alpha": 0.1} | wrong))


@pytest.mark.parametrize(("wrong", "error", "message"), OF_METHODS, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("method", METHODS)
def test_bad_options_are_named(
    method: Callable[..., Any], wrong: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{method.__name__}: .*{re.escape(message)}"):
        method(X, DICTIONARY, 0.1, **wrong)


def test_bad_input_of_the_functions_of_codes() -> None:
    codes = np.zeros((4, 5))
    for function in (lasso_objective, duality_gap):
        name = function.__name__
        with pytest.raises(ValueError, match=rf"^{name}: codes has shape \(4, 4\), expected \(4, 5\)"):
            function(X, codes[:, :4], DICTIONARY, 0.1)
        with pytest.raises(TypeError, match=f"^{name}: codes is"):
            function(X, codes.astype(np.float32), DICTIONARY, 0.1)
        with pytest.raises(ValueError, match=f"^{name}: alpha must be positive"):
            function(X, codes, DICTIONARY, -0.1)
    with pytest.raises(ValueError, match=r"^lipschitz: dictionary has shape \(3,\), expected \(A, D\)"):
        lipschitz(DICTIONARY[0])
    with pytest.raises(ValueError, match=r"^lipschitz: dictionary contains NaN"):
        lipschitz(DICTIONARY * np.nan)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("solver", [ista, fista, active_set])
@pytest.mark.parametrize("as_tensor", [True, False])
def test_a_start_that_is_not_finite(solver, bad, as_tensor):
    start = torch.zeros(3, 5)
    start[1, 2] = bad
    given = (torch.ones(3, 4), torch.eye(5, 4), start)
    x, dictionary, start = given if as_tensor else (each.numpy() for each in given)
    with pytest.raises(ValueError, match=rf"^{solver.__name__}: start contains NaN or infinity; expected finite"):
        solver(x, dictionary, 0.5, start=start)
