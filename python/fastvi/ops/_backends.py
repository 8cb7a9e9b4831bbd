"""Which native kernels run on a tensor: those of its dtype, for the CPU or for the CUDA device that it is on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastvi import _native

if TYPE_CHECKING:
    from fastvi._kernels import CudaModule, KernelModule

CUDA_IS_BUILT = "cuda" in _native.backends()
"""Known beforehand, because torch.compile reads it while it traces; the module comes with the first CUDA tensor."""

OTHER_DEVICE = "there are kernels for cpu and cuda only"


def by_dtype(module: KernelModule) -> dict[torch.dtype, Any]:
    """The kernels of a native module."""
    # Any, not Kernels: views are passed as lists of arguments, which mypy cannot count.
    return {
        torch.float32: module.float32,
        torch.float64: module.float64,
        torch.bfloat16: module.bfloat16,
        torch.float16: module.float16,
    }


KERNELS = by_dtype(_native.module())


class StreamKernels:
    """The kernels for one dtype on one device, queued in the stream that is PyTorch's current one there.

    Scratch memory comes from PyTorch's allocator and goes back to it when a kernel's function has returned: whoever
    gets it next in the same stream comes after the kernel.
    """

    def __init__(
        self, module: CudaModule, dtype: torch.dtype, device: torch.device, current_stream: Callable[[int], int]
    ) -> None:
        self._use = module.use
        self._kernels = by_dtype(module)[dtype]
        self._device = device
        self._current_stream = current_stream

    def __getattr__(self, name: str) -> Callable[..., None]:
        kernel = getattr(self._kernels, name)
        index = self._device.index or 0

        def launch(*arguments: Any) -> None:
            scratch: list[Tensor] = []

            def allocate(nbytes: int) -> int:
                memory = torch.empty(nbytes, dtype=torch.uint8, device=self._device)
                scratch.append(memory)
                return memory.data_ptr()

            self._use(index, self._current_stream(index), allocate)
            try:
                kernel(*arguments)
            finally:
                scratch.clear()  # the module keeps `allocate` until the next call, which may never come

        setattr(self, name, launch)  # so that it is made once
        return launch


@functools.cache
def _cuda_kernels(dtype: torch.dtype, index: int) -> StreamKernels:
    # The raw stream, as PyTorch's own generated code asks for it: torch.cuda.current_stream makes an object each time.
    return StreamKernels(_native.cuda_module(), dtype, torch.device("cuda", index), torch._C._cuda_getCurrentRawStream)


def kernels(tensor: Tensor) -> Any:
    """The kernels for a tensor's dtype and device."""
    return KERNELS[tensor.dtype] if tensor.is_cpu else _cuda_kernels(tensor.dtype, tensor.device.index)


def cuda_obstacle() -> str | None:
    """Why nothing can run on a CUDA device here; None where it can."""
    if not CUDA_IS_BUILT:
        return _native.NO_CUDA
    return None if torch.cuda.is_available() else "PyTorch finds no CUDA device"


def check_device(operation: str, name: str, device: torch.device) -> None:
    """Reject a device that has no kernels.

    Raises
    ------
    ValueError
        If the device is neither a CPU, nor a CUDA device in an installation with kernels for it, nor ``meta``.
    """
    if device.type == "cuda":
        if not CUDA_IS_BUILT:
            raise ValueError(f"{operation}: {name} is on {device}, but {_native.NO_CUDA}")
    elif device.type not in ("cpu", "meta"):
        raise ValueError(f"{operation}: {name} is on {device}, but {OTHER_DEVICE}")
