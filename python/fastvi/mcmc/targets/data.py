"""The data of a target, checked: rows, outcomes, weights and offsets."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class Data:
    """Rows (N, P) with what belongs to them, in one dtype; rows whose weight is 0 are left out.

    All tensors are copies: what happens to those that were given does not change a target.

    Attributes
    ----------
    x, y, weight, offset
        (N, P) with a column of ones behind it where there is an intercept, and (N,) each; y has none in it, weight and
        offset are None, where they were not given.
    sizes
        Those of the parameters ``coefficients`` and ``intercept``.

    Raises
    ------
    TypeError, ValueError
        Of one line, if an argument has another shape, dtype or device, or a number that it cannot have.
    """

    def __init__(
        self,
        name: str,
        x: Tensor,
        y: Tensor | None = None,
        intercept: bool = False,
        sample_weight: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> None:
        self._name = name
        if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64):
            found = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{name}: x must be a tensor of float32 or float64, got {found}")
        if x.dim() != 2:
            raise ValueError(f"{name}: x must have the shape (N, P), got {tuple(x.shape)}")
        if not bool(x.isfinite().all()):
            raise ValueError(f"{name}: x must be finite, but holds NaN or infinity")
        x = x.detach().clone()
        self.sizes: dict[str, int] = {"coefficients": x.shape[1], "intercept": int(intercept)}
        self.x = torch.cat([x, x.new_ones(len(x), 1)], 1) if intercept else x
        self.y = x.new_zeros(0) if y is None else self._row("y", y)
        self.weight = None if sample_weight is None else self._row("sample_weight", sample_weight)
        self.offset = None if offset is None else self._row("offset", offset)
        if self.weight is None:
            return
        if bool((self.weight < 0.0).any()):
            raise ValueError(f"{name}: sample_weight must not be negative, got {float(self.weight.min()):.4g}")
        kept = self.weight > 0.0
        if not bool(kept.all()):
            self.x, self.weight = self.x[kept], self.weight[kept]
            self.y = self.y if y is None else self.y[kept]
            self.offset = None if self.offset is None else self.offset[kept]

    def _row(self, name: str, value: Any) -> Tensor:
        rows = len(self.x)
        if not isinstance(value, Tensor):
            raise TypeError(f"{self._name}: {name} must be a tensor, got {type(value).__name__}")
        if value.device != self.x.device:
            raise ValueError(f"{self._name}: {name} must be on the device of x, {self.x.device}, got {value.device}")
        if value.shape != (rows,):
            raise ValueError(f"{self._name}: {name} must have the shape ({rows},), got {tuple(value.shape)}")
        row: Tensor = value.detach().to(self.x.dtype, copy=True)
        if not bool(row.isfinite().all()):
            raise ValueError(f"{self._name}: {name} must be finite, but holds NaN or infinity")
        return row

    def check_whole(self) -> None:
        """Raise where an outcome is no whole number."""
        parts = self.y != self.y.round()
        if bool(parts.any()):
            raise ValueError(
                f"{self._name}: y must be whole numbers, got {float(self.y[parts][0]):.4g}; "
                "the logarithm of an exposure is an offset"
            )

    def check_outcomes(self, least: float, most: float) -> None:
        """Raise where an outcome is out of its range."""
        if len(self.y) and not (least <= float(self.y.min()) and float(self.y.max()) <= most):
            interval = f"in [{least:g}, {most:g}]" if most < math.inf else f"at least {least:g}"
            raise ValueError(
                f"{self._name}: y must be {interval}, got {float(self.y.min()):.4g} to {float(self.y.max()):.4g}"
            )
