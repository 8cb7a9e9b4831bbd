"""A look at a tensor's values: whether they may be seen now, and whether they are what a likelihood needs."""

from __future__ import annotations

import numbers
from typing import Any

import torch
from torch import Tensor

from fastvi._sizes import check_flag, refuse_negative, refuse_signs
from fastvi._sizes import describe_range as describe_range
from fastvi.ops._precision import SUPPORTED_DTYPES
from fastvi.ops._private import dispatch_modes, tracing_state, transforms_active


def has_values(x: Tensor) -> bool:
    """Whether ``x`` has values that Python may look at.

    Not under ``torch.compile``, ``torch.export``, ``torch.jit.trace`` and the transforms of ``torch.func``, which run
    a program without values or with many at once. Nor in a layout that operations refuse, or where its memory was
    freed: what there is to say of these is the operation's to say.
    """
    return (
        not torch.compiler.is_compiling()
        and type(x) in (Tensor, torch.nn.Parameter)
        and not x.is_meta
        and x.layout is torch.strided
        and not x.is_nested
        and not transforms_active()
        and not dispatch_modes()
        and tracing_state() is None
        and (x.numel() == 0 or x.untyped_storage().nbytes() > 0 or x._is_zerotensor())
    )


def values_at_hand(x: Tensor) -> bool:
    """Whether it costs little to look at the values: not on a GPU, whose queue Python would wait for."""
    return has_values(x) and x.is_cpu


def range_outside_unit_interval(x: Tensor) -> tuple[float, float] | None:
    """The least and the largest value of ``x`` where they are not in [0, 1]; NaN is both where there is any."""
    if x.numel() == 0:
        return None
    least, largest = (bound.item() for bound in torch.aminmax(x.detach()))
    return None if least >= 0.0 and largest <= 1.0 else (least, largest)


def check_not_negative(operation: str, name: str, value: object) -> None:
    """Reject a number below zero or NaN, but not while a program is compiled, which takes numbers as they come.

    Raises
    ------
    ValueError
        If it is one; what is no number is left to the operation.
    """
    if torch.compiler.is_compiling() or not isinstance(value, numbers.Real):
        return
    number: Any = value
    refuse_negative(operation, name, number)


def check_counts(operation: str, x: object, total_count: object, validate_args: object) -> None:
    """Reject counts below zero, and a total count that is not above it, where they are to be looked at; NaN as well.

    Raises
    ------
    ValueError
        If there are any.
    """
    if not check_flag(operation, "validate_args", validate_args):
        return
    for name, given in {"x": x, "total_count": total_count}.items():
        if isinstance(given, Tensor) and given.dtype in SUPPORTED_DTYPES and has_values(given) and given.numel():
            least, largest = (bound.item() for bound in torch.aminmax(given.detach()))
            refuse_signs(operation, name, (least, largest), name == "total_count")
