"""The private names of PyTorch that the operations use, in one place, to be looked through at each of its releases."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import has_static_value

transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
# The same question in the one form that torch.compile answers while it traces.
compiled_transforms: Callable[[], int] = torch._C._functorch.get_dynamic_layer_stack_depth
function_modes: Callable[[], int] = torch._C._len_torch_function_stack
dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
tracing_state: Callable[[], Any] = torch._C._get_tracing_state
"""What torch.jit.trace is recording in this thread; None where it records nothing."""
autocast_active: Callable[[], bool] = torch._C._is_any_autocast_enabled


def _multiplied_by_processor() -> frozenset[torch.dtype]:
    """The half-precision dtypes of whose numbers this processor has instructions for products and their sums.

    oneDNN says that it takes bfloat16 on every processor with AVX-512, where it may take several instructions instead.
    """
    found = set()
    if platform.machine() in ("x86_64", "AMD64"):
        bfloat16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if bfloat16:
        found.add(torch.bfloat16)
    if torch.ops.mkldnn._is_mkldnn_fp16_supported():
        found.add(torch.float16)
    return frozenset(found)


MULTIPLIED_BY_PROCESSOR = _multiplied_by_processor()
"""Dtypes whose matrix products take less time than those of float32 on the CPU; those of others take far more."""


def known_rows(tensor: Tensor) -> int | None:
    """The product of all sizes but the last, where torch.compile takes them for constants; otherwise None.

    A symbolic size that was compared with a number would bind the program to the outcome.
    """
    sizes = tensor.shape[:-1]
    return math.prod(sizes) if all(has_static_value(size) for size in sizes) else None


def gradient_of_sum(value: Tensor, by: Tensor) -> Tensor | None:
    """The gradient of the sum of ``value`` by a leaf, without history, None where there is none.

    ``torch.autograd.grad`` takes longer over its checks than the gradient of a small function takes.
    """
    engine = torch.autograd.Variable._execution_engine
    gradient: Tensor | None = engine.run_backward(
        (value,), (torch.ones_like(value),), False, False, (by,), allow_unreachable=True, accumulate_grad=False
    )[0]
    return gradient


def in_forward_mode() -> bool:
    """Whether tensors may carry tangents: within ``torch.func.jvp``, and within ``forward_ad.dual_level``."""
    return torch.autograd.forward_ad._current_level >= 0


def functionalised() -> bool:
    """Whether ``torch.func.functionalize`` is among the active transforms: it takes no ``autograd.Function``."""
    levels = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key() == torch._C._functorch.TransformType.Functionalize for level in levels)


def without_dead_levels(tensor: Tensor | None) -> Tensor | None:
    """What a tensor of ``torch.func`` levels that have ended holds; PyTorch itself looks through one of them only."""
    while tensor is not None and (held := torch._C._functorch.unwrap_if_dead(tensor)) is not tensor:
        tensor = held
    return tensor
