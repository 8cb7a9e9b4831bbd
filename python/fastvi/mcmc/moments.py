"""Means and covariances of positions that come step by step, those of all chains pooled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


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
        mean = positions.mean(0)
        centred, shift = positions - mean, mean - state.mean
        weight = state.num_positions * added / count
        if self.is_dense:
            squares, between = centred.t() @ centred, torch.outer(shift, weight * shift)
        else:
            squares, between = centred.square().sum(0), weight * shift.square()
        return MomentState(count, state.mean + (added / count) * shift, state.sum_of_squares.add(squares).add_(between))

    def covariance(self, state: MomentState) -> Tensor:
        """Return the unbiased variances (D,), or the covariance (D, D), of two positions or more."""
        return state.sum_of_squares / (state.num_positions - 1)

    def inverse_mass(self, state: MomentState) -> Tensor:
        """Return the covariance of n positions drawn towards a small identity as Stan does: n C + 5e-3 I over n + 5."""
        few = 5.0 / (state.num_positions + 5.0)
        scaled = (1.0 - few) * self.covariance(state)
        (scaled.diagonal() if self.is_dense else scaled).add_(1e-3 * few)
        return scaled
