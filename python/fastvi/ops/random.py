"""Standard normal draws by a counter-based generator (Philox4x32-10, Salmon et al. 2011, and Box-Muller).

A draw depends on its seed and its place alone: threads, chunks and processes do not change it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fastvi import _sizes
from fastvi.ops._backends import MODULES, OTHER_DEVICE, cuda_obstacle
from fastvi.ops._checks import check_declared, check_layout, check_memory, check_shape, check_size
from fastvi.ops._operators import LIBRARY, register_kernel
from fastvi.ops._precision import SUPPORTED_DTYPES, SUPPORTED_NAMES
from fastvi.ops._values import values_at_hand

Seed: TypeAlias = int | Tensor | None


def seed_tensor(operation: str, seed: Seed, device: torch.device) -> Tensor:
    """The seed as an int64 tensor without dimensions; None takes one from PyTorch's own generator of that device.

    Raises
    ------
    TypeError
        If ``seed`` is neither an integer, nor an int64 tensor, nor None.
    ValueError
        If ``seed`` is out of [0, 2^63), or a tensor with dimensions or on another device. The value of a tensor on a
        GPU is not looked at, since Python would wait for it.
    """
    if seed is None:
        return torch.randint(_sizes.MAX_SEED - 1, (), dtype=torch.int64, device=device)
    if isinstance(seed, Tensor):
        check_layout(operation, "seed", seed)
        if seed.dtype != torch.int64:
            raise TypeError(f"{operation}: seed has dtype {seed.dtype}, expected torch.int64")
        if seed.dim() != 0:
            raise ValueError(f"{operation}: seed has shape {tuple(seed.shape)}, expected a tensor without dimensions")
        if seed.device != device:
            raise ValueError(f"{operation}: seed is on {seed.device}, expected {device}")
        check_seed_value(operation, seed)
        return seed
    number = _sizes.check_seed(operation, seed, "an int, an int64 tensor or None")
    # Filled on the device: torch.tensor would copy from the host, and wait for it.
    return torch.scalar_tensor(number, dtype=torch.int64, device=device)


def check_seed_value(operation: str, seed: Seed) -> None:
    """Refuse a tensor whose seed is negative, where it costs little to look.

    Raises
    ------
    ValueError
        As for an integer.
    """
    if isinstance(seed, Tensor) and seed.dtype is torch.int64 and seed.dim() == 0 and values_at_hand(seed):
        _sizes.check_seed(operation, int(seed), "an int64 tensor")


def _place(operation: str, device: object) -> torch.device:
    """A device that has kernels, with its index."""
    if not isinstance(device, str | torch.device):
        raise TypeError(f"{operation}: device must be a torch.device or a str, got {type(device).__name__}")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"{operation}: device is {device!r}: {error}") from None
    if place.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"{operation}: device is {place}, but {OTHER_DEVICE}")
    if place.type == "cuda":
        if (obstacle := cuda_obstacle()) is not None:
            raise ValueError(f"{operation}: device is {place}, but {obstacle}")
        if place.index is None:
            place = torch.device("cuda", torch.cuda.current_device())
    return place


def _check_draw(operation: str, seed: Tensor, sizes: Sequence[int], dtype: torch.dtype) -> None:
    """Reject what a registered operator that draws cannot take: the same that the functions over it refuse."""
    check_declared(operation, ("seed",), (seed,), ((torch.int64,),))
    check_shape(operation, "shape", sizes)
    if dtype not in SUPPORTED_DTYPES:
        raise TypeError(f"{operation}: dtype is {dtype}, expected {SUPPORTED_NAMES}")


def _empty_standard_normal(seed: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    _check_draw("standard_normal", seed, shape, dtype)
    return torch.empty(tuple(shape), dtype=dtype, device=seed.device)


def _empty_noise(seed: Tensor, extent: Sequence[int], row_offset: int, dtype: torch.dtype) -> Tensor:
    _check_draw("normal_noise", seed, extent, dtype)
    check_size("normal_noise", "row_offset", row_offset)
    if len(extent) != 3:
        raise ValueError(f"normal_noise: extent is {tuple(extent)}, expected the numbers of samples, rows and columns")
    _sizes.check_counters("normal_noise", extent[0], extent[2])
    return torch.empty(tuple(extent), dtype=dtype, device=seed.device)


def _allocated(
    operation: str, empty: Callable[..., Tensor], seed: Tensor, shape: Sequence[int], *others: Any
) -> Tensor:
    """The tensor that ``empty`` makes; where there is no memory for it, an error that names the operation."""
    try:
        return empty(seed, shape, *others)
    except RuntimeError:
        if not seed.is_cpu:  # of a GPU's memory PyTorch says more
            raise
        what = f"shape {tuple(shape)} and dtype {others[-1]}"
        raise RuntimeError(f"{operation}: no memory for a result of {what}") from None


def _standard_normal(seed: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    out = _allocated("standard_normal", _empty_standard_normal, seed, shape, dtype)
    check_memory("standard_normal", ("seed",), (seed,))
    MODULES.of(out).forward.fill_standard_normal(out, seed)
    return out


def _normal_noise(seed: Tensor, extent: Sequence[int], row_offset: int, dtype: torch.dtype) -> Tensor:
    out = _allocated("normal_noise", _empty_noise, seed, extent, row_offset, dtype)
    check_memory("normal_noise", ("seed",), (seed,))
    MODULES.of(out).fill_normal_noise(out, seed, row_offset)
    return out


def _each_seed(info: Any, dims: tuple[Any, ...], seed: Tensor, *arguments: Any) -> tuple[Tensor, int]:
    operator = torch.ops.fastvi.standard_normal if len(arguments) == 2 else torch.ops.fastvi.normal_noise
    return torch.stack([operator(each, *arguments) for each in seed.unbind(dims[0])]), 0


for _name, _schema, _kernel, _fake in (
    ("standard_normal", "Tensor seed, SymInt[] shape, ScalarType dtype", _standard_normal, _empty_standard_normal),
    ("normal_noise", "Tensor seed, SymInt[] extent, SymInt row_offset, ScalarType dtype", _normal_noise, _empty_noise),
):
    LIBRARY.define(f"{_name}({_schema}) -> Tensor")
    register_kernel(_name, _kernel)
    torch.library.register_fake(f"fastvi::{_name}", _fake, lib=LIBRARY)
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
        A floating-point one; by default PyTorch's default. Draws of one seed differ by their rounding alone.
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
    if not isinstance(dtype, torch.dtype):  # by its type, since to print a tensor without memory ends the process
        raise TypeError(f"standard_normal: dtype must be a torch.dtype, got {type(dtype).__name__}")
    if dtype not in SUPPORTED_DTYPES:
        raise TypeError(f"standard_normal: dtype is {dtype}, expected {SUPPORTED_NAMES}")
    place = _place("standard_normal", "cpu" if device is None else device)
    result: Tensor = torch.ops.fastvi.standard_normal(seed_tensor("standard_normal", seed, place), sizes, dtype)
    return result
