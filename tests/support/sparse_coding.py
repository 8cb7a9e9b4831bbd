"""Problems of sparse coding for tests, and their solutions from mathematics and from scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
from sklearn.linear_model import Lasso


def unit_atoms(atoms: int, columns: int, seed: int = 0) -> np.ndarray:
    """Random atoms of length 1, (A, D)."""
    dictionary = np.random.default_rng(seed).normal(size=(atoms, columns))
    return dictionary / np.linalg.norm(dictionary, axis=1, keepdims=True)


def some_problem(rows: int, columns: int, atoms: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are sums of a few atoms and noise, (N, D), and the dictionary, (A, D)."""
    dictionary = unit_atoms(atoms, columns, seed)
    random = np.random.default_rng(seed + 1)
    codes = random.normal(size=(rows, atoms)) * (random.random((rows, atoms)) < 0.2)
    return codes @ dictionary + 0.1 * random.normal(size=(rows, columns)), dictionary


def objectives(x: np.ndarray, codes: np.ndarray, dictionary: np.ndarray, alpha: float) -> np.ndarray:
    """1/2 |x - codes @ dictionary|^2 + alpha sum |codes|, for each row, in double precision."""
    x, codes, dictionary = (np.asarray(array, np.float64) for array in (x, codes, dictionary))
    found: np.ndarray = 0.5 * ((x - codes @ dictionary) ** 2).sum(-1) + alpha * np.abs(codes).sum(-1)
    return found


def distance_from_conditions(x: np.ndarray, codes: np.ndarray, dictionary: np.ndarray, alpha: float) -> np.ndarray:
    """By how much each row misses the conditions of the minimum (Karush, Kuhn, Tucker).

    The correlation of what is left with an atom is alpha times the sign of the atom's code, and no more than alpha in
    size where the code is 0.
    """
    x, codes, dictionary = (np.asarray(array, np.float64) for array in (x, codes, dictionary))
    correlations = (x - codes @ dictionary) @ dictionary.T
    with_code = np.abs(correlations - alpha * np.sign(codes))
    without = np.maximum(np.abs(correlations) - alpha, 0.0)
    return np.where(codes != 0.0, with_code, without).max(-1)


def scikit_codes(x: np.ndarray, dictionary: np.ndarray, alpha: float) -> np.ndarray:
    """scikit-learn's Lasso of each row, to rounding; its alpha is ours over D."""
    lasso = Lasso(alpha / x.shape[1], fit_intercept=False, tol=1e-14, max_iter=1_000_000)
    return np.stack([lasso.fit(dictionary.T, row).coef_ for row in x])


def least_objective(x: np.ndarray, dictionary: np.ndarray, alpha: float) -> float:
    """The minimum for one row (D,) by enumeration: that of each sign pattern of independent atoms, in closed form.

    With signs s on a set of atoms the objective is quadratic; where its minimum has these signs it is the objective of
    codes, and the minimum over all codes is among them.
    """
    least = 0.5 * float(x @ x)
    for signs in itertools.product((-1.0, 0.0, 1.0), repeat=len(dictionary)):
        chosen = np.flatnonzero(signs)
        atoms, sign = dictionary[chosen], np.array(signs)[chosen]
        if len(chosen) == 0 or np.linalg.matrix_rank(atoms) < len(chosen):
            continue
        codes = np.linalg.solve(atoms @ atoms.T, atoms @ x - alpha * sign)
        if (np.sign(codes) == sign).all():
            least = min(least, 0.5 * float(((x - codes @ atoms) ** 2).sum()) + alpha * float(np.abs(codes).sum()))
    return least
