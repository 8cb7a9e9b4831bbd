"""Half precision: stored in two bytes, computed in float32, rounded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastvi.ops._private import MULTIPLIED_BY_PROCESSOR, autocast_active

HALF_DTYPES = frozenset({torch.bfloat16, torch.float16})
SUPPORTED_DTYPES = frozenset({torch.float32, torch.float64}) | HALF_DTYPES
SUPPORTED_NAMES = "torch.float32, torch.float64, torch.bfloat16 or torch.float16"


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic on tensors of ``dtype``."""
    return torch.float32 if dtype in HALF_DTYPES else dtype


def widen(value: Any) -> Any:
    """A half-precision tensor as float32; anything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.dtype in HALF_DTYPES else value


def autocast_dtype(operand: object) -> torch.dtype | None:
    """The dtype of the factors of a matrix product in this region of ``torch.autocast``; None: that of the arithmetic.

    float64 stays float64, as in PyTorch's own products. On a CPU without instructions for a dtype float32 is both
    faster and nearer to the exact product.
    """
    if not autocast_active() or not isinstance(operand, Tensor) or operand.dtype is torch.float64:
        return None
    device = operand.device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return None
    dtype = torch.get_autocast_dtype(device)
    if dtype not in HALF_DTYPES or (device == "cpu" and dtype not in MULTIPLIED_BY_PROCESSOR):
        return None
    return dtype


def check_product_dtype(operation: str, dtype: torch.dtype | None) -> None:
    """Reject what a registered operator cannot round the factors of its matrix products to.

    Raises
    ------
    TypeError
        If it is neither None nor a dtype of half precision.
    """
    if dtype is not None and dtype not in HALF_DTYPES:
        raise TypeError(f"{operation}: product_dtype is {dtype}, expected None, torch.bfloat16 or torch.float16")


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
