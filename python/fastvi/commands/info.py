"""``fastvi info``."""

from __future__ import annotations

import importlib.metadata
import os
import sys

from fastvi._terminal import make_console


def info() -> None:
    """Show the version, the instruction set in use, threads, backends and PyTorch."""
    import torch
    from rich.table import Table

    from fastvi import _native

    backends = _native.backends()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no device"
    rows = {
        "fastvi": importlib.metadata.version("fastvi"),
        "instruction set": _native.selected_isa(),
        "available": ", ".join(_native.available_isas()),
        "backends": ", ".join(backends),
        "CUDA": f"{'built in' if 'cuda' in backends else 'not in this build'}; PyTorch finds {gpu}",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} processors",
        "PyTorch": torch.__version__,
        "Python": sys.version.split()[0],
    }
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(name, value)
    make_console().print(table)
