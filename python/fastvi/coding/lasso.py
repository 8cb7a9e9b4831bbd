"""The objective of sparse coding, how far codes are from its minimum, and what solvers return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastvi.coding._arrays import Problem, read_array, read_problem

CHUNK_NUMBERS = 1 << 22
"""Codes of as many rows are made at a time as hold this many numbers: memory beside the result stays bounded."""


@dataclass(frozen=True)
class SparseCodes:
    """Codes of rows x (..., D) for a dictionary (A, D), NumPy arrays where x is one, else tensors.

    Attributes
    ----------
    codes
        Shape (..., A).
    objective
        1/2 |x - codes @ dictionary|^2 + alpha sum |codes|, of each row (...).
    gap
        The duality gap, (...): the objective is above its minimum by no more than this.
    num_steps
        Steps of the row that took the most.
    converged
        Truth values (...): whether a row met the solver's tolerance. False where x has NaN or infinity.
    """

    codes: Any
    objective: Any
    gap: Any
    num_steps: int
    converged: Any


def lasso_objective(x: Any, codes: Any, dictionary: Any, alpha: float) -> Any:
    """1/2 |x - codes @ dictionary|^2 + alpha sum |codes|, for each row.

    Parameters
    ----------
    x
        Data, (..., D), float32 or float64: NumPy arrays, or PyTorch tensors, through which gradients flow.
    codes
        (..., A).
    dictionary
        Atoms in rows, (A, D), as scikit-learn has them.
    alpha
        Weight of the L1 norm, positive. It is the ``transform_alpha`` of scikit-learn's ``SparseCoder``, and D times
        the ``alpha`` of its ``Lasso``.

    Returns
    -------
    array or tensor
        Shape (...).

    Raises
    ------
    TypeError, ValueError
        For another kind of array, or shapes, dtypes or devices that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> lasso_objective(np.array([3.0, 0.0]), np.array([2.0, 0.0]), np.eye(2), 1.0).item()
    2.5
    """
    problem, values = _with_codes("lasso_objective", x, codes, dictionary, alpha)
    return problem.like_given(objective_of(problem, values))


def duality_gap(x: Any, codes: Any, dictionary: Any, alpha: float) -> Any:
    """How far the objective is above its minimum at most, for each row: the gap to the dual problem.

    What is left, r = x - codes @ dictionary, is scaled until no atom's product with it exceeds alpha; that is a point
    of the dual problem, max <u, x> - |u|^2 / 2. Source: Kim, Koh, Lustig, Boyd and Gorinevsky 2007.

    Parameters, raises: see :func:`lasso_objective`. No gradients flow.

    Returns
    -------
    array or tensor
        Shape (...), 0 or more.

    Examples
    --------
    >>> import numpy as np
    >>> duality_gap(np.array([3.0, 0.0]), np.array([2.0, 0.0]), np.eye(2), 1.0).item()
    0.0
    """
    problem, values = _with_codes("duality_gap", x, codes, dictionary, alpha)
    with torch.no_grad():
        return problem.like_given(bounds_of(problem, values)[1])


def lipschitz(dictionary: Any) -> float:
    """The largest eigenvalue of D D': gradients of 1/2 |x - z D|^2 grow no faster; 1 over it is a step for ISTA.

    Parameters
    ----------
    dictionary
        (A, D), float32 or float64.

    Examples
    --------
    >>> import numpy as np
    >>> lipschitz(np.diag([3.0, 2.0]))
    9.0
    """
    values = read_array("lipschitz", "dictionary", dictionary).detach()
    if values.dim() != 2 or values.numel() == 0:
        raise ValueError(f"lipschitz: dictionary has shape {tuple(values.shape)}, expected (A, D)")
    if not bool(torch.isfinite(values).all()):
        raise ValueError("lipschitz: dictionary contains NaN or infinity; expected finite numbers")
    # The smaller of the two matrices with these eigenvalues, in double precision: a step that is too long diverges.
    values = values.double()
    square = values @ values.mT if len(values) <= values.shape[1] else values.mT @ values
    return float(torch.linalg.eigvalsh(square)[-1].clamp_min(0.0))


def objective_of(problem: Problem, codes: Tensor) -> Tensor:
    """The objective of each row, (N,)."""
    rest = torch.addmm(problem.x, codes, problem.dictionary, alpha=-1.0)
    return 0.5 * rest.square().sum(-1) + problem.alpha * codes.abs().sum(-1)


def bounds_of(problem: Problem, codes: Tensor) -> tuple[Tensor, Tensor]:
    """The objective and the duality gap of each row, (N,) both."""
    rest = torch.addmm(problem.x, codes, problem.dictionary, alpha=-1.0)
    square = rest.square().sum(-1)
    objective = 0.5 * square + problem.alpha * codes.abs().sum(-1)
    largest = (rest @ problem.dictionary.mT).abs().amax(-1)
    scale = problem.alpha / largest.clamp_min(problem.alpha)
    gap = objective - scale * (rest * problem.x).sum(-1) + 0.5 * scale.square() * square
    return objective, gap.clamp_min(0.0)


def chunks_of(problem: Problem) -> list[slice]:
    """Slices of rows whose codes hold `CHUNK_NUMBERS` or fewer numbers."""
    length = max(1, CHUNK_NUMBERS // problem.dictionary.shape[0])
    return [slice(start, start + length) for start in range(0, len(problem.x), length)]


def _with_codes(function: str, x: Any, codes: Any, dictionary: Any, alpha: float) -> tuple[Problem, Tensor]:
    problem = read_problem(function, x, dictionary, alpha)
    values = read_array(function, "codes", codes)
    expected = (*problem.leading, problem.dictionary.shape[0])
    if tuple(values.shape) != expected:
        raise ValueError(f"{function}: codes has shape {tuple(values.shape)}, expected {expected}")
    if values.dtype != problem.x.dtype or values.device != problem.x.device:
        raise TypeError(
            f"{function}: codes is {values.dtype} on {values.device}, x is {problem.x.dtype} on {problem.x.device}"
        )
    return problem, values.reshape(len(problem.x), expected[-1])
