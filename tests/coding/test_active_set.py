"""The exact solver of the Lasso against enumeration, the conditions of the minimum, and awkward dictionaries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastvi.coding import SparseCodes, active_set, fista
from support.sparse_coding import distance_from_conditions, least_objective, objectives, some_problem, unit_atoms


def check_minimum(x: np.ndarray, found: SparseCodes, dictionary: np.ndarray, alpha: float, tolerance: float) -> None:
    """That each row has converged, to conditions of the minimum within ``tolerance`` of the largest correlation."""
    assert np.asarray(found.converged).all()
    scale = max(float(np.abs(x @ dictionary.T).max()), alpha)
    assert distance_from_conditions(x, np.asarray(found.codes), dictionary, alpha).max() <= tolerance * scale


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0])
def test_the_minimum_by_enumeration(alpha: float) -> None:
    random = np.random.default_rng(0)
    for columns in (2, 3, 6):
        dictionary = random.normal(size=(5, columns))
        x = random.normal(size=(6, columns))
        found = active_set(x, dictionary, alpha)
        expected = [least_objective(row, dictionary, alpha) for row in x]
        np.testing.assert_allclose(objectives(x, found.codes, dictionary, alpha), expected, rtol=1e-12)
        np.testing.assert_allclose(found.objective, expected, rtol=1e-12)
        assert found.converged.all()


def test_the_minimum_of_atoms_that_are_there_twice() -> None:
    """Also negated, scaled, and a sum of others: enumeration leaves dependent sets out, and has the minimum."""
    random = np.random.default_rng(1)
    atoms = random.normal(size=(3, 4))
    dictionary = np.stack([*atoms, atoms[0], -atoms[1], 0.5 * atoms[2], atoms[0] + atoms[1]])
    x = random.normal(size=(8, 4))
    for alpha in (0.05, 0.5):
        found = active_set(x, dictionary, alpha)
        expected = [least_objective(row, dictionary, alpha) for row in x]
        np.testing.assert_allclose(objectives(x, found.codes, dictionary, alpha), expected, rtol=1e-12)
        check_minimum(x, found, dictionary, alpha, 1e-12)


@given(st.data())
def test_conditions_of_the_minimum(data: st.DataObject) -> None:
    """Of any shape and alpha, from any start, in both dtypes; some atoms zero, repeated or nearly so."""
    columns, atoms = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 30))
    seed = data.draw(st.integers(0, 2**20))
    random = np.random.default_rng(seed)
    dictionary = random.normal(size=(atoms, columns)) * data.draw(st.sampled_from([1e-3, 1.0, 1e3]))
    for kind in data.draw(st.lists(st.sampled_from(["zero", "twice", "nearly", "negated"]), max_size=4)):
        one, other = random.integers(atoms, size=2)
        copies = {"zero": 0.0, "twice": 1.0, "nearly": 1.0 + 1e-9, "negated": -1.0}
        dictionary[one] = copies[kind] * dictionary[other]
        if kind == "nearly" and one != other:
            dictionary[one] += 1e-7 * np.abs(dictionary).max() * random.normal(size=columns)
    x = random.normal(size=(5, columns)) * data.draw(st.sampled_from([0.0, 1e-3, 1.0, 1e3]))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    x, dictionary = x.astype(dtype), dictionary.astype(dtype)
    largest = float(np.abs(x.astype(np.float64) @ dictionary.T.astype(np.float64)).max()) or 1.0
    alpha = data.draw(st.sampled_from([1e-2, 0.1, 0.5, 0.99])) * largest
    start = None
    if data.draw(st.booleans()):
        start = (random.normal(size=(5, atoms)) * (random.random((5, atoms)) < 0.4)).astype(dtype)
    found = active_set(x, dictionary, alpha, start=start)
    assert np.isfinite(found.codes).all()
    check_minimum(
        x.astype(np.float64), found, dictionary.astype(np.float64), alpha, 1e-10 if dtype == np.float64 else 1e-3
    )


@pytest.mark.parametrize("columns", [2, 3, 4, 6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_small_integers(columns: int, dtype: Any) -> None:
    """Atoms are there several times, and codes vanish together: each that is left has the sign of its correlation."""
    random = np.random.default_rng(columns)
    for _ in range(60):
        dictionary = np.round(random.normal(size=(40, columns))).astype(dtype)
        x = np.round(2.0 * random.normal(size=(20, columns))).astype(dtype)
        alpha = float(np.abs(x @ dictionary.T).max() * 10.0 ** random.uniform(-3.0, 0.0))
        found = active_set(x, dictionary, alpha)
        check_minimum(x, found, dictionary, alpha, 1e-12 if dtype == np.float64 else 1e-4)


def test_what_cannot_be_solved_says_so() -> None:
    """Atoms along nearly one line, in single precision, at a tiny alpha: no row has converged whose gap is large."""
    random = np.random.default_rng(0)
    converged = []
    for _ in range(20):
        line = random.normal(size=(30, 1)) * random.normal(size=(1, 35))
        dictionary = (line + 1e-3 * random.normal(size=(30, 35))).astype(np.float32)
        x = random.normal(size=(20, 35)).astype(np.float32)
        found = active_set(x, dictionary, 1e-6 * float(np.abs(x @ dictionary.T).max()))
        assert np.isfinite(found.codes).all()
        assert (found.gap[found.converged] <= 1e-4 * 0.5 * (x[found.converged] ** 2).sum(-1)).all()
        converged.append(found.converged)
    assert not np.concatenate(converged).all()


@pytest.mark.parametrize("alpha", [0.02, 0.2])
@pytest.mark.parametrize(("columns", "atoms"), [(20, 60), (60, 20)])
def test_single_precision(columns: int, atoms: int, alpha: float) -> None:
    """Its objective, in double precision, is within 1e-5 of that of double precision."""
    x, dictionary = (array.astype(np.float32) for array in some_problem(100, columns, atoms))
    found = active_set(x, dictionary, alpha)
    exact = active_set(x.astype(np.float64), dictionary.astype(np.float64), alpha)
    assert found.codes.dtype == np.float32
    assert found.converged.all()
    np.testing.assert_allclose(objectives(x, found.codes, dictionary, alpha), exact.objective, rtol=1e-5)


def test_a_start_changes_the_way_and_not_the_end() -> None:
    x, dictionary = some_problem(40, 10, 25)
    expected = active_set(x, dictionary, 0.1)
    random = np.random.default_rng(7)
    for start in (
        active_set(x, dictionary, 0.12).codes,
        random.normal(size=(40, 25)),
        100.0 * random.normal(size=(40, 25)),
        -expected.codes,
    ):
        found = active_set(x, dictionary, 0.1, start=start)
        assert found.converged.all()
        np.testing.assert_allclose(found.codes, expected.codes, atol=1e-10)
    assert active_set(x, dictionary, 0.1, start=active_set(x, dictionary, 0.12).codes).num_steps < expected.num_steps


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_start_that_is_not_finite(bad: float) -> None:
    x, dictionary = some_problem(5, 10, 25)
    start = np.zeros((5, 25))
    start[2, 3] = bad
    with pytest.raises(ValueError, match="active_set: start contains NaN or infinity; expected finite numbers"):
        active_set(x, dictionary, 0.1, start=start)


def test_a_limit_of_steps() -> None:
    x, dictionary = some_problem(30, 10, 25)
    full = active_set(x, dictionary, 0.05)
    cut = active_set(x, dictionary, 0.05, num_steps=2)
    assert cut.num_steps == 2
    assert not cut.converged.all()
    assert ((cut.codes != 0.0).sum(-1) <= 2).all()
    at_minimum = np.isclose(cut.objective, full.objective, rtol=1e-9)
    np.testing.assert_array_equal(cut.converged, at_minimum)
    np.testing.assert_array_equal(cut.converged, cut.gap <= 1e-9)


def test_more_rows_than_are_solved_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastvi.coding import lasso

    x, dictionary = some_problem(50, 10, 25)
    expected = active_set(x, dictionary, 0.1)
    slow = fista(x, dictionary, 0.1, num_steps=200)
    monkeypatch.setattr(lasso, "CHUNK_NUMBERS", 25 * 7)
    found = active_set(x, dictionary, 0.1)
    np.testing.assert_allclose(found.codes, expected.codes, atol=1e-12)
    np.testing.assert_allclose(found.objective, expected.objective, rtol=1e-12)
    assert found.converged.all()
    np.testing.assert_allclose(fista(x, dictionary, 0.1, num_steps=200).codes, slow.codes, atol=1e-10)


@pytest.mark.cpu_kernels
@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_bits_for_any_number_of_threads(dtype: torch.dtype) -> None:
    """On small integers over powers of two, whose products x D' and D D' are exact in any order."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-8, 8, (700, 16), generator=generator).to(dtype) / 4.0
    dictionary = torch.randint(-2, 3, (40, 16), generator=generator).to(dtype) / 2.0
    found: list[Any] = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(active_set(x, dictionary, 0.7))
    for other in found[1:]:
        assert torch.equal(found[0].codes, other.codes)
        assert torch.equal(found[0].converged, other.converged)
        assert found[0].num_steps == other.num_steps


