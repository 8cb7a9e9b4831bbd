"""Standard normal draws by a counter-based generator (Philox4x32-10, Salmon et al. 2011, and Box-Muller).

A draw depends on its seed and its place alone: threads, chunks and processes do not change it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fastvi.ops._registration import LIBRARY, SUPPORTED_DTYPES
from fastvi.ops._rows import KERNELS

Seed: TypeAlias = int | Tensor | None

MAX_SAMPLES = 2**32 - 1
MAX_COLUMNS = 2**34
_MAX_SEED = 2**63
_MAX_SIZE = 2**62  # sums of two are still 64-bit integers


def seed_tensor(operation: str, seed: Seed, device: torch.device) -> Tensor:
    """The seed as an int64 tensor without dimensions; None takes one from PyTorch's own generator.

    Raises
    ------
    TypeError
        If ``seed`` is neither an integer, nor an int64 tensor, nor None.
    ValueError
        If ``seed`` is out of [0, 2^63), or a tensor with dimensions or on another device.
    """
    if seed is None:
        return torch.randint(_MAX_SEED - 1, (), dtype=torch.int64, device=device)
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64:
            raise TypeError(f"{operation}: seed has dtype {seed.dtype}, expected torch.int64")
        if seed.dim() != 0:
            raise ValueError(f"{operation}: seed has shape {tuple(seed.shape)}, expected a tensor without dimensions")
        if seed.device != device:
            raise ValueError(f"{operation}: seed is on {seed.device}, expected {device}")
        return seed
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"{operation}: seed must be an int, an int64 tensor or None, got {type(seed).__name__}")
    if not 0 <= seed < _MAX_SEED:
        raise ValueError(f"{operation}: seed is {seed}, expected a number in [0, 2^63)")
    return torch.tensor(seed, dtype=torch.int64, device=device)


def check_size(operation: str, name: str, size: object) -> int:
    """A non-negative integer.

    Raises
    ------
    TypeError
        If ``size`` is no integer.
    ValueError
        If ``size`` is negative, or more than 2^62.
    """
    if isinstance(size, bool) or not isinstance(size, int | torch.SymInt):
        raise TypeError(f"{operation}: {name} must be an integer, got {type(size).__name__}")
    if size < 0:
        raise ValueError(f"{operation}: {name} is {size}, expected a non-negative integer")
    if size > _MAX_SIZE:
        raise ValueError(f"{operation}: {name} is {size}, expected at most 2^62")
    return size  # type: ignore[return-value]  # a SymInt acts as an int


def check_shape(operation: str, name: str, shape: int | Sequence[int]) -> tuple[int, ...]:
    """A shape; an integer means one axis.

    Raises
    ------
    TypeError
        If ``shape`` is neither an integer nor a sequence of them.
    ValueError
        If a size is negative.
    """
    if isinstance(shape, int | torch.SymInt):
        return (check_size(operation, name, shape),)
    if not isinstance(shape, tuple | list):
        raise TypeError(f"{operation}: {name} must be an integer or a sequence of them, got {type(shape).__name__}")
    return tuple(check_size(operation, f"{name}[{axis}]", size) for axis, size in enumerate(shape))


def check_counters(operation: str, samples: int, columns: int) -> None:
    """Reject what the generator's counter cannot tell apart.

    Raises
    ------
    ValueError
        If there are more samples or columns than the counter has numbers for.
    """
    if samples > MAX_SAMPLES:
        raise ValueError(f"{operation}: {samples} samples, expected at most {MAX_SAMPLES}")
    if columns > MAX_COLUMNS:
        raise ValueError(f"{operation}: the event has {columns} dimensions, expected at most {MAX_COLUMNS}")


def _standard_normal(seed: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    out = torch.empty(shape, dtype=dtype, device=seed.device)
    KERNELS[dtype].standard_normal(out.data_ptr(), out.numel(), seed.data_ptr())
    return out


def _normal_noise(seed: Tensor, extent: Sequence[int], row_offset: int, dtype: torch.dtype) -> Tensor:
    samples, rows, columns = extent
    out = torch.empty((samples, rows, columns), dtype=dtype, device=seed.device)
    KERNELS[dtype].normal_noise((samples, rows, columns), seed.data_ptr(), row_offset, out.data_ptr())
    return out


def _empty_draw(seed: Tensor, shape: Sequence[int], *arguments: Any) -> Tensor:
    return torch.empty(tuple(shape), dtype=arguments[-1], device=seed.device)


def _each_seed(info: Any, dims: tuple[Any, ...], seed: Tensor, *arguments: Any) -> tuple[Tensor, int]:
    operator = torch.ops.fastvi.standard_normal if len(arguments) == 2 else torch.ops.fastvi.normal_noise
    return torch.stack([operator(each, *arguments) for each in seed.unbind(dims[0])]), 0


for _name, _schema, _kernel in (
    ("standard_normal", "Tensor seed, SymInt[] shape, ScalarType dtype", _standard_normal),
    ("normal_noise", "Tensor seed, SymInt[] extent, SymInt row_offset, ScalarType dtype", _normal_noise),
):
    LIBRARY.define(f"{_name}({_schema}) -> Tensor")
    LIBRARY.impl(_name, _kernel, "CPU")
    torch.library.register_fake(f"fastvi::{_name}", _empty_draw, lib=LIBRARY)
    torch.library.register_vmap(f"fastvi::{_name}", _each_seed, lib=LIBRARY)


def normal_noise(
    seed: Tensor, sample_shape: Sequence[int], shape: Sequence[int], row_offset: int, like: Tensor
) -> Tensor:
    """The noise of a Gaussian sample, of shape ``sample_shape + shape``: what the fused operations never store."""
    extent = (math.prod(sample_shape), math.prod(shape[:-1]), shape[-1])
    flat: Tensor = torch.ops.fastvi.normal_noise(seed, extent, row_offset, like.dtype)
    return flat.reshape((*sample_shape, *shape))


def standard_normal(
    shape: int | Sequence[int],
    seed: Seed = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draws from N(0, 1); element i, counted in C order, depends on ``(seed, i)`` alone.

    Parameters
    ----------
    shape
        Shape of the result.
    seed
        An integer in [0, 2^63), an int64 tensor without dimensions, or None: then PyTorch's generator gives one, so
        that ``torch.manual_seed`` rules.
    dtype
        ``torch.float32`` or ``torch.float64``; by default PyTorch's default. A float64 draw is the float32 draw of
        the same seed before rounding.
    device
        By default the CPU.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    References
    ----------
    Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3. SC 2011.

    Examples
    --------
    >>> import fastvi
    >>> draws = fastvi.standard_normal((2, 3), seed=1)
    >>> bool((draws.flatten()[:4] == fastvi.standard_normal(4, seed=1)).all())
    True
    """
    sizes = check_shape("standard_normal", "shape", shape)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if dtype not in SUPPORTED_DTYPES:
        raise TypeError(f"standard_normal: dtype is {dtype}, expected torch.float32 or torch.float64")
    place = torch.device("cpu" if device is None else device)
    if place.type not in ("cpu", "meta"):
        raise ValueError(f"standard_normal: device is {place}, but there are kernels for cpu only")
    result: Tensor = torch.ops.fastvi.standard_normal(seed_tensor("standard_normal", seed, place), sizes, dtype)
    return result
