"""What the operations ask of their arguments, on every route, before a kernel gets an address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from fastvi import _sizes
from fastvi.ops._backends import check_device
from fastvi.ops._precision import HALF_DTYPES, SUPPORTED_DTYPES, SUPPORTED_NAMES
from fastvi.ops._private import autocast_active, tracing_state

PLAIN_TYPES = frozenset({torch.Tensor, torch.nn.Parameter})


def check_operands(
    operation: str,
    names: Sequence[str],
    operands: Sequence[object],
    optional: Sequence[str] = (),
    factors: Sequence[str] = (),
) -> Sequence[Any]:
    """Reject anything but floating-point tensors of one dtype on one device.

    What is ``optional`` may be None, and ``factors`` may be numbers.

    Returns
    -------
    Sequence[Tensor | None]
        The operands; in a region of ``torch.autocast`` float32 stands for bfloat16 and float16, as in PyTorch's losses.

    Raises
    ------
    TypeError
        If an operand is no tensor, or no floating-point one, or the dtypes differ.
    ValueError
        If the devices differ, or the device has no kernels, or the tensor is not strided, or not yet initialised.
    """
    if autocast_active():
        operands = [_as_in_autocast(operand) for operand in operands]
    first: Tensor | None = None
    for name, operand in zip(names, operands, strict=True):
        if operand is None and name in optional:
            continue
        if not isinstance(operand, Tensor):
            if name in factors and first is not None:
                check_number(operation, name, operand, "a torch.Tensor or a number")
                continue
            raise TypeError(f"{operation}: {name} must be a torch.Tensor, got {kind_of(operand)}")
        dtype, on_cpu = operand.dtype, operand.is_cpu
        if dtype not in SUPPORTED_DTYPES:
            raise TypeError(f"{operation}: {name} has dtype {dtype}, expected {SUPPORTED_NAMES}")
        check_layout(operation, name, operand)
        if not on_cpu:
            check_device(operation, name, operand.device)
        if first is None:
            first, first_name, first_dtype, first_on_cpu = operand, name, dtype, on_cpu
        elif dtype is not first_dtype:
            raise TypeError(f"{operation}: {name} has dtype {dtype}, but {first_name} has {first_dtype}")
        elif on_cpu is not first_on_cpu or (not on_cpu and operand.device != first.device):
            raise ValueError(f"{operation}: {name} is on {operand.device}, but {first_name} is on {first.device}")
    return operands


def _as_in_autocast(operand: object) -> object:
    if isinstance(operand, Tensor) and operand.dtype in HALF_DTYPES and torch.is_autocast_enabled(operand.device.type):
        return operand.float()
    return operand


def kind_of(value: object) -> str:
    """The type of an argument that is no tensor, with advice where one stands for a tensor."""
    if isinstance(value, torch.fx.Proxy):
        return "a Proxy of torch.fx.symbolic_trace, which calls functions without tensors: name it in torch.fx.wrap"
    return type(value).__name__


def check_layout(operation: str, name: str, tensor: Tensor) -> None:
    """Reject tensors that are not strided arrays.

    Raises
    ------
    ValueError
        If the tensor is sparse, nested, of oneDNN's layout, or a lazy module's parameter that has no shape yet.
    """
    if tensor.layout is not torch.strided:
        raise ValueError(f"{operation}: {name} has layout {tensor.layout}, expected torch.strided")
    if tensor.is_nested:
        raise ValueError(f"{operation}: {name} is a nested tensor, expected one of torch.strided layout")
    if type(tensor) not in PLAIN_TYPES and isinstance(tensor, UninitializedParameter | UninitializedBuffer):
        raise ValueError(
            f"{operation}: {name} is a parameter of a lazy module that is not initialised; call the module once first"
        )


def check_declared(
    operation: str, names: Sequence[str], tensors: Sequence[Tensor | None], dtypes: Sequence[tuple[torch.dtype, ...]]
) -> None:
    """Reject tensors of a registered operator that are not as it was declared; those that were not given are None.

    Raises
    ------
    TypeError
        If a dtype is none of those that ``dtypes`` has for its tensor.
    ValueError
        If a layout is not strided, the devices differ, or a seed has dimensions.
    """
    first: Tensor | None = None
    for name, tensor, expected in zip(names, tensors, dtypes, strict=True):
        if tensor is None:
            continue
        check_layout(operation, name, tensor)
        if tensor.dtype not in expected:
            allowed = " or ".join(dict.fromkeys(map(str, expected)))
            raise TypeError(f"{operation}: {name} has dtype {tensor.dtype}, expected {allowed}")
        if first is None:
            first, first_name = tensor, name
            check_device(operation, name, tensor.device)
        elif tensor.device != first.device:
            raise ValueError(f"{operation}: {name} is on {tensor.device}, but {first_name} is on {first.device}")
        if name == "seed" and tensor.dim() != 0:
            raise ValueError(f"{operation}: seed has shape {tuple(tensor.shape)}, expected a tensor without dimensions")


def check_memory(operation: str, names: Sequence[str], tensors: Sequence[Tensor | None]) -> None:
    """Reject tensors that have elements and no memory.

    Raises
    ------
    ValueError
        If there is one.
    """
    for name, tensor in zip(names, tensors, strict=True):
        if tensor is not None and lacks_memory(tensor) and tensor.numel() > 0:
            raise ValueError(f"{operation}: {name} has no memory: its storage was freed")


def lacks_memory(tensor: Tensor) -> bool:
    """Whether a tensor's storage begins nowhere, though the tensor may begin behind its start."""
    address = tensor.data_ptr()
    return address == 0 or address == tensor.storage_offset() * tensor.itemsize


def check_number(operation: str, name: str, value: object, expected: str = "a number") -> float:
    """A number as float; errors as in :func:`fastvi._sizes.check_number`."""
    if isinstance(value, torch.SymFloat):
        symbol: Any = value
        return symbol  # type: ignore[no-any-return]  # a number that torch.export does not know yet
    return _sizes.check_number(operation, name, value, expected)


def check_size(operation: str, name: str, size: object, expected: str = "an integer") -> int:
    """A non-negative integer, known or symbolic; errors as in :func:`fastvi._sizes.check_size`."""
    symbol: Any = size
    if isinstance(size, torch.SymInt):
        _sizes.check_range(operation, name, symbol)
        return symbol  # type: ignore[no-any-return]
    if isinstance(size, Tensor) and tracing_state() is not None:
        # Given one of the sizes that it follows, the tracer would record its number here, and fail for a list of them.
        raise TypeError(
            f"{operation}: {name} must be {expected}, got a size that torch.jit.trace follows as a Tensor; int() makes "
            "it a constant of the graph"
        )
    return _sizes.check_size(operation, name, size, expected)


def check_shape(operation: str, name: str, shape: object) -> tuple[int, ...]:
    """A shape of such integers; one integer means one axis."""
    return _sizes.check_shape(operation, name, shape, check_size)


def number_tensor(number: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number as a tensor without dimensions; one too large for the dtype is infinite.

    torch.compile turns arithmetic with a float that changes into arithmetic with a tensor, and no other function of it.
    """
    return torch.ones((), dtype=dtype, device=device) * number
