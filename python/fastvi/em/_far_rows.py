"""Rows far from all components: differences of log densities that are far smaller than the log densities themselves.

A log density of -1e18 is rounded to a multiple of 128, and what probabilities are made of, the differences between
components, is lost. Such rows are taken again, in float64, and the differences are made without that of two squares:
a_k^2 - a_r^2 = (a_k - a_r) (a_k + a_r) for whitened rows a_k = y U_k - location_k, where a_k - a_r is
y (U_k - U_r) - (location_k - location_r). What components have in common, such as a tied covariance, falls out of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvi._estimators import check_reach
from fastvi.em._step import Densities

_FAR = {torch.float32: -1e4, torch.float64: -1e6}
"""Less half the squared distance, of up to `_USUAL_COLUMNS` columns, beyond which rows are taken again: there a log
density is rounded by 1e-3, or 1e-10. With more columns it grows as that of usual rows does."""
_USUAL_COLUMNS = 1000

_NUMBERS = 1 << 20
"""Of the rows x components x columns that are held at once."""


@dataclass(frozen=True)
class FarRows:
    """What was found for some of the rows: log densities (n, K) are ``common`` (n,) plus ``relative`` (n, K)."""

    places: Tensor
    common: Tensor
    relative: Tensor

    @property
    def log_likelihood(self) -> Tensor:
        """Of the rows, (n,)."""
        return self.common + self.relative.logsumexp(1)

    @property
    def responsibilities(self) -> Tensor:
        """Of the components for the rows, (n, K)."""
        return self.relative.softmax(1)


def far_places(features: Tensor, densities: Densities, log_likelihood: Tensor, largest: float) -> Tensor:
    """The places of rows that a pass in their own dtype cannot tell well, or for which it overflows.

    Parameters
    ----------
    features
        What the pass read of rows, (n, S).
    densities, log_likelihood
        What it read of the components, and what it found, (n,).
    largest
        No feature is larger in size.
    """
    most = _largest_feature(densities, torch.finfo(features.dtype).max)
    lowest = -math.inf
    if densities.kind != "linear":
        offset = float(densities.offset.amax())
        lowest = offset + _FAR[features.dtype] * max(1.0, densities.location.shape[1] / _USUAL_COLUMNS)
    if largest < most and lowest < float(log_likelihood.min()) < math.inf:  # false for NaN
        return torch.empty(0, dtype=torch.int64)
    far = ~(log_likelihood > lowest) | ~log_likelihood.isfinite()
    if largest >= most:
        far = far | (features.abs().amax(1) >= most)
    return far.nonzero()[:, 0]


def _largest_feature(densities: Densities, most: float) -> float:
    """A size of features below which nothing overflows ``most`` on the way to log densities."""
    columns, location = densities.location.shape[1], _largest(densities.location)
    if densities.kind == "linear":
        offset = densities.offset[densities.offset > -math.inf]  # the others are of weight 0
        return (0.25 * most - _largest(offset)) / max(columns * location, 1.0)
    assert densities.scale is not None
    room = math.sqrt(0.25 * most / columns) - location
    return room / max(columns * _largest(densities.scale), 1.0) - _largest(densities.shift)


def _largest(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, math.inf))


def take_far_rows(owner: str, x: Tensor, features: Tensor, densities: Densities, places: Tensor, first: int) -> FarRows:
    """Log densities of the rows at ``places``, in float64 on the CPU.

    Parameters
    ----------
    owner, first
        For messages: the estimator, and the number of the first of the rows ``x``.
    x, features
        All rows (n, D) in any dtype, and what is read of those at ``places``, (m, S) in float64 on the CPU.

    Raises
    ------
    ValueError
        If a squared distance, or a product of parameters and statistics, overflows float64.
    """
    components, columns = densities.location.shape
    parts = []
    for own in torch.arange(len(features)).split(max(1, _NUMBERS // (components * columns))):
        where = places[own.to(places.device)]
        if densities.kind == "linear":
            log_densities = densities.offset + features[own] @ densities.location.T
            check_reach(owner, x[where], log_densities.where(densities.offset > -math.inf, 0.0), first + where)
            common = log_densities.amax(1)
            relative = log_densities - common[:, None]
        else:
            y = features[own] - densities.shift
            whitened = _whitened(y, densities)
            squares = whitened.square().sum(-1)
            check_reach(owner, x[where], squares, first + where)
            log_densities = densities.offset - 0.5 * squares
            nearest = log_densities.argmax(1)
            common = log_densities.gather(1, nearest[:, None])[:, 0]
            relative = torch.empty_like(log_densities)
            for k in nearest.unique().tolist():
                chosen = nearest == k
                steps = _steps(y[chosen], densities, k)
                sums = whitened[chosen] + whitened[chosen][:, k : k + 1]
                relative[chosen] = densities.offset - densities.offset[k] - 0.5 * (steps * sums).sum(-1)
        parts.append(FarRows(where, common, relative))
    if len(parts) == 1:
        return parts[0]
    return FarRows(places, torch.cat([part.common for part in parts]), torch.cat([part.relative for part in parts]))


def _whitened(y: Tensor, densities: Densities) -> Tensor:
    """Whitened rows: y U_k - location_k, (n, K, D)."""
    scale, location = densities.scale, densities.location
    assert scale is not None
    if densities.kind == "diagonal":
        return y[:, None] * scale - location
    if densities.kind == "tied":
        return (y @ scale)[:, None] - location
    return torch.einsum("nd,kde->nke", y, scale) - location


def _steps(y: Tensor, densities: Densities, k: int) -> Tensor:
    """Whitened rows less those of component k, (n, K, D)."""
    scale, location = densities.scale, densities.location - densities.location[k]
    assert scale is not None
    if densities.kind == "diagonal":
        return y[:, None] * (scale - scale[k]) - location
    if densities.kind == "tied":
        return -location.expand(len(y), *location.shape)
    return torch.einsum("nd,kde->nke", y, scale - scale[k]) - location
