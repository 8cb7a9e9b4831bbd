"""Dictionary learning: atoms in closed form, planted ones that are found again, and scikit-learn's interface."""

from __future__ import annotations

import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import DictionaryLearning as ScikitDictionaryLearning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from fastvi.coding import DictionaryLearning, active_set
from fastvi.coding._atoms import Statistics, random_atoms, updated
from support.sparse_coding import objectives, some_problem, unit_atoms

ALPHA = 0.1


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def some_rows(count: int = 300, dtype: Any = np.float64) -> np.ndarray:
    return some_problem(count, 6, 9)[0].astype(dtype)


# One update of the atoms.


def test_each_atom_is_the_best_of_norm_one_given_the_others() -> None:
    """For codes z and what the other atoms leave, R, |R - z d|^2 is least on the sphere at d = R'z / |R'z|."""
    x, codes, dictionary = (torch.from_numpy(a) for a in (some_rows(50), unit_atoms(50, 9, 4), unit_atoms(9, 6, 7)))
    sums = Statistics.empty(dictionary)
    sums.add(x, codes, window=50.0)
    found = updated(dictionary, sums, x, generator())
    expected = dictionary.clone()
    for j in range(9):
        others = codes.clone()
        others[:, j] = 0.0
        atom = (x - others @ expected).mT @ codes[:, j]
        expected[j] = atom / atom.norm()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert (x - codes @ found).square().sum() < (x - codes @ dictionary).square().sum()


def test_sums_forget() -> None:
    """With a window of 40 rows, 10 more leave three quarters of what was there."""
    dictionary = torch.from_numpy(unit_atoms(9, 6))
    first, second = (torch.from_numpy(some_rows(10)), torch.from_numpy(some_rows(30)[20:]))
    codes = [torch.from_numpy(unit_atoms(10, 9, seed)) for seed in (1, 2)]
    sums = Statistics.empty(dictionary)
    sums.add(first, codes[0], window=10.0)
    sums.add(second, codes[1], window=40.0)
    torch.testing.assert_close(sums.codes, 0.75 * codes[0].mT @ codes[0] + codes[1].mT @ codes[1])
    torch.testing.assert_close(sums.data, 0.75 * codes[0].mT @ first + codes[1].mT @ second)
    assert sums.rows == 17.5


@pytest.mark.parametrize("count", [1, 3, 20])
def test_first_atoms_are_different_also_where_rows_are_equal_or_zero(count: int) -> None:
    for x in (torch.ones(5, 4), torch.zeros(5, 4)):
        atoms = random_atoms(x, count, generator())
        torch.testing.assert_close(atoms.norm(dim=1), torch.ones(count))
        assert len(torch.unique(atoms, dim=0)) == count


def test_an_atom_without_use_is_replaced_by_a_row() -> None:
    """Rows have no last coordinate, which is all that the last of the atoms has."""
    x = np.concatenate([some_rows(200), np.zeros((200, 1))], 1)
    atoms = np.concatenate([np.concatenate([unit_atoms(8, 6), np.zeros((8, 1))], 1), np.eye(7)[[-1]]])
    learner = DictionaryLearning(9, alpha=ALPHA, max_iter=2, batch_size=200, dict_init=atoms).fit(x)
    assert np.abs(learner.components_[:, -1]).max() < 0.1
    np.testing.assert_allclose(np.linalg.norm(learner.components_, axis=1), 1.0)
    assert (learner.transform(x)[:, -1] != 0.0).any()


# Learning.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_atoms_are_of_norm_one_after_each_step(dtype: Any) -> None:
    learner = DictionaryLearning(9, alpha=ALPHA, random_state=0)
    for batch in np.split(some_rows(300, dtype), 10):
        learner.partial_fit(batch)
        assert learner.components_.dtype == dtype
        assert learner.components_.shape == (9, 6)
        np.testing.assert_allclose(np.linalg.norm(learner.components_, axis=1), 1.0, rtol=1e-6)
    assert learner.n_iter_ == len(learner.objectives_) == 10


