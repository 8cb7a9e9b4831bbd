"""Operations of the native list: those that sum a term over the last dimension, and those that keep their shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastvi.ops._backends import MODULES
from fastvi.ops._batching import batch_broadcasting
from fastvi.ops._checks import check_number, number_tensor
from fastvi.ops._operation import Operation, Outputs
from fastvi.ops._precision import compute_dtype
from fastvi.ops._shapes import broadcast_shape

_LARGEST = {dtype: torch.finfo(dtype).max for dtype in (torch.float32, torch.float64)}
_ROWS = {name: declared for name, *declared in MODULES.cpu.row_operations()}
_MAPS = {name: declared for name, *declared in MODULES.cpu.map_operations()}


def _declared(names: Sequence[str], required: int) -> tuple[str, ...]:
    return tuple(f"Tensor{'' if place < required else '?'} {name}" for place, name in enumerate(names))


def row_operation(name: str, formula: Callable[..., Tensor], **options: Any) -> Operation[Tensor]:
    """A row operation of the native list: its operands broadcast, and it sums over their last dimension."""
    operands, required, constants = _ROWS[name]

    def fake(*arguments: Any) -> Tensor:
        shape = broadcast_shape(name, operands, arguments[: len(operands)])
        result: Tensor = arguments[0].new_empty(shape[:-1])
        return result

    return Operation(
        name=name,
        tensors=_declared(operands, required),
        constants=tuple(f"float {constant}" for constant in constants),
        formula=formula,
        fake=fake,
        batch=batch_broadcasting,
        **options,
    )


def map_operation(name: str, formula: Callable[..., Outputs], **options: Any) -> Operation[Any]:
    """A map operation of the native list: states of one shape, and factors that are numbers or tensors."""
    states, factors, required, constants, num_outputs = _MAPS[name]
    names, count = (*states, *factors), len(states) + len(factors)

    def fake(*arguments: Any) -> Outputs:
        given = arguments[:count]
        if not any(tensor is not None and tensor.dim() for tensor in given):
            raise ValueError(f"{name}: {states[0]} has no dimension; expected the event in the last one")
        with_dimension = [None if each is None else each if each.dim() else each.reshape(1) for each in given]
        shape = broadcast_shape(name, names, with_dimension)
        outputs = tuple([arguments[0].new_empty(shape) for _ in range(num_outputs)])
        return outputs if num_outputs > 1 else outputs[0]

    def normalise(*arguments: Any) -> tuple[Any, ...]:
        given = [
            tensor
            if tensor is None or isinstance(tensor, Tensor)
            else number_factor(name, factor, tensor, arguments[0])
            for factor, tensor in zip(factors, arguments[len(states) : count], strict=True)
        ]
        numbers = [check_number(name, *each) for each in zip(constants, arguments[count:], strict=True)]
        return (*arguments[: len(states)], *given, *numbers)

    return Operation(
        name=name,
        tensors=(*_declared(states, len(states)), *_declared(factors, required)),
        constants=tuple(f"float {constant}" for constant in constants),
        formula=formula,
        fake=fake,
        normalise=normalise,
        num_outputs=num_outputs,
        factors=tuple(factors),
        batch=batch_broadcasting,
        **options,
    )


def number_factor(operation: str, name: str, value: object, like: Tensor) -> Tensor:
    """A number as a tensor of the dtype of the arithmetic on ``like``: half precision would round it."""
    number = check_number(operation, name, value, "a torch.Tensor or a number")
    dtype = compute_dtype(like.dtype)
    if torch.compiler.is_compiling():
        return number_tensor(number, dtype, like.device)
    if abs(number) > _LARGEST[dtype]:  # PyTorch refuses to round it up
        number = math.copysign(math.inf, number)
    return torch.scalar_tensor(number, dtype=dtype, device=like.device)
