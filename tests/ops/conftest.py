"""Which kernels the operation tests drive, and a compiler that remembers nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.utils import counters

from support.other_kernels import chosen_kernels

__all__ = ["chosen_kernels"]


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Forget what was compiled and counted before: torch.compile gives up after many versions of one function."""
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()
