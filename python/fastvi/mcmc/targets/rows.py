"""Targets that are sums over rows of data, each a function of a linear predictor: what regressions and Gaussians share.

On a CPU the sum is a kernel that multiplies rows with vectors of chains: linear predictors are in no memory but that of
a chunk of rows. Elsewhere, and where it pays, PyTorch's two matrix products stand around one fused operation.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fastvi.mcmc.targets.base import NativeTarget
from fastvi.mcmc.targets.prior import Prior, ZeroPrior
from fastvi.ops._backends import MODULES
from fastvi.ops._operation import OPERATIONS

Kind = Literal["normal", "logistic", "poisson"]

KINDS: tuple[Kind, ...] = ("normal", "logistic", "poisson")
"""In the order of csrc/cpu/chains.h."""

TILE_ROWS = 8
"""How many rows stand side by side in a tile, as the kernel reads them."""

CHUNK_NUMBERS = 1 << 22
"""Of the linear predictors that the products make at once."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a regression in the dtype of positions; see RegressionRows in csrc/cpu/chains.h.

    Attributes
    ----------
    x, outcome
        (N, P) and (N,).
    weight, offset, shift
        (N,), (N,) and (P,), or None.
    log_scale
        Whether the last number of the position is the logarithm of the noise's standard deviation.
    count, square
        How many observations the rows stand for, and the sum of squares that they leave out.
    """

    kind: Kind
    x: Tensor
    outcome: Tensor
    weight: Tensor | None = None
    offset: Tensor | None = None
    shift: Tensor | None = None
    log_scale: bool = False
    count: float = 0.0
    square: float = 0.0

    @functools.cached_property
    def native(self) -> tuple[Any, ...]:
        """The first arguments of the native function."""
        rows, columns = self.x.shape
        count = -(-rows // TILE_ROWS)
        tiles = self.x.new_zeros(count * TILE_ROWS, columns)
        tiles[:rows] = self.x
        design = tiles.view(count, TILE_ROWS, columns).transpose(1, 2).contiguous()
        given = (design, self.outcome, self.weight, self.offset, self.shift)
        tensors = [None if each is None or each.numel() == 0 else each.contiguous() for each in given]
        return (KINDS.index(self.kind), rows, columns, *tensors, self.log_scale, self.count, self.square)


class RowsTarget(NativeTarget):
    """A target of rows, see :class:`Rows`."""

    def __init__(self, sizes: dict[str, int], rows: Rows, constant: float = 0.0, prior: Prior | None = None) -> None:
        super().__init__(sizes, rows.x.dtype, rows.x.device)
        self._rows = rows
        self._constant = constant
        if len(rows.x) == 0 and prior is None:
            prior = ZeroPrior()  # NaN in a position has to be seen by something
        if prior is not None:
            self._take(prior, type(self).__name__)

    def _native(self, *state_and_steps: Any) -> Any:
        priors = self._priors if len(self._priors) else None
        return MODULES.cpu.regression_trajectory(*self._rows.native, priors, self._constant, *state_and_steps)

    def _by_products(self, position: Tensor) -> tuple[Tensor, Tensor]:
        rows = self._rows
        columns = rows.x.shape[1]
        coefficients = position[:, :columns]
        if rows.shift is not None:
            coefficients = coefficients - rows.shift
        value, gradient = torch.zeros_like(position[:, 0]), torch.zeros_like(coefficients)
        length = max(1, CHUNK_NUMBERS // max(1, len(position)))
        for start in range(0, len(rows.x), length):
            chunk = slice(start, start + length)
            x = rows.x[chunk]
            weight = None if rows.weight is None else rows.weight[chunk]
            predictor = coefficients @ x.T
            if rows.offset is not None:
                predictor = predictor + rows.offset[chunk]
            found, residual = _links(rows.kind, rows.outcome[chunk], predictor, weight)
            value = value + found
            gradient = gradient + residual @ x
        if rows.log_scale:
            log_scale = position[:, columns]
            precision = (-2.0 * log_scale).exp()
            of_squares = precision * (value - 0.5 * rows.square)
            by_log_scale = -2.0 * of_squares - rows.count
            gradient = torch.cat([precision[:, None] * gradient, by_log_scale[:, None]], 1)
            value = of_squares - rows.count * log_scale
        return self._add_priors(position, value, gradient)


def _links(kind: Kind, outcome: Tensor, predictor: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """The log-likelihood, summed over rows, and its derivative by each predictor: (C,) and (C, N)."""
    if kind == "normal":
        residual = outcome - predictor
        scaled = residual if weight is None else residual * weight
        return -0.5 * (scaled * residual).sum(-1), scaled
    if kind == "poisson":
        mean = predictor.exp()
        # The mean outgrows y eta: where both are infinite, their difference is minus infinity.
        is_nothing = (outcome == 0.0) | (mean == math.inf)
        terms, residual = torch.where(is_nothing, 0.0, outcome * predictor) - mean, outcome - mean
    elif weight is None and _is_plain(predictor):
        functions = OPERATIONS["bernoulli_log_prob"].functions_for(predictor)
        value = functions.forward(outcome, predictor)
        return value, functions.backward(torch.ones_like(value), outcome, predictor, (False, True))[1]
    else:
        terms = outcome * predictor + torch.nn.functional.logsigmoid(-predictor)
        residual = outcome - predictor.sigmoid()
    if weight is not None:
        terms, residual = weight * terms, weight * residual
    return terms.sum(-1), residual


def _is_plain(tensor: Tensor) -> bool:
    """Whether a native function may take it: the compiler and transforms take the formula."""
    if torch.compiler.is_compiling() or not (tensor.is_cpu or tensor.is_cuda):
        return False
    return MODULES.of(tensor).route(tensor) is not NotImplemented
