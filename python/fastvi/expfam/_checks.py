"""What families ask of their tensors: one clear line for what is not as it has to be."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastvi.ops._values import has_values, values_at_hand

DTYPES = (torch.float32, torch.float64)


def check_tensor(owner: str, name: str, value: object) -> Tensor:
    """A tensor.

    Raises
    ------
    TypeError
        If ``value`` is anything else.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{owner}: {name} must be a tensor, got {type(value).__name__}")
    return value


def check_floating(owner: str, name: str, value: object) -> Tensor:
    """A tensor of float32 or float64.

    Raises
    ------
    TypeError
        If ``value`` is anything else.
    """
    tensor = check_tensor(owner, name, value)
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{owner}: {name} has dtype {tensor.dtype}, expected torch.float32 or torch.float64")
    return tensor


def check_vector(owner: str, name: str, value: object, size: int) -> Tensor:
    """A tensor of parameters, whose last axis has ``size`` numbers.

    Raises
    ------
    TypeError, ValueError
        If ``value`` has another dtype or shape.
    """
    tensor = check_floating(owner, name, value)
    if tensor.dim() == 0 or tensor.shape[-1] != size:
        raise ValueError(f"{owner}: {name} has shape {tuple(tensor.shape)}, expected (..., {size})")
    return tensor


def check_values(
    owner: str,
    name: str,
    value: Tensor,
    inside: Callable[[Tensor], Tensor],
    expected: str,
    event_axes: int = 1,
    always: bool = False,
) -> None:
    """Look at the values where that costs little, or ``always``, and refuse those that are not ``inside``.

    Raises
    ------
    ValueError
        The message shows the first that is outside.
    """
    if not (has_values(value) if always else values_at_hand(value)) or value.numel() == 0:
        return
    with torch.no_grad():
        good = inside(value.detach())
        if bool(good.all()):
            return
        place = tuple(torch.nonzero(~good)[0].tolist())
        got = value.detach()[place]
    shown = [f"{number:.6g}" for number in got.reshape(-1)[:8].tolist()]
    text = ", ".join(shown) + (", ..." if got.numel() > 8 else "")
    at = f" at {list(place)}" if place else ""
    raise ValueError(f"{owner}: {name} must be {expected}, got {f'({text})' if event_axes else text}{at}")


def positive(value: Tensor) -> Tensor:
    """Whether each number is positive and finite."""
    return (value > 0.0) & value.isfinite()


def check_broadcast(owner: str, first: str, one: tuple[int, ...], second: str, other: tuple[int, ...]) -> None:
    """Refuse batch shapes that do not broadcast.

    Raises
    ------
    ValueError
        The message names both.
    """
    try:
        torch.broadcast_shapes(one, other)
    except RuntimeError:
        raise ValueError(
            f"{owner}: the batches of {first} and {second} must broadcast, got {tuple(one)} and {tuple(other)}"
        ) from None
