"""Which kernels the operation tests drive: those of the package, or of the module that ``--kernels`` names."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
import torch

from fastvi.ops import _backends


@pytest.fixture(scope="session", autouse=True)
def chosen_kernels(pytestconfig: pytest.Config) -> ModuleType | None:
    """Put the other module's kernels in the place of the CPU's: for example CUDA's, compiled for the host."""
    path = pytestconfig.getoption("--kernels")
    if path is None:
        return None
    spec = importlib.util.spec_from_file_location(path.name.partition(".")[0], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = _backends.by_dtype(module)
    if hasattr(module, "use"):  # it runs in a stream, here the only one, and asks for scratch memory
        host = torch.device("cpu")
        found = {dtype: _backends.StreamKernels(module, dtype, host, lambda index: 0) for dtype in found}
    _backends.KERNELS.update(found)
    return module
