"""How to go on with a run that was interrupted: a command that works when it is pasted into the same shell."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from fastvi.training.processes import layout

_RENDEZVOUS_PORT = 29400


def resume_command(run: Path, options: Sequence[str]) -> str:
    """Return the command that goes on with ``run``.

    Parameters
    ----------
    run
        Its folder, as the user named it.
    options
        The options to give again, each an argument of its own.
    """
    path = f"./{run}" if str(run).startswith("-") else str(run)
    return shlex.join([*_program(), "train", "--resume", path, *options])


def _program() -> list[str]:
    """Return how this program was started: by its name, by its path, as a module, from a script, or by torchrun."""
    processes, machines = layout()
    started = Path(sys.argv[0])
    script = started.suffix == ".py" and started.name != "__main__.py"  # of a user who registers classes of his own
    if (processes, machines) != (1, 1):
        meeting = ["--standalone"]
        if machines > 1:
            endpoint = f"{os.environ['MASTER_ADDR']}:{_RENDEZVOUS_PORT}"
            meeting = ["--nnodes", str(machines), "--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint]
        module = [str(started)] if script else ["-m", "fastvi"]
        return ["torchrun", *meeting, "--nproc-per-node", str(processes), *module]
    if script:
        return ["python", str(started)]
    if started.name == "__main__.py" and started.parent.name == "fastvi":
        return ["python", "-m", "fastvi"]
    if started.name == "fastvi" and shutil.which("fastvi") is None:
        return [str(started)]
    return ["fastvi"]
