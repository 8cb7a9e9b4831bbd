"""Rows as estimators take them, NumPy arrays or PyTorch tensors, checked and made into tensors without a copy."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import validate_data
from torch import Tensor

from fastvi._estimators import in_one_line
from fastvi.ops._backends import sum_over


@dataclass(frozen=True)
class Rows:
    """Rows (N, D) in float32 or float64 and their weights, (N,) or None; whether they came as a tensor; who reads them.

    Weights are what was given times a power of two, the largest of them in [1, 2): no estimate depends on their unit.
    """

    x: Tensor
    weights: Tensor | None
    is_tensor: bool
    owner: str = "fastvi.em"

    @cached_property
    def largest(self) -> float:
        """The largest number in size; NaN or infinite if one is."""
        return largest_of(self.x)

    def like_given(self, values: Tensor) -> Any:
        """A result of the rows as what they came as."""
        return values if self.is_tensor else values.numpy()

    def mean(self) -> Tensor:
        """Their weighted mean, (D,) in float64 on the CPU; there with the same bits for any number of threads."""
        if self.x.device.type == "cpu":
            sums = sum_over(self.x, 0, self.weights)
        else:
            sums = self.x.sum(0) if self.weights is None else self.weights @ self.x
        count = float(len(self.x)) if self.weights is None else float(self.weights.sum(dtype=torch.float64))
        return sums.double().cpu() / count


def read_rows(estimator: Any, given: Any, sample_weight: Any = None, *, reset: bool, least: int = 1) -> Rows:
    """Check what a method of an estimator was given.

    Raises
    ------
    TypeError
        If a tensor is not float32 or float64.
    ValueError
        If the shape is not (N, D), if there are fewer than ``least`` rows, if a value is NaN or infinite, or if weights
        are negative, not finite, all 0, or of another shape.
    """
    name = type(estimator).__name__
    if isinstance(given, Tensor):
        x = _read_tensor(estimator, name, given, reset, least)
    else:
        kinds = [np.float64, np.float32]
        values = validate_data(
            estimator, given, dtype=kinds, reset=reset, ensure_min_samples=least, ensure_all_finite=False
        )
        x = _as_tensor(values)
    weights = None if sample_weight is None else _read_weights(name, sample_weight, x)
    rows = Rows(x, weights, isinstance(given, Tensor), name)
    if not math.isfinite(rows.largest):
        raise ValueError(f"{name}: X contains NaN or infinity; expected finite numbers")
    return rows


def largest_of(x: Tensor) -> float:
    """The largest number in size; NaN or infinite if one is, 0 if there is none."""
    if x.numel() == 0:
        return 0.0
    least, most = torch.aminmax(x)
    return max(-float(least), float(most))


def _as_tensor(values: Any) -> Tensor:
    if any(stride < 0 for stride in values.strides):
        values = np.ascontiguousarray(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # arrays that may not be written to: nothing writes to them
        return torch.from_numpy(values)


def _read_tensor(estimator: Any, name: str, x: Tensor, reset: bool, least: int) -> Tensor:
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: X is {x.dtype}, expected float32 or float64")
    if x.dim() != 2:
        raise ValueError(f"{name}: X has shape {tuple(x.shape)}, expected (rows, columns)")
    if len(x) < least:
        raise ValueError(f"{name}: X has {len(x)} rows, expected {least} or more")
    if x.shape[1] < 1:
        raise ValueError(f"{name}: X has no columns")
    if reset:
        estimator.n_features_in_ = x.shape[1]
    elif x.shape[1] != estimator.n_features_in_:
        raise ValueError(f"{name}: X has {x.shape[1]} columns, expected the {estimator.n_features_in_} of the fit")
    return x.detach()


def _read_weights(name: str, given: Any, x: Tensor) -> Tensor:
    weights = _numbers(name, "sample_weight", given, "one for each row")
    if weights.dim() == 0:
        weights = weights.expand(len(x))
    if weights.shape != (len(x),):
        raise ValueError(f"{name}: sample_weight has shape {tuple(weights.shape)}, expected ({len(x)},)")
    if not bool(torch.isfinite(weights).all()):
        raise ValueError(f"{name}: sample_weight contains NaN or infinity")
    if bool((weights < 0).any()):
        raise ValueError(f"{name}: sample_weight must not be negative, got {float(weights.min()):g}")
    largest = float(weights.max())
    if largest == 0.0:
        raise ValueError(f"{name}: sample_weight is zero for every row")
    exponent = 1 - math.frexp(largest)[1]
    # In two steps, because the power of two by which the least weights are multiplied is beyond float64.
    half = exponent // 2
    return (weights * math.ldexp(1.0, half) * math.ldexp(1.0, exponent - half)).to(x).contiguous()


def _numbers(name: str, argument: str, given: Any, expected: str) -> Tensor:
    """What was given in float64 on the CPU, a copy; anything but real numbers is refused."""
    try:
        if isinstance(given, Tensor):
            if not given.is_complex():
                return given.detach().cpu().double().clone()
        else:
            values = np.asarray(given)
            if values.dtype.kind in "biufO":
                return torch.from_numpy(np.array(values, dtype=np.float64))
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{name}: {argument} must hold real numbers, {expected}, got {in_one_line(given)}")


def read_parameter(name: str, argument: str, given: Any, shape: tuple[int, ...], *, sums: bool = False) -> Tensor:
    """A parameter that a user gave to start from, in float64; with ``sums``, probabilities that sum to 1 along a row.

    Raises
    ------
    ValueError
        If its shape is another one, if it is not finite, or if it holds no probabilities where it should.
    """
    values = _numbers(name, argument, given, f"of the shape {shape}")
    if values.shape != shape:
        raise ValueError(f"{name}: {argument} has shape {tuple(values.shape)}, expected {shape}")
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name}: {argument} contains NaN or infinity")
    if sums and (bool((values < 0).any()) or not bool(((values.sum(-1) - 1.0).abs() < 1e-6).all())):
        raise ValueError(f"{name}: {argument} must be 0 or more and sum to 1")
    return values
