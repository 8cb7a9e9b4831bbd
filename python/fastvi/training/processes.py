"""Several processes that train one model: who they are, and what the first does for all.

``torchrun`` starts them and PyTorch Lightning shares their gradients; this is what surrounds the steps. Only torchrun's
own variables mean several processes: under any other launcher or scheduler each process is alone.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from fastvi.training.errors import RunError

Result = TypeVar("Result")

_TORCHRUN_MARK = "TORCHELASTIC_RUN_ID"
_TORCHRUN_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
_TORCHRUN_VARIABLES = (*_TORCHRUN_NUMBERS, "MASTER_ADDR", "MASTER_PORT")
_FOREIGN_VARIABLES = re.compile(r"(SLURM|JSM|LSB|PL|LT)_.*|NODE_RANK|STANDALONE_PORT")
"""What Lightning reads of schedulers and other launchers, and by what it lets the environment choose its settings."""


def layout() -> tuple[int, int]:
    """Return (processes on each machine, machines) as torchrun started them; (1, 1) without torchrun.

    Raises
    ------
    RunError
        If torchrun's variables are incomplete, or contradict each other.
    """
    if _TORCHRUN_MARK not in os.environ or not dist.is_available():
        return 1, 1
    missing = [name for name in _TORCHRUN_VARIABLES if not os.environ.get(name)]
    if missing:
        raise RunError(
            f"{_TORCHRUN_MARK} is set, as by torchrun, but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} "
            f"not: start by torchrun, or unset {_TORCHRUN_MARK} for a process alone"
        )
    values = {name: os.environ[name] for name in _TORCHRUN_NUMBERS}
    if not all(re.fullmatch("[0-9]{1,9}", value) for value in values.values()):
        raise RunError(f"torchrun's variables must be numbers, got {_listed(values)}")
    rank, world_size, local_rank, per_machine, _ = map(int, values.values())
    if not (rank < world_size and local_rank < per_machine and per_machine > 0 and world_size % per_machine == 0):
        raise RunError(f"torchrun must start equally many processes on each machine, got {_listed(values)}")
    return per_machine, world_size // per_machine


@contextlib.contextmanager
def other_launchers_hidden() -> Iterator[None]:
    """Take the variables of other launchers out of the environment, and torchrun's too unless it started several.

    Lightning looks for them in many places, and would take this process for a part of something larger, go on from
    files that it finds in the working directory, or not write at all.
    """
    hidden = [name for name in os.environ if _FOREIGN_VARIABLES.fullmatch(name)]
    if layout() == (1, 1):
        hidden += [name for name in (_TORCHRUN_MARK, *_TORCHRUN_VARIABLES) if name in os.environ]
    kept = {name: os.environ.pop(name) for name in hidden}
    try:
        yield
    finally:
        os.environ.update(kept)


def join_processes() -> None:
    """Meet the other processes, where there are any; a second call does nothing.

    The group lasts as long as the process: the next one would find this one's addresses in torchrun's store.

    Raises
    ------
    RunError
        If the others cannot be met; and see `layout`.
    """
    if layout() != (1, 1) and not dist.is_initialized():
        try:
            dist.init_process_group(_backend())
        except dist.DistError as error:
            raise RunError(f"torchrun's other processes cannot be met: {str(error).splitlines()[0]}") from error
        atexit.register(dist.destroy_process_group)  # its threads must not outlive the interpreter


def _backend() -> str:
    """Tensors on the CPU, and what is said between processes, go over gloo; tensors on GPUs over NCCL."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"


def rank() -> int:
    """Return this process's number among all, from 0."""
    return dist.get_rank() if _joined() else 0


def is_first() -> bool:
    """Return whether this process is the one that writes files and speaks; true for one alone."""
    return rank() == 0


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


def in_all(check: Callable[[], object]) -> None:
    """Call ``check`` in every process; where it raises a RunError in one, the same is raised in all."""
    failure: RunError | None = None
    try:
        check()
    except RunError as error:
        if not _joined():
            raise
        failure = error
    if _joined():
        failures: list[RunError | None] = [None] * dist.get_world_size()
        dist.all_gather_object(failures, failure)
        for found in failures:
            if found is not None:
                raise found


def _joined() -> bool:
    return layout() != (1, 1) and dist.is_initialized()


def _listed(values: dict[str, str]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
