"""The distribution of largest entropy with given means of statistics (Jaynes 1957), over points or a quadrature grid.

Its density is exp(<eta, T(x)> - A(eta)), and eta the maximum of the dual <eta, m> - A(eta), found by Newton's method.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastvi.expfam._checks import check_floating, check_tensor
from fastvi.expfam.finite import Tabulated
from fastvi.expfam.newton import differentiable_natural
from fastvi.expfam.polytope import Attainability, attainability

_FALLEN = 1e-9
"""What may be left of the density at an end of a grid that stands for an unbounded line, relative to its largest."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Points and weights of a quadrature rule: sum_s weights_s f(points_s) is the integral of f.

    Parameters
    ----------
    points
        (S,) or (S, d), float64.
    weights
        (S,), positive.
    open_ends
        Whether the line goes on below the first point and beyond the last, so that a density has to have fallen off
        there.
    """

    points: Tensor
    weights: Tensor
    open_ends: tuple[bool, bool] = (False, False)

    def __post_init__(self) -> None:
        points, weights = check_floating("Grid", "points", self.points), check_floating("Grid", "weights", self.weights)
        if points.dim() not in (1, 2) or weights.shape != points.shape[:1] or len(weights) == 0:
            raise ValueError(
                "Grid: points and weights must have the shapes (S,) or (S, d), and (S,), got "
                f"{tuple(points.shape)} and {tuple(weights.shape)}"
            )
        if any(self.open_ends) and points.dim() != 1:
            raise ValueError(f"Grid: open_ends are those of a line, and points have the shape {tuple(points.shape)}")
        if not bool(((weights > 0.0) & weights.isfinite()).all()):
            raise ValueError("Grid: weights must be positive")

    @staticmethod
    def interval(low: float, high: float, points: int = 1000, open_ends: tuple[bool, bool] = (False, False)) -> Grid:
        """Gauss-Legendre points between ``low`` and ``high``, in parts of 20.

        ``open_ends=(False, True)`` for what stands for the half line from ``low``, ``(True, True)`` for the line.

        Raises
        ------
        ValueError
            If the numbers are not finite and rising, or there is no point.

        Examples
        --------
        >>> grid = Grid.interval(0.0, 2.0)
        >>> bool(torch.isclose((grid.weights * grid.points**2).sum(), torch.tensor(8 / 3, dtype=torch.float64)))
        True
        """
        if not (math.isfinite(low) and math.isfinite(high) and low < high) or points < 1:
            raise ValueError(
                f"Grid.interval: low and high must be finite and low < high, points at least 1, got {low}, {high} and "
                f"{points}"
            )
        parts = -(-points // 20)
        nodes, weights = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(20))
        half = 0.5 * (high - low) / parts
        middles = low + half * (2.0 * torch.arange(parts, dtype=torch.float64) + 1.0)
        return Grid((middles.unsqueeze(-1) + half * nodes).flatten(), (half * weights).repeat(parts), open_ends)


@dataclass(frozen=True, eq=False)
class MaximumEntropy:
    """A distribution of maximum entropy.

    Attributes
    ----------
    eta
        Natural parameters, the Lagrange multipliers of the moments, (n,), float64. Where statistics depend on each
        other it is one of many.
    log_partition
        A(eta).
    entropy
        In nats; differential on a grid.
    log_density
        log p at each point, (S,): probabilities of points, or a density on a grid.
    probabilities
        Of the points, with the weights of a grid, (S,); their sum is 1.
    moments
        Means of the statistics under them, (n,), which are those that were asked for.
    """

    eta: Tensor
    log_partition: Tensor
    entropy: Tensor
    log_density: Tensor
    probabilities: Tensor
    moments: Tensor


def max_entropy(
    statistics: Callable[[Tensor], Tensor] | Tensor, moments: Tensor, support: Tensor | Grid
) -> MaximumEntropy:
    """Find the distribution over ``support`` of largest entropy under which ``statistics`` have the means ``moments``.

    Parameters
    ----------
    statistics
        A function of all points, (S,) or (S, d), to (S, n), or (S,) for one statistic; or its values.
    moments
        Means, (n,), or a scalar for one statistic. The result is differentiable in them.
    support
        Points, (S,) or (S, d), for a distribution over finitely many, or a :class:`Grid` for a density.

    Raises
    ------
    TypeError, ValueError
        If the arguments are not as above. On a grid with an open end, if the density does not fall off towards it: the
        grid is too short, or no density of this form on the unbounded line has the moments.
    NotConvergedError
        A ValueError, if no distribution has these moments, or none that leaves no point out. The message says which
        statistic is in the way, SciPy provided.

    Examples
    --------
    >>> import torch
    >>> faces = torch.arange(1.0, 7.0, dtype=torch.float64)
    >>> found = max_entropy(lambda x: x, torch.tensor(4.5, dtype=torch.float64), faces)  # a loaded die
    >>> found.probabilities
    tensor([0.0544, 0.0788, 0.1142, 0.1654, 0.2398, 0.3475], dtype=torch.float64)
    >>> line = Grid.interval(-12.0, 12.0, open_ends=(True, True))
    >>> powers = lambda x: torch.stack([x, x**2], -1)
    >>> max_entropy(powers, torch.tensor([1.0, 2.0], dtype=torch.float64), line).eta  # N(1, 1)
    tensor([ 1.0000, -0.5000], dtype=torch.float64)
    """
    table, wanted, weights = _tabulate("max_entropy", statistics, moments, support)
    family = Tabulated(table, None if weights is None else weights.log())
    eta = differentiable_natural(wanted, family)
    log_partition = family._log_partition(eta)
    log_density = table @ eta - log_partition
    probabilities = log_density.exp() if weights is None else log_density.exp() * weights
    if isinstance(support, Grid):
        _check_ends(support, log_density)
    reached = probabilities @ table
    entropy = log_partition - (eta * reached).sum()
    return MaximumEntropy(eta, log_partition, entropy, log_density, probabilities, reached)


def attainable(
    statistics: Callable[[Tensor], Tensor] | Tensor, moments: Tensor, support: Tensor | Grid
) -> Attainability:
    """Decide whether some distribution over ``support`` has the ``moments``, and say why.

    Arguments and errors are those of :func:`max_entropy`; SciPy is needed.

    Examples
    --------
    >>> import torch
    >>> spins = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> both = lambda x: torch.stack([x[:, 0], x[:, 1], x[:, 0] * x[:, 1]], -1)
    >>> found = attainable(both, torch.tensor([0.9, 0.9, -0.5]), spins)
    >>> found.status
    'outside'
    >>> print(found.message)
    outside: T0 + T1 - T2 is at most 1 on the support, its mean cannot be 2.3
    """
    table, wanted, _ = _tabulate("attainable", statistics, moments, support)
    return attainability(table, wanted)


def _tabulate(owner: str, statistics: object, moments: object, support: object) -> tuple[Tensor, Tensor, Tensor | None]:
    """Statistics (S, n), moments (n,) and weights (S,), float64."""
    points = support.points if isinstance(support, Grid) else check_tensor(owner, "support", support)
    weights = support.weights.double() if isinstance(support, Grid) else None
    if points.dim() not in (1, 2) or len(points) == 0:
        raise ValueError(f"{owner}: support must have the shape (S,) or (S, d), S > 0, got {tuple(points.shape)}")
    values = statistics(points) if callable(statistics) and not isinstance(statistics, Tensor) else statistics
    table = check_tensor(owner, "statistics", values).detach().double()
    table = table.unsqueeze(-1) if table.dim() == 1 else table
    if table.dim() != 2 or len(table) != len(points) or table.shape[1] == 0:
        raise ValueError(
            f"{owner}: statistics must be (S, n) for S = {len(points)} points, got the shape {tuple(table.shape)}"
        )
    wanted = check_tensor(owner, "moments", moments).to(table)
    wanted = wanted.unsqueeze(0) if wanted.dim() == 0 else wanted
    if wanted.shape != table.shape[1:]:
        raise ValueError(f"{owner}: moments have shape {tuple(wanted.shape)}, expected ({table.shape[1]},)")
    for name, tensor in (("statistics", table), ("moments", wanted)):
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{owner}: {name} must be finite")
    return table, wanted, weights


def _check_ends(grid: Grid, log_density: Tensor) -> None:
    for is_open, end, name in zip(grid.open_ends, (0, -1), ("first", "last"), strict=True):
        left = (log_density[end] - log_density.amax()).detach().exp().item()
        if is_open and left > _FALLEN:
            raise ValueError(
                f"max_entropy: at the {name} point of the grid {left:.2g} of the largest density is left: the grid is "
                "too short, or no density of this form on the unbounded line has these moments"
            )
