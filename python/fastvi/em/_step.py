"""One pass of EM over the data: log densities, log-sum-exp over components, responsibilities, weighted sums.

Rows are taken in chunks, so that no array of rows x components x columns is ever made. On CPUs and CUDA devices a
native module makes the pass; elsewhere it is the formula below, in PyTorch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NoReturn

import torch
from torch import Tensor

from fastvi.ops._backends import CUDA_IS_BUILT, MODULES

Kind = Literal["linear", "diagonal", "tied", "full"]
Moments = Literal["none", "first", "squares", "products"]

KINDS: tuple[Kind, ...] = ("linear", "diagonal", "tied", "full")
MOMENTS: tuple[Moments, ...] = ("none", "first", "squares", "products")
"""In the order in which the native function numbers them."""

CHUNK_ROWS = 65536
"""Of the formula; the native pass has its own."""


@dataclass(frozen=True)
class Densities:
    """Log densities of K components as functions of y = x - shift, in float64 on the CPU.

    ==========  =======================================================  ===============
    kind        log density of component k                               shape of scale
    ==========  =======================================================  ===============
    linear      offset_k + <location_k, y>                               None
    diagonal    offset_k - 1/2 sum_d (scale_kd y_d - location_kd)^2      (K, D)
    tied        offset_k - 1/2 |y scale - location_k|^2                (D, D), upper
    full        offset_k - 1/2 |y scale_k - location_k|^2              (K, D, D), upper
    ==========  =======================================================  ===============
    """

    kind: Kind
    offset: Tensor
    location: Tensor
    scale: Tensor | None
    shift: Tensor

    def weighted(self, log_weights: Tensor) -> Densities:
        """The same with the components' log weights added."""
        return replace(self, offset=self.offset + log_weights)


@dataclass(frozen=True)
class Statistics:
    """Sums over rows, weighted by example weights and responsibilities, in float64 on the CPU; y = x - shift.

    Attributes
    ----------
    log_likelihood, weight
        Sums of the rows' log-likelihoods and of their weights.
    count, first, second
        Shapes (K,), (K, D), and (K, D) for sums of squares or (K, D, D) for sums of products; None where not wanted.
    shift
        What was taken off the rows, (D,).
    """

    log_likelihood: float
    weight: float
    count: Tensor
    first: Tensor
    second: Tensor | None
    shift: Tensor

    def combined(self, other: Statistics, own: float = 1.0, others: float = 1.0) -> Statistics:
        """``own`` times these sums plus ``others`` times the other ones."""
        other = other.shifted(self.shift)
        second = None
        if self.second is not None and other.second is not None:
            second = own * self.second + others * other.second
        return Statistics(
            own * self.log_likelihood + others * other.log_likelihood,
            own * self.weight + others * other.weight,
            own * self.count + others * other.count,
            own * self.first + others * other.first,
            second,
            self.shift,
        )

    def shifted(self, shift: Tensor) -> Statistics:
        """The same sums about another shift."""
        move = self.shift - shift  # y becomes y + move
        if not move.any():
            return self
        count, second = self.count[:, None], self.second
        if second is not None and second.dim() == 2:
            second = second + 2.0 * move * self.first + count * move.square()
        elif second is not None:
            cross = self.first[:, :, None] * move
            second = second + cross + cross.mT + count[:, :, None] * torch.outer(move, move)
        return replace(self, first=self.first + count * move, second=second, shift=shift)


@dataclass(frozen=True)
class Pass:
    """What one pass gave: sums, and for each row what was asked for; see :func:`run_pass`.

    Attributes
    ----------
    common
        What was taken off the log densities of each row, (N,) in float64, so that differences between components keep
        their digits; None where nothing was.
    """

    statistics: Statistics
    log_likelihood: Tensor | None = None
    responsibilities: Tensor | None = None
    log_densities: Tensor | None = None
    common: Tensor | None = None


def check_sums(owner: str, statistics: Statistics, dtype: torch.dtype) -> None:
    """Refuse sums that overflowed.

    Raises
    ------
    ValueError
        See :func:`refuse_sums`.
    """
    second = 0.0 if statistics.second is None else float(statistics.second.sum())
    if not math.isfinite(float(statistics.first.sum()) + second):
        refuse_sums(owner, dtype)


def refuse_sums(owner: str, dtype: torch.dtype) -> NoReturn:
    """Say that sums overflow.

    Raises
    ------
    ValueError
        The message names the dtype of the rows.
    """
    kind = str(dtype).removeprefix("torch.")
    hint = "rows in float64, or " if dtype == torch.float32 else ""
    raise ValueError(f"{owner}: sums over the rows of X overflow {kind}; expected {hint}numbers of a usual scale")


def shift_for(x: Tensor, shift: Tensor) -> Tensor:
    """The nearest numbers that the dtype of ``x`` holds: sums about them then need no correction."""
    return shift.to(x.dtype).double()


