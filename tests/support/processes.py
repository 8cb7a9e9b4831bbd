"""Other processes for the tests: what they print, and a failure that shows what they wrote."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence


def printed_by(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """The standard output of a command, which has to succeed within five minutes."""
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout
