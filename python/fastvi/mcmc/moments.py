"""Means and covariances of positions that come step by step, those of all chains pooled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastvi.ops._backends import sum_over

MOST_AUTOMATIC = 256
"""The largest dimension in which a dense mass is thought of, unless it is asked for."""
LARGEST_CONDITION = 25.0
"""Of correlations that are left to a diagonal mass."""


class MomentState(NamedTuple):
    """Welford's sums: ``num_positions`` positions, their ``mean`` (D,), and the ``sum_of_squares`` of what is off it.

    That is (D,), or (D, D) where the covariance is dense. All in float64.
    """

    num_positions: int
    mean: Tensor
    sum_of_squares: Tensor


@dataclass(frozen=True)
class RunningCovariance:
    """The variances or the covariance of positions that come step by step, those of all chains pooled.

    Parameters
    ----------
    is_dense
        Whether the covariance of every two dimensions counts, or each dimension's variance alone.
    is_automatic
        Whether the inverse mass is dense only where that pays: see :meth:`inverse_mass`.

    References
    ----------
    Welford: Note on a method for calculating corrected sums of squares and products. Technometrics 1962. Chan, Golub,
    LeVeque: Algorithms for computing the sample variance. The American Statistician 1983, for many at once.

    Examples
    --------
    >>> import torch
    >>> positions = torch.arange(12.0).reshape(3, 4, 1)  # of 3 steps, 4 chains
    >>> covariance = RunningCovariance()
    >>> state = covariance.init(positions[0])
    >>> for each in positions:
    ...     state = covariance.update(state, each)
    >>> covariance.covariance(state)
    tensor([13.], dtype=torch.float64)
    """

    is_dense: bool = False
    is_automatic: bool = False

    @classmethod
    def of_mass(cls, mass: str | None, dimension: int) -> RunningCovariance:
        """Return what the mass ``diagonal``, ``dense`` or ``auto`` of positions of a dimension takes."""
        is_automatic = mass == "auto" and dimension <= MOST_AUTOMATIC
        return cls(mass == "dense" or is_automatic, is_automatic)

    def init(self, like: Tensor) -> MomentState:
        """Start with no positions, of the dimension and device of positions ``(C, D)``."""
        dimension = like.shape[-1]
        shape = (dimension, dimension) if self.is_dense else (dimension,)
        zeros = torch.zeros(dimension, dtype=torch.float64, device=like.device)
        return MomentState(0, zeros, zeros.new_zeros(shape))

    def update(self, state: MomentState, positions: Tensor) -> MomentState:
        """Take the positions ``(C, D)`` of a step."""
        added = len(positions)
        count = state.num_positions + added
        positions = positions.double()
        mean = sum_over(positions, 0) / added
        centred, shift = positions - mean, mean - state.mean
        weight = state.num_positions * added / count
        if self.is_dense:
            squares, between = centred.t() @ centred, torch.outer(shift, weight * shift)
        else:
            squares, between = sum_over(centred.square(), 0), weight * shift.square()
        return MomentState(count, state.mean + (added / count) * shift, state.sum_of_squares.add(squares).add_(between))

    def covariance(self, state: MomentState) -> Tensor:
        """Return the unbiased variances (D,), or the covariance (D, D), of two positions or more."""
        return state.sum_of_squares / (state.num_positions - 1)

    def inverse_mass(self, state: MomentState) -> Tensor:
        """Return the covariance of n positions drawn towards a small identity as Stan does: n C + 5e-3 I over n + 5.

        An automatic one is drawn towards its own variances instead, by the same part, which does not depend on units;
        and where its correlations have a condition number of 25 or less, those variances alone are returned: without
        them, trajectories take at most 5 times the steps.
        """
        if self.is_automatic:
            return self._automatic(state)
        few = 5.0 / (state.num_positions + 5.0)
        scaled = (1.0 - few) * self.covariance(state)
        (scaled.diagonal() if self.is_dense else scaled).add_(1e-3 * few)
        return scaled

    def _automatic(self, state: MomentState) -> Tensor:
        few = 5e-3 / (state.num_positions + 5.0)
        covariance = self.covariance(state)
        variance = covariance.diagonal()
        variance = torch.where(variance > 0.0, variance, few)
        scale = variance.rsqrt()
        correlation = covariance * torch.outer(scale, scale)
        correlation.diagonal().fill_(1.0 + few)
        if correlation.isfinite().all():
            eigenvalues = torch.linalg.eigvalsh(correlation)
            if 0.0 < eigenvalues[0] * LARGEST_CONDITION < eigenvalues[-1]:
                return correlation / torch.outer(scale, scale)
        return variance
