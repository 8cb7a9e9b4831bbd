"""Several processes that train one model: who they are, and what the first does for all.

``torchrun`` starts them and PyTorch Lightning shares their gradients; this is what surrounds the steps.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

Result = TypeVar("Result")


def layout() -> tuple[int, int]:
    """Return (processes on each machine, machines) as torchrun started them; (1, 1) without torchrun."""
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        return 1, 1
    per_machine = int(os.environ["LOCAL_WORLD_SIZE"])
    return per_machine, int(os.environ["WORLD_SIZE"]) // per_machine


def join_processes() -> None:
    """Meet the other processes, where there are any; a second call does nothing.

    The group lasts as long as the process: the next one would find this one's addresses in torchrun's store.
    """
    if layout() != (1, 1) and not dist.is_initialized():
        dist.init_process_group("gloo")
        atexit.register(dist.destroy_process_group)  # its threads must not outlive the interpreter


def is_first() -> bool:
    """Return whether this process is the one that writes files and speaks; true for one alone."""
    return not _joined() or dist.get_rank() == 0


def from_first(make: Callable[[], Result]) -> Result:
    """Return to every process what ``make`` returns in the first; what it raises there is raised in all.

    The others neither call ``make`` nor need the files that it reads.
    """
    if not _joined():
        return make()
    outcome: list[Any] = [None, None]
    if is_first():
        try:
            outcome[0] = make()
        except Exception as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    failure: Exception | None = outcome[1]
    if failure is not None:
        raise failure
    result: Result = outcome[0]
    return result


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()
