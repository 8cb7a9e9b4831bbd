"""Puts the kernels of another native module in the place of the CPU's."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import torch

from fastvi.ops import _backends


def use_kernels_of(path: Path) -> ModuleType:
    """Let the operations on CPU tensors run a module's kernels: for example CUDA's, compiled for the host."""
    spec = importlib.util.spec_from_file_location(path.name.partition(".")[0], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = _backends.by_dtype(module)
    if hasattr(module, "use"):  # it runs in a stream, here the only one, and asks for scratch memory
        host = torch.device("cpu")
        found = {dtype: _backends.StreamKernels(module, dtype, host, lambda index: 0) for dtype in found}
    _backends.KERNELS.update(found)
    return module
