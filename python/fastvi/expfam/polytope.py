"""Which means of statistics some distribution over given points has: inside, on the boundary or outside of their hull.

A mean m is in the relative interior of the convex hull of the statistics T_s if and only if no direction d has
<d, T_s - m> <= 0 at all points and < 0 at one. That is a linear program in d, and its solution is the explanation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastvi._extras import require_extra

_TOLERANCE = 1e-9
"""In units of each statistic's range: how far from a face of the hull moments count as being on it."""

_NEAR = 1e-8
"""Relative to the range of <d, T> over the points: which of them are on the face."""


@dataclass(frozen=True, eq=False)
class Attainability:
    """Where moments lie.

    Attributes
    ----------
    status
        ``"inside"``: a distribution with all points has them, and one of maximum entropy with finite natural
        parameters. ``"boundary"``: only distributions that leave points out have them; the entropy's maximum is
        approached as natural parameters grow without end. ``"outside"``: no distribution has them.
    message
        One line that says why.
    direction
        d with <d, T - m> <= 0 at all points, (n,), float64; None inside.
    """

    status: Literal["inside", "boundary", "outside"]
    message: str
    direction: Tensor | None


def attainability(table: Tensor, moments: Tensor) -> Attainability:
    """Decide where ``moments``, (n,), lie among statistics of points, ``table``, (S, n).

    Distances below 1e-9 of a statistic's range count as none.

    Raises
    ------
    ImportError
        Without SciPy, whose linear programming decides.
    """
    linprog = require_extra("scipy.optimize", "expfam", "to decide what is attainable").linprog
    statistics = table.detach().double().cpu().numpy()
    wanted = moments.detach().double().cpu().numpy()
    low, high = statistics.min(0), statistics.max(0)
    scale = np.where(high > low, high - low, np.maximum(np.abs(low), 1.0))
    for place in np.flatnonzero((wanted > high + _TOLERANCE * scale) | (wanted < low - _TOLERANCE * scale)):
        above = wanted[place] > high[place]
        bound = f"at most {high[place]:.6g}" if above else f"at least {low[place]:.6g}"
        message = f"outside: statistic {place} is {bound} on the support, its mean cannot be {wanted[place]:.6g}"
        direction = np.zeros_like(wanted)
        direction[place] = 1.0 if above else -1.0
        return Attainability("outside", message, torch.from_numpy(direction))
    differences = np.unique((statistics - wanted) / scale, axis=0)
    # Columns: d between -1 and 1, and a margin.
    size = differences.shape[1]
    bounds = [(-1.0, 1.0)] * size + [(0.0, 1.0)]
    separated = _solve(linprog, [0.0] * size + [-1.0], np.c_[differences, np.ones(len(differences))], bounds)
    if separated[-1] > _TOLERANCE:
        return _found("outside", separated[:-1] / scale, statistics, wanted)
    faces = _solve(linprog, differences.mean(0), differences, bounds[:-1])
    if -float(differences.mean(0) @ faces) > _TOLERANCE:
        return _found("boundary", faces / scale, statistics, wanted)
    return Attainability("inside", "inside: the moments are those of a distribution with all points", None)


def explain_failure(table: Tensor, moments: Tensor) -> str:
    """Say why no natural parameters were found."""
    try:
        found = attainability(table, moments)
    except ImportError as error:
        return f"Newton's method found no natural parameters for these means; {error}"
    if found.status == "inside":
        return "inside, but so near the boundary that Newton's method finds no natural parameters"
    return found.message


def points_on_face(table: Tensor, direction: Tensor) -> Tensor:
    """Which points, (S,), have the largest <d, T>."""
    values = table @ direction
    return values >= values.amax() - _NEAR * (values.amax() - values.amin())


def _solve(linprog: Any, costs: Any, rows: npt.NDArray[Any], bounds: Any) -> npt.NDArray[Any]:
    tolerances = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    solution = linprog(costs, A_ub=rows, b_ub=np.zeros(len(rows)), bounds=bounds, method="highs", options=tolerances)
    if solution.x is None:  # all zeros are a solution, so that it is no property of the moments
        raise RuntimeError(f"SciPy's linear programming failed: {solution.message}")
    found: npt.NDArray[Any] = solution.x
    return found


def _found(
    status: Literal["boundary", "outside"],
    direction: npt.NDArray[Any],
    statistics: npt.NDArray[Any],
    wanted: npt.NDArray[Any],
) -> Attainability:
    direction = direction / np.abs(direction).max()
    values = statistics @ direction
    most, asked = values.max(), float(wanted @ direction)
    terms = [(place, weight) for place, weight in enumerate(direction) if abs(weight) > 1e-7]
    shown = " ".join(f"{'+' if weight >= 0 else '-'} {_factor(abs(weight))}T{place}" for place, weight in terms[:6])
    shown = shown.removeprefix("+ ") + (" ..." if len(terms) > 6 else "")
    if status == "outside":
        message = f"outside: {shown} is at most {most:.6g} on the support, its mean cannot be {asked:.6g}"
    else:
        off = int((~points_on_face(torch.from_numpy(statistics), torch.from_numpy(direction))).sum())
        message = (
            f"on the boundary: {shown} is at most {most:.6g} on the support and has that mean, so that {off} of "
            f"{len(values)} points or more have probability 0 and no finite natural parameters exist"
        )
    return Attainability(status, message, torch.from_numpy(direction))


def _factor(weight: float) -> str:
    shown = f"{weight:.4g}"
    return "" if shown == "1" else f"{shown} "
