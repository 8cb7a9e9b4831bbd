"""One bar for warm-up and one for the draws, on the error stream."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_SECONDS_BETWEEN_REFRESHES = 0.2


class SamplingProgress:
    """Bars that ask chains for numbers a few times a second, and never between.

    Parameters
    ----------
    is_shown
        None for whether the error stream is a terminal.
    """

    def __init__(self, is_shown: bool | None) -> None:
        self.is_shown = sys.stderr.isatty() if is_shown is None else is_shown
        self._progress = _bars() if self.is_shown else None
        self._task: TaskID | None = None
        self._next_refresh = 0.0

    def __enter__(self) -> SamplingProgress:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def begin(self, phase: str, total: int) -> None:
        """Show the bar of the next phase."""
        if self._progress is not None:
            self._task = self._progress.add_task(phase, total=total, value="")
            self._next_refresh = 0.0

    def advance(self, done: int, acceptance: Tensor, num_divergent: Tensor, is_last: bool) -> None:
        """Show how many steps are done, the latest acceptance probabilities, and divergent transitions so far."""
        if self._progress is None or self._task is None or (time.monotonic() < self._next_refresh and not is_last):
            return
        value = f"acceptance {float(acceptance.mean()):.2f}, {int(num_divergent.sum())} divergent,"
        self._progress.update(self._task, completed=done, value=value, refresh=True)
        self._next_refresh = time.monotonic() + _SECONDS_BETWEEN_REFRESHES


def _bars() -> Progress:
    # Imported where something is shown: to import it takes longer than a short run.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[value]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=Console(stderr=True, highlight=False),
        auto_refresh=False,  # a second thread would take time from busy cores
    )
