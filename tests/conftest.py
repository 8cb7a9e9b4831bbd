"""What several test files share: where and on which kernels they run, fresh processes, hypothesis without a clock."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from support.processes import printed_by

if "PYTEST_XDIST_WORKER" in os.environ:
    # The threads of several workers share the cores: one that waits must not spin. Read when PyTorch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Examples that import or compile something take longer than others: no deadline, but print how to repeat a failure.
settings.register_profile("fastvi", deadline=None, print_blob=True)
settings.load_profile("fastvi")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastvi")
    group.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="where tests/ops put their tensors")
    group.addoption(
        "--kernels", metavar="MODULE", type=Path, help="native module (.so) whose kernels tests/ops and tests/em use"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--device") == "cuda":
        if (obstacle := _cuda_obstacle()) is not None:
            raise pytest.UsageError(f"--device cuda: {obstacle}")
        from support.place import place

        place.device = "cuda:0"


def pytest_report_header(config: pytest.Config) -> str:
    kernels = config.getoption("--kernels") or "those of the package"
    return f"fastvi: operations on {config.getoption('--device')}, kernels: {kernels}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what looks at the CPU's own kernels where others are tested, and skip what needs a GPU without one."""
    if config.getoption("--device") != "cpu" or config.getoption("--kernels") is not None:
        own = [item for item in items if item.get_closest_marker("cpu_kernels")]
        config.hook.pytest_deselected(items=own)
        items[:] = [item for item in items if item not in own]
    on_gpu = [item for item in items if item.get_closest_marker("cuda")]
    if on_gpu and (obstacle := _cuda_obstacle()) is not None:
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason=obstacle.partition(":")[0]))


def _cuda_obstacle() -> str | None:
    from fastvi.ops._backends import cuda_obstacle

    return cuda_obstacle()


@pytest.fixture
def run_python() -> Callable[..., str]:
    """``run_python(code, **environment)``: what a fresh process prints; a failure shows what it wrote."""

    def run(code: str, **environment: str) -> str:
        return printed_by([sys.executable, "-c", code], {**os.environ, **environment})

    return run


@pytest.fixture
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, without the data sets of this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTVI_DATA", raising=False)


@pytest.fixture
def restore_threads() -> Iterator[None]:
    """Leave PyTorch's number of threads as it was."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
