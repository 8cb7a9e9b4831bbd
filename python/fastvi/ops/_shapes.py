"""Shapes of results, also where sizes are symbols that are not known yet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastvi._sizes import MAX_RANK, check_rank


def broadcast_shape(operation: str, names: Sequence[str], tensors: Sequence[Tensor | None]) -> torch.Size:
    """The operands' common shape, event included; None stands for what was not given.

    Raises
    ------
    ValueError
        If an operand has no dimension, or the shapes do not broadcast.
    """
    given = [(name, tensor) for name, tensor in zip(names, tensors, strict=True) if tensor is not None]
    for name, tensor in given:
        if tensor.dim() == 0:
            raise ValueError(f"{operation}: {name} has no dimension; expected the event in the last one")
    try:
        shape: torch.Size = torch.broadcast_shapes(*(tensor.shape for _, tensor in given))
    except RuntimeError:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in given)
        raise ValueError(f"{operation}: shapes do not broadcast: got {shapes}") from None
    return shape


def leading_shape(operation: str, name: str, hidden: Tensor, x: Tensor) -> torch.Size:
    """The common leading shape of what a layer is given, called ``name``, and of the observations x.

    Raises
    ------
    ValueError
        If they do not broadcast, or there are more dimensions than the kernels read.
    """
    own, of_x = hidden.shape[:-1], x.shape[:-1]
    if len(own) >= MAX_RANK or len(of_x) >= MAX_RANK:
        check_rank(operation, name, len(hidden.shape))
        check_rank(operation, "x", len(x.shape))
    # PyTorch's function takes 10 us. Shapes of different lengths are not compared: an exported program would be bound
    # to the sizes that happened to differ.
    if len(own) >= len(of_x) and own[len(own) - len(of_x) :] == of_x:
        return own
    try:
        shape: torch.Size = torch.broadcast_shapes(own, of_x)
    except RuntimeError:
        raise ValueError(
            f"{operation}: leading shapes do not broadcast: got {name} {tuple(hidden.shape)}, x {tuple(x.shape)}"
        ) from None
    return shape


def without_axis(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    """The shape of a reduction over one axis."""
    return (*shape[:axis], *shape[axis + 1 :])
