"""Which kernels the operation tests drive, and a compiler that remembers nothing."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch._dynamo.utils import counters

from support.other_kernels import use_kernels_of


@pytest.fixture(scope="session", autouse=True)
def chosen_kernels(pytestconfig: pytest.Config) -> ModuleType | None:
    """The module that ``--kernels`` names, after its kernels have taken the place of the CPU's."""
    path = pytestconfig.getoption("--kernels")
    return None if path is None else use_kernels_of(path)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Forget what was compiled and counted before: torch.compile gives up after many versions of one function."""
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()
