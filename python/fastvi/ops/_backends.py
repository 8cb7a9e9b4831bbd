"""Which native module runs on a tensor: that of the CPU's instruction set, or that of CUDA."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastvi import _native, _sizes
from fastvi.ops import _private

CUDA_IS_BUILT = "cuda" in _native.backends()
"""Known beforehand, because torch.compile reads it while it traces; the module comes with the first CUDA tensor."""

OTHER_DEVICE = "there are kernels for cpu and cuda only"


def connect(module: Any) -> Any:
    """Give a native module what it asks PyTorch.

    Raises
    ------
    ImportError
        If this PyTorch hands out no tensors to C.
    """
    try:
        exchange_api = torch.Tensor.__dlpack_c_exchange_api__
    except AttributeError:
        raise ImportError(f"fastvi: PyTorch {torch.__version__} is too old, expected 2.10 or newer") from None
    module.use_torch(
        {
            "exchange_api": exchange_api,
            "tensor": torch.Tensor,
            "parameter": torch.nn.Parameter,
            "is_neg": torch.Tensor.is_neg,
            "requires_grad": torch.Tensor.requires_grad,
            "transforms_active": _private.transforms_active,
            "function_modes": _private.function_modes,
            "dispatch_modes": _private.dispatch_modes,
            "tracing_state": _private.tracing_state,
            "autocast_active": _private.autocast_active,
            "grad_enabled": torch.is_grad_enabled,
            "forward_ad": torch.autograd.forward_ad,
            "thread_count": torch.get_num_threads,
            "new_seed": functools.partial(torch.randint, _sizes.MAX_SEED - 1, (), dtype=torch.int64),
            "float32": torch.float32,
            "float64": torch.float64,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        }
    )
    return module


class Modules:
    """The native modules in use, by kind of device."""

    def __init__(self) -> None:
        self.cpu: Any = connect(_native.module())

    @functools.cached_property
    def cuda(self) -> Any:
        return connect(_native.cuda_module())

    def of(self, tensor: Tensor) -> Any:
        """That of the device that a tensor is on."""
        return self.cuda if tensor.is_cuda else self.cpu


MODULES = Modules()


class Functions(NamedTuple):
    """The native functions of an operation; forward and backward take the arguments of its two operators.

    ``attempt`` takes the arguments of the public function. It returns NotImplemented where anything but a kernel has to
    do with the call (transforms, modes, tensors that are not plain), and None where PyTorch is to record it.
    ``attempt_backward`` returns NotImplemented likewise, also where its own derivative is to be recorded.
    """

    attempt: Any
    forward: Any
    attempt_backward: Any
    backward: Any


def functions_of(module: Any, name: str) -> Functions:
    """The functions that a native module has under a name."""
    places = (module.attempt, module.forward, module.attempt_backward, module.backward)
    return Functions(*[getattr(place, name) for place in places])


def sum_over(tensor: Tensor, dim: int, weights: Tensor | None = None) -> Tensor:
    """Sum over one dimension, of which ``weights`` may give each place a factor: shape of ``tensor`` without it.

    It has the same bits for any number of threads, which PyTorch's sums and matrix-vector products do not promise.
    """
    result: Tensor = MODULES.of(tensor).sum_over(tensor, dim % tensor.dim(), weights)
    return result


def sum_to_shape(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Sum what an operand of ``shape`` was broadcast over, as ``Tensor.sum_to_size``, with the same bits likewise."""
    result: Tensor = MODULES.of(tensor).sum_to_shape(tensor, tuple(shape))
    return result


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
