"""Puts the kernels of another native module in the place of the CPU's."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from fastvi.ops._backends import MODULES, connect
from fastvi.ops._operation import OPERATIONS


def use_kernels_of(path: Path) -> ModuleType:
    """Let the operations on CPU tensors run a module's kernels: for example CUDA's, compiled for the host."""
    spec = importlib.util.spec_from_file_location(path.name.partition(".")[0], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    MODULES.cpu = connect(module)
    for operation in OPERATIONS.values():
        operation.bind()
    return module


@pytest.fixture(scope="session", autouse=True)
def chosen_kernels(pytestconfig: pytest.Config) -> ModuleType | None:
    """The module that ``--kernels`` names, after its kernels have taken the place of the CPU's."""
    path = pytestconfig.getoption("--kernels")
    return None if path is None else use_kernels_of(path)