def run_pass(
    x: Tensor,
    densities: Densities,
    *,
    weights: Tensor | None = None,
    moments: Moments = "none",
    given: Tensor | None = None,
    log_likelihood: bool = False,
    responsibilities: bool = False,
    log_densities: bool = False,
) -> Pass:
    """Pass once over the rows of ``x``, (N, D) in float32 or float64.

    Parameters
    ----------
    weights
        Of the rows, (N,), in the dtype of ``x``; None for ones.
    moments
        Which weighted sums are wanted, beside the components' counts.
    given
        Responsibilities, (N, K), to use in place of those of the densities.
    log_likelihood, responsibilities, log_densities
        What is wanted of each row: shapes (N,), (N, K) and (N, K). Responsibilities do not contain the rows' weights.
    """
    rows, components = x.shape[0], densities.offset.shape[0]
    wide = (rows, components)
    found = Pass(
        _zeros(densities, moments, x.shape[1]),
        x.new_empty(rows) if log_likelihood else None,
        x.new_empty(wide) if responsibilities else None,
        x.new_empty(wide) if log_densities else None,
    )
    run = _run_native if x.device.type == "cpu" or (x.is_cuda and CUDA_IS_BUILT) else _run_formula
    total = run(x, densities, weights, moments, given, found)
    weight = float(rows) if weights is None else float(weights.sum(dtype=torch.float64))
    return replace(found, statistics=replace(found.statistics, log_likelihood=total, weight=weight))


def _zeros(densities: Densities, moments: Moments, columns: int) -> Statistics:
    components = densities.offset.shape[0]
    shapes: dict[Moments, tuple[int, ...]] = {
        "squares": (components, columns),
        "products": (components, columns, columns),
    }
    second = torch.zeros(shapes[moments], dtype=torch.float64) if moments in shapes else None
    first = torch.zeros(components, columns if moments != "none" else 0, dtype=torch.float64)
    return Statistics(0.0, 0.0, torch.zeros(components, dtype=torch.float64), first, second, densities.shift)


def log_density_rows(y: Tensor, densities: Densities) -> Tensor:
    """Log densities (n, K) of shifted rows (n, D); component after component where each has a matrix of its own."""
    offset, location = densities.offset.to(y), densities.location.to(y)
    if densities.kind == "linear":
        return torch.addmm(offset, y, location.T)
    assert densities.scale is not None
    scale = densities.scale.to(y)
    if densities.kind == "tied":
        y, scale = y @ scale, torch.ones_like(location)
    columns = []
    for k in range(len(offset)):
        whitened = y @ scale[k] if densities.kind == "full" else y * scale[k]
        columns.append(offset[k] - 0.5 * (whitened - location[k]).square().sum(-1))
    return torch.stack(columns, -1)


def _run_formula(
    x: Tensor, densities: Densities, weights: Tensor | None, moments: Moments, given: Tensor | None, found: Pass
) -> float:
    device, shift = x.device, densities.shift.to(x)
    sums = [each.to(device) for each in _sums(found.statistics)]  # on a GPU nothing waits until they are copied back
    total = torch.zeros((), dtype=torch.float64, device=device)
    for start in range(0, x.shape[0], CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        y = x[rows] - shift
        of_rows = torch.ones_like(y[:, 0]) if weights is None else weights[rows]
        if given is None or found.log_densities is not None:
            log_densities = log_density_rows(y, densities)
            if found.log_densities is not None:
                found.log_densities[rows] = log_densities
        if given is None:
            log_likelihood = log_densities.logsumexp(-1)
            possible = log_likelihood[:, None] > -math.inf
            responsibilities = torch.where(possible, (log_densities - log_likelihood[:, None]).exp(), 0.0)
            total += torch.where(of_rows > 0, of_rows * log_likelihood, 0.0).sum(dtype=torch.float64)
            if found.log_likelihood is not None:
                found.log_likelihood[rows] = log_likelihood
            if found.responsibilities is not None:
                found.responsibilities[rows] = responsibilities
        else:
            responsibilities = given[rows]
        if moments != "none":
            _add_moments(sums, y, responsibilities * of_rows[:, None], moments)
    for target, each in zip(_sums(found.statistics), sums, strict=True):
        target.copy_(each)
    return float(total)


def _sums(statistics: Statistics) -> list[Tensor]:
    second = [] if statistics.second is None else [statistics.second]
    return [statistics.count, statistics.first, *second]


def _add_moments(sums: list[Tensor], y: Tensor, weighted: Tensor, moments: Moments) -> None:
    sums[0] += weighted.sum(0, dtype=torch.float64)
    sums[1] += (weighted.T @ y).double()
    if moments == "squares":
        sums[2] += (weighted.T @ y.square()).double()
    elif moments == "products":
        for k in range(weighted.shape[1]):
            sums[2][k] += ((y * weighted[:, k : k + 1]).T @ y).double()


def _run_native(
    x: Tensor, densities: Densities, weights: Tensor | None, moments: Moments, given: Tensor | None, found: Pass
) -> float:
    def own(part: Tensor | None) -> Tensor | None:
        return None if part is None else part.to(x).contiguous()

    # On a GPU nothing waits until the sums are copied back.
    sums = [each.to(x.device) for each in _sums(found.statistics)]
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    MODULES.of(x).mixture_pass(
        KINDS.index(densities.kind),
        MOMENTS.index(moments),
        x,
        own(densities.shift),
        own(densities.offset),
        own(densities.location),
        own(densities.scale),
        own(weights),
        own(given),
        found.log_likelihood,
        found.responsibilities,
        found.log_densities,
        total,
        *sums,
        *([] if found.statistics.second is not None else [None]),
    )
    for target, each in zip(_sums(found.statistics), sums, strict=True):
        target.copy_(each)
    return float(total)
