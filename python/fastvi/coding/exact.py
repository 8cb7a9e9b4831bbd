"""The Lasso of many rows, solved exactly by active sets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from fastvi._options import check_count
from fastvi.coding._arrays import Problem, read_problem, read_start
from fastvi.coding.lasso import SparseCodes, bounds_of, chunks_of
from fastvi.coding.proximal import descend
from fastvi.ops._backends import MODULES

_STEPS_PER_ATOM = 20
_LARGEST_GAP = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Of |x|^2 / 2, for rows that are to count as converged: more is left where atoms are so nearly dependent that their
inner products, as rounded, tell of another dictionary."""
_DESCENT_STEPS = 100_000
"""Of FISTA on other devices than the CPU."""


def active_set(
    x: Any, dictionary: Any, alpha: float, *, start: Any = None, num_steps: int | None = None
) -> SparseCodes:
    """Minimise 1/2 |x - codes @ dictionary|^2 + alpha sum |codes| for each row, to rounding.

    Atoms join the set of those with a code one at a time, that with the largest correlation first; the quadratic
    problem on the set is solved by a Cholesky factor. Native on the CPU; the codes of a row are the same for any number
    of threads, but for the rounding of PyTorch's products x D' and D D'. On other devices it is FISTA to a relative
    duality gap of 1e-10 (1e-6 in float32). Sources: Osborne, Presnell and Turlach 2000; Lee, Battle, Raina and Ng 2007.

    Parameters
    ----------
    x
        Data, (..., D), float32 or float64: a NumPy array or a PyTorch tensor. Gradients do not flow.
    dictionary
        Atoms in rows, (A, D), of the same kind.
    alpha
        Weight of the L1 norm, positive; see :func:`lasso_objective`.
    start
        Codes (..., A) to begin with, such as those for a similar dictionary; None: zeros.
    num_steps
        The most atoms that a row takes in; None: 20 A. A row that needs more has the codes it has come to, and
        ``converged`` False.

    Raises
    ------
    TypeError, ValueError
        See :func:`lasso_objective`.

    Examples
    --------
    >>> import numpy as np
    >>> active_set(np.array([[3.0, -0.5]]), np.eye(2), 1.0).codes.tolist()
    [[2.0, 0.0]]
    """
    problem = read_problem("active_set", x, dictionary, alpha)
    num_steps = None if num_steps is None else check_count("active_set", "num_steps", num_steps)
    with torch.no_grad():
        problem = replace(problem, x=problem.x.detach(), dictionary=problem.dictionary.detach())
        codes = read_start("active_set", start, problem)
        if problem.x.device.type == "cpu":
            return _solve(problem, codes, num_steps)
        tolerance = 1e-6 if problem.x.dtype == torch.float32 else 1e-10
        return descend(problem, codes, num_steps or _DESCENT_STEPS, tolerance, has_momentum=True)


def _solve(problem: Problem, codes: torch.Tensor, num_steps: int | None) -> SparseCodes:
    atoms, rank = problem.dictionary.shape
    dictionary = problem.dictionary.contiguous()
    gram = dictionary @ dictionary.mT
    steps, converged = (torch.zeros(len(codes), dtype=torch.int64) for _ in range(2))
    objective, gap = problem.x.new_empty(len(codes)), problem.x.new_empty(len(codes))
    for rows in chunks_of(problem):
        part = replace(problem, x=problem.x[rows], dictionary=dictionary)
        MODULES.cpu.lasso_rows(
            part.x @ dictionary.mT,
            gram,
            rank,
            problem.alpha,
            num_steps or _STEPS_PER_ATOM * atoms,
            codes[rows],
            steps[rows],
            converged[rows],
        )
        objective[rows], gap[rows] = bounds_of(part, codes[rows])
    return SparseCodes(
        problem.like_given(codes, atoms),
        problem.like_given(objective),
        problem.like_given(gap),
        int(steps.max()) if len(steps) > 0 else 0,
        problem.like_given(converged.bool() & (gap <= _LARGEST_GAP[codes.dtype] * 0.5 * problem.x.square().sum(-1))),
    )
