"""Dictionary learning by mini-batches, with scikit-learn's interface."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from fastvi._options import check_count
from fastvi.coding._arrays import check_alpha, read_array
from fastvi.coding._atoms import Statistics, random_atoms, updated
from fastvi.coding.exact import active_set
from fastvi.coding.lasso import SparseCodes

_FORGETTING = 1.25
"""The sums of a stream are over a window of this times the rows that they hold. In the long run the weight of a row at
place s of n is then (s / n)^4, the power being 1 / (1.25 - 1): early codes are of atoms that were not yet any good.
Source: Mairal et al. 2010, section 3.4.3."""


class DictionaryLearning(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no type hints
    """Learns atoms of unit norm such that rows are combinations of few of them.

    Minimises the mean over rows of 1/2 |x - codes @ components_|^2 + alpha sum |codes|. Each mini-batch is coded
    exactly, by :func:`active_set`; then each atom is set to its best value given the others and the sums over the rows
    of the last epoch. Source: Mairal, Bach, Ponce and Sapiro 2010.

    Parameters
    ----------
    n_components
        A, the number of atoms.
    alpha
        Weight of the L1 norm, positive; see :func:`lasso_objective`.
    max_iter
        Passes over the rows.
    batch_size
        Rows that are coded between two updates of the atoms.
    dict_init
        Atoms to begin with, (A, D); None: rows of the data.
    random_state
        As in scikit-learn: of the first atoms, and of the order of rows.

    Attributes
    ----------
    components_
        Atoms in rows, (A, D), each of norm 1.
    objectives_
        Mean objective of the mini-batches of each pass, as they were coded.
    n_features_in_
        D.
    n_iter_
        Passes over the rows.

    Raises
    ------
    TypeError, ValueError
        By its methods, for parameters out of range and data that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.eye(3)[[0, 1, 2, 0, 1, 2]] * np.array([[2.0], [3.0], [4.0], [-2.0], [-3.0], [1.0]])
    >>> learner = DictionaryLearning(3, alpha=0.1, random_state=0).fit(x)
    >>> np.abs(learner.components_).max(0).round(3)
    array([1., 1., 1.])
    """

    def __init__(
        self,
        n_components: int,
        *,
        alpha: float = 1.0,
        max_iter: int = 10,
        batch_size: int = 256,
        dict_init: Any = None,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.alpha = alpha
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.dict_init = dict_init
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> DictionaryLearning:  # noqa: N803  # scikit-learn's name
        """Learn atoms from rows (N, D), NumPy arrays or PyTorch tensors."""
        x = self._rows(X, reset=True)
        self._begin(x)
        self.objectives_: list[float] = []
        for _ in range(self.max_iter):
            order = torch.randperm(len(x), generator=self._generator)
            total = 0.0
            for rows in order.split(self.batch_size):
                total += self._learn(x[rows], window=float(len(x)))
            self.objectives_.append(total / len(x))
        self.n_iter_ = self.max_iter
        return self

    def partial_fit(self, X: Any, y: Any = None) -> DictionaryLearning:  # noqa: N803
        """Learn from one more mini-batch (N, D); sums over rows that came long ago count for less."""
        is_first = not hasattr(self, "components_")
        x = self._rows(X, reset=is_first)
        if is_first:
            self._begin(x)
            self.objectives_ = []
            self.n_iter_ = 0
        window = max(float(len(x)), self._sums.rows + len(x)) * _FORGETTING
        self.objectives_.append(self._learn(x, window) / len(x))
        self.n_iter_ += 1
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        """Return the codes (N, A) of rows (N, D)."""
        return self.solve(X).codes

    def solve(self, X: Any) -> SparseCodes:  # noqa: N803
        """Return the codes of rows (N, D) with objectives, duality gaps, and which rows have converged."""
        check_is_fitted(self, "components_")
        is_tensor = isinstance(X, torch.Tensor)
        x = self._rows(X, reset=False)
        atoms = torch.from_numpy(self.components_).to(x)
        return active_set(x, atoms, self.alpha) if is_tensor else active_set(x.numpy(), atoms.numpy(), self.alpha)

    def inverse_transform(self, codes: Any) -> Any:
        """Return the rows (N, D) that codes (N, A) stand for."""
        check_is_fitted(self, "components_")
        if isinstance(codes, torch.Tensor):
            return codes @ torch.from_numpy(self.components_).to(codes)
        values = check_array(codes, dtype=[np.float64, np.float32])
        return values @ self.components_.astype(values.dtype, copy=False)

    def _rows(self, given: Any, reset: bool) -> torch.Tensor:
        self._check_options()
        if isinstance(given, torch.Tensor):
            read_array("DictionaryLearning", "X", given)
            values = validate_data(self, given.detach().cpu().numpy(), dtype=[np.float64, np.float32], reset=reset)
        else:
            values = validate_data(self, given, dtype=[np.float64, np.float32], reset=reset)
        x = read_array("DictionaryLearning", "X", np.ascontiguousarray(values))
        if not bool(x.square().sum().isfinite()):
            raise ValueError(
                f"DictionaryLearning: the squares of X overflow {str(x.dtype).removeprefix('torch.')}, with a value of "
                f"{float(x.abs().max()):g} in size; rescale it"
            )
        return x

    def _check_options(self) -> None:
        check_alpha("DictionaryLearning", self.alpha)
        for name in ("n_components", "max_iter", "batch_size"):
            check_count("DictionaryLearning", name, getattr(self, name))

    def _begin(self, x: torch.Tensor) -> None:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._generator = torch.Generator().manual_seed(seed)
        if self.dict_init is None:
            atoms = random_atoms(x, self.n_components, self._generator)
        else:
            atoms = torch.tensor(check_array(self.dict_init, dtype=[np.float64, np.float32])).to(x.dtype)
            if atoms.shape != (self.n_components, x.shape[1]):
                raise ValueError(
                    f"DictionaryLearning: dict_init has shape {tuple(atoms.shape)}, expected "
                    f"{(self.n_components, x.shape[1])}"
                )
        self._sums = Statistics.empty(atoms)
        self.components_ = atoms.numpy()

    def _learn(self, x: torch.Tensor, window: float) -> float:
        """Code a mini-batch and update the atoms; return the sum of its objectives."""
        atoms = torch.from_numpy(self.components_).to(x)
        found = active_set(x, atoms, self.alpha)
        self._sums.add(x, found.codes, window)
        self.components_ = updated(atoms, self._sums, x, self._generator).numpy()
        return float(found.objective.sum())
