"""Rows and options as estimators take them: NumPy arrays or tensors, checked, with one clear line for what is wrong."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import validate_data
from torch import Tensor

SMALLEST = float(np.finfo(np.float64).tiny)
"""The least concentration: the digamma of smaller ones is infinite."""


def as_array(values: Any) -> Any:
    """A tensor as an array; anything else as it is."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values


def read_rows(estimator: Any, given: Any, *, reset: bool, least: int = 1) -> Tensor:
    """Rows (N, D) in float64.

    Raises
    ------
    ValueError
        If the shape is not (N, D), there are fewer than ``least`` rows, or a value is NaN or infinite.
    """
    x = validate_data(
        estimator, as_array(given), dtype=np.float64, reset=reset, ensure_min_samples=least, ensure_all_finite=False
    )
    return _finite(type(estimator).__name__, "X", torch.from_numpy(np.array(x)))


def read_rows_and_targets(estimator: Any, given: Any, targets: Any, *, numeric: bool) -> tuple[Tensor, Any]:
    """Rows (N, D) in float64, and targets, (N,); raises as :func:`read_rows` does."""
    x, y = validate_data(
        estimator, as_array(given), as_array(targets), dtype=np.float64, y_numeric=numeric, ensure_all_finite=False
    )
    return _finite(type(estimator).__name__, "X", torch.from_numpy(np.array(x))), y


def read_tensor(owner: str, name: str, given: Any, shape: tuple[int | None, ...]) -> Tensor:
    """Finite numbers of a shape, float64 on the CPU; None stands for any size.

    Raises
    ------
    ValueError
        If the shape is another one, or a value is NaN or infinite.
    """
    values = torch.from_numpy(np.array(as_array(given), dtype=np.float64))
    fits = values.dim() == len(shape) and all(
        size in (None, found) for size, found in zip(shape, values.shape, strict=True)
    )
    if not fits:
        expected = ", ".join("n" if size is None else str(size) for size in shape)
        raise ValueError(f"{owner}: {name} has shape {tuple(values.shape)}, expected ({expected})")
    return _finite(owner, name, values)


def _finite(owner: str, name: str, values: Tensor) -> Tensor:
    if not bool(values.isfinite().all()):
        raise ValueError(f"{owner}: {name} contains NaN or infinity; expected finite numbers")
    return values


def check_positive(owner: str, **options: Any) -> None:
    """Refuse an option that is no positive and finite number.

    Raises
    ------
    ValueError
        The message names the option.
    """
    for name, value in options.items():
        if not (isinstance(value, (int, float, np.number)) and 0.0 < value < math.inf):
            raise ValueError(f"{owner}: {name} must be a positive number, got {value!r}")


def check_concentrations(owner: str, **options: Any) -> None:
    """Refuse a concentration that is no positive and finite number, or so small that its digamma is infinite.

    Raises
    ------
    ValueError
        The message names the option.
    """
    check_positive(owner, **options)
    for name, value in options.items():
        if value < SMALLEST:
            raise ValueError(f"{owner}: {name} must be at least {SMALLEST:.2g}, got {value!r}")


def check_tolerance(owner: str, tol: Any) -> None:
    """Refuse a tolerance below 0.

    Raises
    ------
    ValueError
        The message shows it.
    """
    if not (isinstance(tol, (int, float, np.number)) and tol >= 0.0):
        raise ValueError(f"{owner}: tol must be 0 or more, got {tol!r}")


def warn_not_converged(owner: str, max_iter: int) -> None:
    """Warn as scikit-learn does."""
    warnings.warn(
        f"{owner}: did not converge in {max_iter} iterations; try a larger max_iter or tol",
        ConvergenceWarning,
        stacklevel=3,
    )
