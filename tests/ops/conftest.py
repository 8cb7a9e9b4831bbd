"""Which kernels the operation tests drive: those of the package, or of the module that ``--kernels`` names."""

from __future__ import annotations

from types import ModuleType

import pytest

from support.other_kernels import use_kernels_of


@pytest.fixture(scope="session", autouse=True)
def chosen_kernels(pytestconfig: pytest.Config) -> ModuleType | None:
    """The module that ``--kernels`` names, after its kernels have taken the place of the CPU's."""
    path = pytestconfig.getoption("--kernels")
    return None if path is None else use_kernels_of(path)
