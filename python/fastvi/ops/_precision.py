"""Half precision: stored in two bytes, computed in float32, rounded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

HALF_DTYPES = frozenset({torch.bfloat16, torch.float16})
SUPPORTED_DTYPES = frozenset({torch.float32, torch.float64}) | HALF_DTYPES
SUPPORTED_NAMES = "torch.float32, torch.float64, torch.bfloat16 or torch.float16"


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic on tensors of ``dtype``."""
    return torch.float32 if dtype in HALF_DTYPES else dtype


def widen(value: Any) -> Any:
    """A half-precision tensor as float32; anything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.dtype in HALF_DTYPES else value


def _round_to(dtype: torch.dtype, outputs: Any) -> Any:
    if isinstance(outputs, tuple):
        return tuple([None if output is None else output.to(dtype) for output in outputs])
    return outputs.to(dtype)


def in_compute_dtype(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` of a first tensor and more arguments, computed in float32 where that tensor is of half precision."""

    def computed(first: Tensor, *others: Any) -> Any:
        if first.dtype not in HALF_DTYPES:
            return function(first, *others)
        return _round_to(first.dtype, function(first.float(), *[widen(value) for value in others]))

    return computed
