"""What several test files share: a fresh Python process, PyTorch's settings put back, hypothesis without a clock."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings
from processes import printed_by

# Examples that import or compile something take longer than others: no deadline, but print how to repeat a failure.
settings.register_profile("fastvi", deadline=None, print_blob=True)
settings.load_profile("fastvi")


@pytest.fixture
def run_python() -> Callable[..., str]:
    """``run_python(code, **environment)``: what a fresh process prints; a failure shows what it wrote."""

    def run(code: str, **environment: str) -> str:
        return printed_by([sys.executable, "-c", code], {**os.environ, **environment})

    return run


@pytest.fixture
def restore_threads() -> Iterator[None]:
    """Leave PyTorch's number of threads as it was."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
