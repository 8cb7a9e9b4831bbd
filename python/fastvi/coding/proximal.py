"""Proximal gradient descent for sparse codes: ISTA and FISTA on many rows at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastvi._sizes import check_flag, check_integer, check_number
from fastvi.coding._arrays import Problem, read_problem, read_start
from fastvi.coding.lasso import SparseCodes, bounds_of, chunks_of, lipschitz
from fastvi.ops._backends import MODULES

_STEPS_BETWEEN_LOOKS = 10
"""Steps after which the duality gap is looked at, which costs about as much as one of them."""
_SHRINKAGE = 0.5
"""Of a step that was too long, when backtracking."""


def ista(
    x: Any,
    dictionary: Any,
    alpha: float,
    *,
    start: Any = None,
    num_steps: int = 1000,
    tolerance: float = 1e-6,
    step_size: float | None = None,
    backtracking: bool = False,
) -> SparseCodes:
    """Minimise 1/2 |x - codes @ dictionary|^2 + alpha sum |codes| by iterative shrinkage and thresholding.

    z becomes S(z + s (x - z D) D', s alpha), S being :func:`fastvi.soft_threshold`. With a step s of at most 1 / L, L
    being :func:`lipschitz`, the objective never rises. Source: Daubechies, Defrise and De Mol 2004.

    Parameters
    ----------
    x
        Data, (..., D), float32 or float64: a NumPy array or a PyTorch tensor. Gradients do not flow.
    dictionary
        Atoms in rows, (A, D), of the same kind.
    alpha
        Weight of the L1 norm, positive; see :func:`lasso_objective`.
    start
        Codes (..., A) to begin with; None: zeros.
    num_steps
        The most steps.
    tolerance
        A row has converged when its duality gap is at most this fraction of |x|^2 / 2, which is looked at every ten
        steps; it then leaves the batch. 0: all steps are taken, and ``converged`` says whether the gap is 0.
    step_size
        s; None: 1 / L.
    backtracking
        Start from the longest step that a single atom allows and halve it for a row whenever the objective's quadratic
        bound does not hold there, in place of 1 / L.

    Raises
    ------
    TypeError, ValueError
        See :func:`lasso_objective`; and if a number is out of its range, or a step comes with backtracking.

    Examples
    --------
    >>> import numpy as np
    >>> ista(np.array([[3.0, -0.5]]), np.eye(2), 1.0).codes.tolist()
    [[2.0, 0.0]]
    """
    found = read_descent("ista", x, dictionary, alpha, start, num_steps, tolerance, step_size, backtracking)
    return _run(found, has_momentum=False, restart=False)


def fista(
    x: Any,
    dictionary: Any,
    alpha: float,
    *,
    start: Any = None,
    num_steps: int = 1000,
    tolerance: float = 1e-6,
    step_size: float | None = None,
    backtracking: bool = False,
    restart: bool = True,
) -> SparseCodes:
    """Minimise as :func:`ista`, with Nesterov's momentum.

    After t steps the objective is within 2 L |z* - z_0|^2 / (t + 1)^2 of its minimum. Source: Beck and Teboulle 2009;
    restarts: O'Donoghue and Candes 2015.

    Parameters
    ----------
    restart
        A row whose momentum leads uphill loses it. False: the method as it was published, whose bound holds at any
        step.

    Other parameters, raises: see :func:`ista`.

    Examples
    --------
    >>> import numpy as np
    >>> fista(np.array([[3.0, -0.5]]), np.eye(2), 1.0).codes.tolist()
    [[2.0, 0.0]]
    """
    found = read_descent("fista", x, dictionary, alpha, start, num_steps, tolerance, step_size, backtracking)
    return _run(found, has_momentum=True, restart=check_flag("fista", "restart", restart))


@dataclass(frozen=True)
class Descent:
    """What a method of proximal gradient descent was given, checked."""

    problem: Problem
    codes: Tensor
    num_steps: int
    tolerance: float
    step_size: float | None
    backtracking: bool


def read_descent(
    function: str,
    x: Any,
    dictionary: Any,
    alpha: float,
    start: Any,
    num_steps: object,
    tolerance: object,
    step_size: object,
    backtracking: object,
) -> Descent:
    """Check the arguments of `ista` or `fista`."""
    problem = read_problem(function, x, dictionary, alpha)
    problem = replace(problem, x=problem.x.detach(), dictionary=problem.dictionary.detach())
    steps = check_integer(function, "num_steps", num_steps)
    if steps < 0:
        raise ValueError(f"{function}: num_steps must be 0 or more, got {steps}")
    fraction = check_number(function, "tolerance", tolerance)
    if not 0.0 <= fraction < math.inf:
        raise ValueError(f"{function}: tolerance must be 0 or more, got {fraction:g}")
    length = None if step_size is None else check_number(function, "step_size", step_size)
    if length is not None and not 0.0 < length < math.inf:
        raise ValueError(f"{function}: step_size must be positive and finite, got {length:g}")
    halves = check_flag(function, "backtracking", backtracking)
    if halves and length is not None:
        raise ValueError(f"{function}: backtracking finds its own steps: leave step_size out")
    return Descent(problem, read_start(function, start, problem), steps, fraction, length, halves)


def _run(found: Descent, *, has_momentum: bool, restart: bool) -> SparseCodes:
    with torch.no_grad():
        return descend(
            found.problem,
            found.codes,
            found.num_steps,
            found.tolerance,
            has_momentum=has_momentum,
            restart=restart,
            step_size=found.step_size,
            backtracking=found.backtracking,
        )


def descend(
    problem: Problem,
    codes: Tensor,
    num_steps: int,
    tolerance: float,
    *,
    has_momentum: bool,
    restart: bool = True,
    step_size: float | None = None,
    backtracking: bool = False,
) -> SparseCodes:
    """Go down from ``codes`` (N, A), which are written to; see :func:`ista` and :func:`fista`."""
    length = step_size or first_step(problem.dictionary, backtracking)
    codes.masked_fill_(~torch.isfinite(problem.x).all(-1, keepdim=True), math.nan)  # such a row has no minimum
    objective, gap = problem.x.new_empty(len(codes)), problem.x.new_empty(len(codes))
    most = 0
    for rows in chunks_of(problem):
        part = replace(problem, x=problem.x[rows])
        batch = Batch(part, codes[rows], length, has_momentum, restart)
        most = max(most, batch.descend(num_steps, tolerance, backtracking))
        objective[rows], gap[rows] = bounds_of(part, codes[rows])
    return SparseCodes(
        problem.like_given(codes, codes.shape[1]),
        problem.like_given(objective),
        problem.like_given(gap),
        most,
        problem.like_given(gap <= tolerance * 0.5 * problem.x.square().sum(-1)),
    )


def first_step(dictionary: Tensor, backtracking: bool) -> float:
    """1 / L; with backtracking the longest step that a dictionary of one of the atoms allows. 1 without any atom."""
    bound = float(dictionary.square().sum(-1).amax()) if backtracking else lipschitz(dictionary)
    return 1.0 / bound if bound > 0.0 else 1.0


class Batch:
    """Rows on their way down, fewer and fewer of them: those that have converged are written back and leave.

    Parameters
    ----------
    problem
        Its rows.
    codes
        (N, A), where they start and where results go.
    step_size
        The first step.
    has_momentum, restart
        FISTA, and whether it restarts.
    """

    def __init__(self, problem: Problem, codes: Tensor, step_size: float, has_momentum: bool, restart: bool) -> None:
        self._problem = problem
        self._out = codes
        self._rows: Tensor | None = None  # places of the rows that are left; None: all
        self._codes = codes
        self._extrapolated = codes.clone() if has_momentum else None
        ones = problem.x.new_ones(len(codes))
        self._momentum = ones.clone() if has_momentum else None
        self._step = step_size * ones
        self._restart = restart
        atoms, columns = problem.dictionary.shape
        self._gram = problem.dictionary @ problem.dictionary.mT if atoms <= columns else None
        self._correlations = problem.x @ problem.dictionary.mT if self._gram is not None else None

    def descend(self, num_steps: int, tolerance: float, backtracking: bool) -> int:
        """Take steps until all rows have converged; return their number."""
        for step in range(num_steps):
            looks = tolerance > 0.0 and step % _STEPS_BETWEEN_LOOKS == 0
            if looks and not self._let_go(tolerance):
                return step
            self.step(backtracking)
        self._write_back(self._codes)
        return num_steps

    def step(self, backtracking: bool = False) -> None:
        """One step of the rows that are left."""
        origin = self._codes if self._extrapolated is None else self._extrapolated
        direction = self._direction(origin)
        if backtracking:
            self._shorten(origin, direction)
        threshold = self._problem.alpha * self._step
        if direction.device.type == "cpu":
            MODULES.cpu.proximal_step(
                direction, self._step, threshold, self._codes, self._extrapolated, self._momentum, int(self._restart)
            )
        else:
            self._step_by_formula(origin, direction, threshold)

    def _direction(self, origin: Tensor) -> Tensor:
        if self._gram is not None and self._correlations is not None:
            return torch.addmm(self._correlations, origin, self._gram, alpha=-1.0)
        rest = torch.addmm(self._problem.x, origin, self._problem.dictionary, alpha=-1.0)
        return rest @ self._problem.dictionary.mT

    def _step_by_formula(self, origin: Tensor, direction: Tensor, threshold: Tensor) -> None:
        moved = _shrunk(origin + self._step[:, None] * direction, threshold[:, None])
        if self._momentum is None or self._extrapolated is None:
            self._codes.copy_(moved)
            return
        uphill = ((origin - moved) * (moved - self._codes)).sum(-1) > 0.0
        before = torch.where(uphill, 1.0, self._momentum) if self._restart else self._momentum
        self._momentum = (1.0 + (1.0 + 4.0 * before.square()).sqrt()) / 2.0
        factor = (before - 1.0) / self._momentum
        self._extrapolated.copy_(moved + factor[:, None] * (moved - self._codes))
        self._codes.copy_(moved)

    def _shorten(self, origin: Tensor, direction: Tensor) -> None:
        """Halve the steps of rows until |(z - y) D|^2 <= |z - y|^2 / s: what 1/2 |x - z D|^2 is bounded by."""
        while True:
            threshold = self._problem.alpha * self._step
            way = _shrunk(origin + self._step[:, None] * direction, threshold[:, None]) - origin
            curved = (way @ self._problem.dictionary).square().sum(-1)
            # To rounding: at the minimum both sides vanish.
            too_long = curved * self._step > way.square().sum(-1) * (1.0 + 1e-5)
            if not bool(too_long.any()):
                return
            self._step = torch.where(too_long, _SHRINKAGE * self._step, self._step)

    def _let_go(self, tolerance: float) -> bool:
        """Write back the rows that have converged and go on without them; False where none is left."""
        _, gap = bounds_of(self._problem, self._codes)
        going = gap > tolerance * 0.5 * self._problem.x.square().sum(-1)  # not so where there is a NaN
        left = int(going.sum())
        if left == len(going):
            return left > 0
        self._write_back(self._codes)
        keep = going.nonzero()[:, 0]
        self._rows = keep if self._rows is None else self._rows[keep]
        self._problem = replace(self._problem, x=self._problem.x[keep])
        self._codes, self._step = self._codes[keep], self._step[keep]
        if self._extrapolated is not None and self._momentum is not None:
            self._extrapolated, self._momentum = self._extrapolated[keep], self._momentum[keep]
        if self._correlations is not None:
            self._correlations = self._correlations[keep]
        return left > 0

    def _write_back(self, codes: Tensor) -> None:
        if self._rows is not None:
            self._out[self._rows] = codes


def _shrunk(values: Tensor, threshold: Tensor) -> Tensor:
    return values.sign() * (values.abs() - threshold).clamp_min(0.0)