def test_the_objective_of_all_rows_at_once_never_rises() -> None:
    """Codes are at the minimum for the atoms, and each atom at its best for the codes."""
    x = some_rows()
    learner = DictionaryLearning(9, alpha=ALPHA, max_iter=30, batch_size=len(x), random_state=0).fit(x)
    found = np.array(learner.objectives_)
    assert (np.diff(found) <= 1e-12).all()
    assert found[-1] < 0.9 * found[0]
    last = active_set(x, learner.components_, ALPHA).objective.mean()
    assert last <= found[-1] + 1e-12


def test_reported_objectives() -> None:
    """Of the first pass over one batch: that of the atoms that were given."""
    x, atoms = some_rows(), unit_atoms(9, 6, seed=5)
    learner = DictionaryLearning(9, alpha=ALPHA, max_iter=1, batch_size=len(x), dict_init=atoms).fit(x)
    codes = active_set(x, atoms, ALPHA).codes
    assert learner.objectives_ == pytest.approx([objectives(x, codes, atoms, ALPHA).mean()])


def test_mini_batches_come_as_low_as_scikit_learn() -> None:
    """From the same atoms, both to a local minimum: ours is no more than 2 % above it."""
    x, atoms = some_rows(100), unit_atoms(9, 6, seed=5)
    options: dict[str, Any] = {"alpha": ALPHA, "max_iter": 20, "dict_init": atoms, "random_state": 0}
    theirs = ScikitDictionaryLearning(9, fit_algorithm="lars", tol=1e-6, **options).fit(x)
    ours = DictionaryLearning(9, batch_size=25, **options).fit(x)
    values = [active_set(x, each.components_, ALPHA).objective.mean() for each in (ours, theirs)]
    assert values[0] < 1.02 * values[1]


def planted(count: int, atoms: np.ndarray) -> np.ndarray:
    """Rows of two atoms each, with codes from 1 to 2 in size."""
    random = np.random.default_rng(0)
    codes = np.zeros((count, len(atoms)))
    for row in codes:
        row[random.choice(len(atoms), 2, replace=False)] = random.uniform(1.0, 2.0, 2) * random.choice([-1.0, 1.0], 2)
    return codes @ atoms + 0.01 * random.normal(size=(count, atoms.shape[1]))


def test_planted_atoms_are_found() -> None:
    """All of them, up to sign and order, by the lowest of four starts: the objective has other minima."""
    atoms = unit_atoms(12, 10, seed=1)
    x = planted(1000, atoms)
    starts = [
        DictionaryLearning(12, alpha=0.3, max_iter=20, batch_size=100, random_state=seed).fit(x) for seed in range(4)
    ]
    best = min(starts, key=lambda learner: learner.objectives_[-1])
    cosines = np.abs(atoms @ best.components_.T)
    assert cosines.max(1).min() > 0.99
    assert len(set(cosines.argmax(1))) == 12


def test_a_stream_finds_planted_atoms_from_nearby() -> None:
    atoms = unit_atoms(12, 10, seed=1)
    start = atoms + 0.15 * np.random.default_rng(2).normal(size=atoms.shape)
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    assert np.sum(start * atoms, axis=1).min() < 0.9
    x = planted(1000, atoms)
    learner = DictionaryLearning(12, alpha=ALPHA, dict_init=start)
    for _ in range(8):
        for batch in np.split(x, 10):
            learner.partial_fit(batch)
    assert np.median(np.sum(learner.components_ * atoms, axis=1)) > 0.999
    first, last, best = (active_set(x, each, ALPHA).objective.mean() for each in (start, learner.components_, atoms))
    assert last < 1.01 * best < first


def test_a_stream_forgets_early_rows() -> None:
    """As many rows later a quarter of their weight is left at most; 1 / 2^4 in the long run, 1 / 2 of mean sums."""
    learner = DictionaryLearning(1, alpha=ALPHA, dict_init=np.eye(2)[:1])
    for _ in range(50):
        learner.partial_fit(np.array([[1.0, 0.0]] * 4))
    early = float(learner._sums.codes[0, 0])
    for _ in range(50):
        learner.partial_fit(np.array([[0.0, 0.0]] * 4))
    assert early / 16.0 < float(learner._sums.codes[0, 0]) < early / 4.0


