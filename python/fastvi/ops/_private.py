"""The private names of PyTorch that the operations use, in one place, to be looked through at each of its releases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
# The same question in the one form that torch.compile answers while it traces.
compiled_transforms: Callable[[], int] = torch._C._functorch.get_dynamic_layer_stack_depth
function_modes: Callable[[], int] = torch._C._len_torch_function_stack
dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
tracing_state: Callable[[], Any] = torch._C._get_tracing_state
"""What torch.jit.trace is recording in this thread; None where it records nothing."""
autocast_active: Callable[[], bool] = torch._C._is_any_autocast_enabled


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
