"""Outputs of functions that return one tensor alone, or several as a tuple."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def as_tuple(outputs: Any) -> tuple[Any, ...]:
    """The outputs of a function that may return one alone."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


def only_or_tuple(values: Sequence[Any]) -> Any:
    """One value alone, or several as a tuple, as an operator returns them."""
    return values[0] if len(values) == 1 else tuple(values)