# The interface.


def test_methods() -> None:
    x = some_rows()
    learner = DictionaryLearning(9, alpha=ALPHA, max_iter=3, random_state=0).fit(x)
    codes = learner.transform(x)
    np.testing.assert_allclose(codes, active_set(x, learner.components_, ALPHA).codes, atol=1e-12)
    np.testing.assert_allclose(learner.inverse_transform(codes), codes @ learner.components_, atol=1e-12)
    np.testing.assert_allclose(clone(learner).fit_transform(x), codes, atol=1e-12)
    assert (learner.n_features_in_, learner.n_iter_, len(learner.objectives_)) == (6, 3, 3)


def test_tensors_are_taken() -> None:
    x = some_rows(dtype=np.float32)
    learner = DictionaryLearning(9, alpha=ALPHA, max_iter=2, random_state=0)
    components = clone(learner).fit(x).components_
    np.testing.assert_array_equal(learner.fit(torch.from_numpy(x)).components_, components)


def test_seeds_copies_and_parameters() -> None:
    x = some_rows()
    learner = DictionaryLearning(9, alpha=ALPHA, max_iter=3, batch_size=32, random_state=0)
    other = clone(learner)
    assert other.get_params() == learner.get_params()
    assert other.set_params(alpha=0.3).alpha == 0.3
    first = learner.fit(x).components_
    np.testing.assert_array_equal(clone(learner).fit(x).components_, first)
    assert not np.allclose(clone(learner).set_params(random_state=1).fit(x).components_, first)
    saved = pickle.loads(pickle.dumps(learner))
    np.testing.assert_array_equal(saved.transform(x), learner.transform(x))
    assert make_pipeline(StandardScaler(), clone(learner)).fit_transform(x).shape == (300, 9)


def test_scikit_learns_checks() -> None:
    for found in check_estimator(DictionaryLearning(4, max_iter=2, random_state=0), on_fail=None, on_skip=None):
        assert found["status"] in ("passed", "skipped"), (found["check_name"], found["exception"])


# What is refused.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_components": 0}, ValueError, "DictionaryLearning: n_components must be at least 1, got 0"),
        ({"n_components": 2.5}, TypeError, "n_components"),
        ({"alpha": 0.0}, ValueError, "DictionaryLearning: alpha must be positive and finite, got 0"),
        ({"alpha": float("nan")}, ValueError, "alpha"),
        ({"max_iter": 0}, ValueError, "DictionaryLearning: max_iter must be at least 1, got 0"),
        ({"batch_size": 0}, ValueError, "DictionaryLearning: batch_size must be at least 1, got 0"),
        (
            {"dict_init": np.ones((2, 6))},
            ValueError,
            "DictionaryLearning: dict_init has shape (2, 6), expected (9, 6)",
        ),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    learner = DictionaryLearning(**{"n_components": 9, "alpha": ALPHA, **options})
    with pytest.raises(error, match=re.escape(message)):
        learner.fit(some_rows(20))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones(6), "Expected 2D array"),
        (np.ones((0, 6)), "0 sample"),
        (np.full((3, 6), np.nan), "NaN"),
        (np.ones((3, 5)), "5 features"),
    ],
)
def test_bad_data(x: np.ndarray, message: str) -> None:
    learner = DictionaryLearning(9, alpha=ALPHA, max_iter=1, random_state=0).fit(some_rows(20))
    with pytest.raises(ValueError, match=message):
        learner.transform(x)
    with pytest.raises(ValueError, match=message):
        learner.partial_fit(x)
    assert learner.components_.shape == (9, 6)


@pytest.mark.parametrize(("dtype", "size"), [(np.float64, 1e160), (np.float64, 1e300), (np.float32, 1e25)])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_squares_that_overflow_are_refused(method, dtype, size):
    x = (np.random.default_rng(0).normal(size=(30, 6)) * size).astype(dtype)
    learner = DictionaryLearning(4, alpha=0.3, max_iter=4, random_state=0)
    with pytest.raises(
        ValueError, match=rf"^DictionaryLearning: the squares of X overflow {np.dtype(dtype).name}, with"
    ):
        getattr(learner, method)(x)
