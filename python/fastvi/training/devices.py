"""On which device a run trains: one process on the CPU or on the current GPU, several on the CPU or on a GPU each."""

from __future__ import annotations

import os

import torch

from fastvi.ops import _backends
from fastvi.training import processes as launched


def gpu_obstacle() -> str | None:
    """Why this process cannot train on a GPU; None where it can.

    Raises
    ------
    RunError
        See `fastvi.training.processes.layout`.
    """
    processes, machines = launched.layout()
    obstacle = _backends.cuda_obstacle()
    if obstacle is not None or (processes, machines) == (1, 1):
        return obstacle
    present = torch.cuda.device_count()
    if processes > present:
        return f"{processes} processes need a GPU each, this machine has {present}"
    return None if torch.distributed.is_nccl_available() else "several processes need PyTorch with NCCL"


def devices_of(device: str) -> int | list[int]:
    """Return what Lightning takes for ``devices``; of several processes on GPUs, each gets that of its local rank."""
    processes, machines = launched.layout()
    if device != "cuda":
        return processes
    if (processes, machines) == (1, 1):
        return [torch.cuda.current_device()]
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return processes
