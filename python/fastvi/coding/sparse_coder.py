"""Sparse coding with a given dictionary, with scikit-learn's interface."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_array, validate_data

from fastvi.coding._arrays import check_alpha
from fastvi.coding.exact import active_set
from fastvi.coding.lasso import SparseCodes
from fastvi.coding.proximal import fista, ista

Algorithm = Literal["active_set", "fista", "ista"]

ALGORITHMS: tuple[Algorithm, ...] = ("active_set", "fista", "ista")


class SparseCoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no type hints
    """Codes of rows for a dictionary that is given, as ``sklearn.decomposition.SparseCoder``.

    Parameters
    ----------
    dictionary
        Atoms in rows, (A, D).
    alpha
        Weight of the L1 norm in 1/2 |x - codes @ dictionary|^2 + alpha sum |codes|, positive.
    algorithm
        ``"active_set"``: exact. ``"fista"``, ``"ista"``: to ``tolerance``.
    num_steps
        The most steps of a row; None: 20 A of the active set, 1000 of the others.
    tolerance
        Relative duality gap at which FISTA and ISTA stop.

    Attributes
    ----------
    n_features_in_
        D.
    components_
        The dictionary.

    Raises
    ------
    TypeError, ValueError
        By its methods, for parameters out of range and data that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> coder = SparseCoder(np.eye(2), alpha=1.0)
    >>> coder.fit_transform(np.array([[3.0, -0.5]])).tolist()
    [[2.0, 0.0]]
    """

    def __init__(
        self,
        dictionary: Any,
        *,
        alpha: float = 1.0,
        algorithm: Algorithm = "active_set",
        num_steps: int | None = None,
        tolerance: float = 1e-6,
    ) -> None:
        self.dictionary = dictionary
        self.alpha = alpha
        self.algorithm = algorithm
        self.num_steps = num_steps
        self.tolerance = tolerance

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags

    def fit(self, X: Any, y: Any = None) -> SparseCoder:  # noqa: N803  # scikit-learn's name
        """Check the parameters and the data, (N, D); nothing is learned."""
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"SparseCoder: algorithm must be one of {', '.join(ALGORITHMS)}, got {self.algorithm!r}")
        check_alpha("SparseCoder", self.alpha)
        rows = validate_data(self, X, dtype=[np.float64, np.float32])
        self.components_ = check_array(self.dictionary, dtype=[np.float64, np.float32], input_name="dictionary")
        if rows.shape[1] != self.components_.shape[1]:
            raise ValueError(
                f"SparseCoder: X has {rows.shape[1]} columns, expected {self.components_.shape[1]} as the atoms have"
            )
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        """Return the codes (N, A) of rows (N, D), in their dtype."""
        return self.solve(X).codes

    def solve(self, X: Any) -> SparseCodes:  # noqa: N803
        """Return the codes of rows (N, D) with objectives, duality gaps, and which rows have converged."""
        if not hasattr(self, "components_"):
            self.fit(X)  # there is nothing to learn
        rows = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        atoms = self.components_.astype(rows.dtype, copy=False)
        if self.algorithm == "active_set":
            return active_set(rows, atoms, self.alpha, num_steps=self.num_steps)
        method = fista if self.algorithm == "fista" else ista
        steps = 1000 if self.num_steps is None else self.num_steps
        return method(rows, atoms, self.alpha, num_steps=steps, tolerance=self.tolerance)

    def inverse_transform(self, codes: Any) -> Any:
        """Return the rows (N, D) that codes (N, A) stand for."""
        values = check_array(codes, dtype=[np.float64, np.float32])
        atoms = check_array(self.dictionary, dtype=[np.float64, np.float32], input_name="dictionary")
        if values.shape[1] != atoms.shape[0]:
            raise ValueError(f"SparseCoder: codes has {values.shape[1]} columns, expected {atoms.shape[0]} atoms")
        return values @ atoms.astype(values.dtype, copy=False)
