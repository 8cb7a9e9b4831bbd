"""``fastvi train`` with every step's bound on record, several runs in a row; torchrun starts it as a script.

Its argument is a JSON list of runs, each a list of arguments. ``KILL="RANK:STEP"`` in the environment kills that
process as it begins that step.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from fastvi.cli import app
from fastvi.training.module import VariationalModule


def train(arguments: list[str], kill: str | None = None) -> tuple[int, list[float]]:
    """Train as the command line would; return the exit code and the mean bound of each step, over all processes."""
    bounds: list[float] = []
    step = VariationalModule.training_step

    def recording_step(self, batch, batch_index):
        if kill == f"{os.environ.get('RANK')}:{batch.step}":
            os.kill(os.getpid(), signal.SIGKILL)
        step(self, batch, batch_index)
        bounds.append(float(self.latest_value))

    VariationalModule.training_step = recording_step
    try:
        app(["train", *arguments])
    except SystemExit as ended:
        return int(ended.code or 0), bounds
    finally:
        VariationalModule.training_step = step
    return 0, bounds


if __name__ == "__main__":
    records = [train(arguments, os.environ.get("KILL")) for arguments in json.loads(sys.argv[1])]
    Path(f"records-{os.environ['RANK']}.json").write_text(json.dumps(records))