def test_many_atoms_of_few_columns() -> None:
    """No more atoms have codes than there are columns: where the minimum is not unique, that is one of them."""
    x, dictionary = some_problem(20, 3, 200)
    found = active_set(x, dictionary, 0.001)
    check_minimum(x, found, dictionary, 0.001, 1e-12)
    assert ((found.codes != 0.0).sum(-1) <= 3).all()


def test_one_atom_of_one_column() -> None:
    x = np.array([[-3.0], [0.5], [2.0]])
    np.testing.assert_allclose(active_set(x, np.array([[2.0]]), 1.0).codes, [[-1.25], [0.0], [0.75]])


def test_very_large_and_very_small_numbers() -> None:
    """The minimum of c x with c alpha is c times that of x."""
    x, dictionary = some_problem(10, 10, 25)
    expected = active_set(x, dictionary, 0.1)
    for scale in (1e-100, 1e100):
        found = active_set(scale * x, dictionary, scale * 0.1)
        assert found.converged.all()
        np.testing.assert_allclose(found.codes, scale * expected.codes, rtol=0, atol=1e-10 * scale)


@pytest.mark.cuda
def test_on_a_gpu() -> None:
    x, dictionary = (torch.from_numpy(array) for array in some_problem(50, 10, 25))
    expected = active_set(x, dictionary, 0.1)
    for solver in (active_set, fista):
        found = solver(x.cuda(), dictionary.cuda(), 0.1)
        assert found.codes.is_cuda
        assert bool(found.converged.all())
        torch.testing.assert_close(found.objective.cpu(), expected.objective, rtol=1e-5, atol=1e-5)


def test_unit_atoms_are_of_length_one() -> None:
    np.testing.assert_allclose(np.linalg.norm(unit_atoms(7, 4), axis=1), 1.0)
