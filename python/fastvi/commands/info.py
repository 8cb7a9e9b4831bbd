"""``fastvi info``: what a report of a fault has to say about the machine, to be pasted as it is."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from fastvi._terminal import make_console

_OPENMP = re.compile(r"lib(?:gomp|iomp5|omp)[-.0-9a-f]*\.so[.0-9]*")
_LIBRARIES = ("numpy", "lightning", "scikit-learn", "scipy", "pillow", "matplotlib", "pandas", "onnx", "pyro-ppl")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_PROC_BIND", "KMP_AFFINITY", "CUDA_VISIBLE_DEVICES")


def info() -> None:
    """Show versions, instruction set, threads, OpenMP runtimes, CUDA and how PyTorch was built, for a report."""
    import torch
    from rich.table import Table

    from fastvi import _native

    backends = _native.backends()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no device"
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} processors"
    if hasattr(os, "sched_getaffinity"):
        threads += f", {len(os.sched_getaffinity(0))} of them for this process"
    rows = {
        "fastvi": (_versions(["fastvi"]) or ["from its sources, not installed"])[0].removeprefix("fastvi "),
        "Python": f"{sys.version.split()[0]}, {platform.platform()}",
        "PyTorch": f"{torch.__version__}, {_torch_build()}",
        "libraries": ", ".join(_versions(_LIBRARIES)),
        "processor": _processor(),
        "instruction set": _native.selected_isa(),
        "available": ", ".join(_native.available_isas()),
        "modules": ", ".join(_modules()),
        "backends": ", ".join(backends),
        "threads": threads,
        "variables": ", ".join(f"{name}={os.environ[name]}" for name in _THREAD_VARIABLES if name in os.environ),
        "OpenMP": ", ".join(openmp_runtimes()) or "no runtime in this process",
        "CUDA": f"{'built in' if 'cuda' in backends else 'not in this build'}; PyTorch finds {gpu}",
        "CUDA driver": _driver(),
        "architectures": _architectures(),
    }
    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value or "none")
    make_console().print(table)


def openmp_runtimes() -> list[str]:
    """Return the files of the OpenMP runtimes that this process has loaded; more than one share no threads.

    Examples
    --------
    >>> all("omp" in path for path in openmp_runtimes())
    True
    """
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[-1] for line in lines if "/" in line}
    return sorted(path for path in paths if _OPENMP.fullmatch(Path(path).name))


def _versions(names: Iterable[str]) -> list[str]:
    found = []
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _torch_build() -> str:
    import torch

    of = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU alone"
    settings = torch.__config__.show()
    found = [words for words in ("MKL", "OpenBLAS", "MKL-DNN") if f"USE_{words.replace('-', '')}=ON" in settings]
    compiler = re.search(r"GCC [0-9.]+|clang [0-9.]+", settings)
    return ", ".join([f"built for {of}", *([compiler[0]] if compiler else []), *found])


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _modules() -> list[str]:
    """The native modules that this installation has."""
    import fastvi

    files = [file.name for folder in fastvi.__path__ for file in Path(folder).glob("_*.so")]
    return sorted({name.partition(".")[0] for name in files}) or ["none beside the Python files"]


def _driver() -> str:
    try:
        found = re.search(r"Kernel Module.*?([0-9]+\.[0-9.]+)", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return "none"
    return found[1] if found else "unknown"


def _architectures() -> str:
    import torch

    built = " ".join(torch.cuda.get_arch_list()) if torch.version.cuda else ""
    if not torch.cuda.is_available():
        return built
    device = "sm_" + "".join(map(str, torch.cuda.get_device_capability()))
    return f"the device is {device}; PyTorch is built for {built}"
