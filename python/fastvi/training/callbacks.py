"""What surrounds the steps of a run: checkpoints, the metrics file, and what the terminal shows."""

from __future__ import annotations

import csv
import io
import signal
import threading
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from fastvi.training.files import atomic_write
from fastvi.training.module import VariationalModule
from fastvi.training.processes import from_first

_SECONDS_BETWEEN_REFRESHES = 0.2


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint files that are whole at every instant, and are loaded without running any code found in them."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write ``checkpoint``; a crash at any time leaves the file before it or the new one."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint made of tensors and plain values, whatever ``weights_only`` asks, for all processes."""
        checkpoint: dict[str, Any] = from_first(lambda: torch.load(path, map_location=map_location, weights_only=True))
        return checkpoint


class LastCheckpoint(Checkpoint):
    """Keeps the last checkpoint: at the end of each epoch, and every so many steps when asked.

    Being a `Checkpoint`, it comes after everything else that happens at the end of an epoch.
    """

    def __init__(self, path: Path, every_steps: int | None = None) -> None:
        self.path = path
        self.every_steps = every_steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every ``every_steps`` steps, but for the end of an epoch, which is saved below."""
        if self.every_steps and trainer.global_step % self.every_steps == 0 and not trainer.is_last_batch:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        trainer.save_checkpoint(self.path)


class FormerSigterm(Callback):
    """Puts back what SIGTERM did before Lightning took it: by default, the process ends at once.

    Lightning's handler broadcasts to the other processes, wherever they are; one that is in another exchange, or does
    not come back, makes all of them wait. A launcher that ends a run sends this signal, and the last checkpoint is
    whole at every instant.
    """

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put it back, where it can be: in the main thread, and unless it was set outside Python."""
        if self._handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handler)


class MetricsFile(Logger):
    """Lightning logger of one CSV file that is whole at every instant and goes on where a checkpoint left off.

    Lightning's own CSVLogger deletes the file of the run it resumes.

    Parameters
    ----------
    path
        The file.
    first_step
        Rows of later steps than this are dropped: they came after the checkpoint, and will come again.
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        super().__init__()
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if first_step and path.exists():
            with path.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= first_step]

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name

    @property
    def version(self) -> str:
        """Empty: a run folder holds one version."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row and write the file."""
        self.rows.append({"step": step, **metrics})
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        with atomic_write(self.path) as file:
            file.write(text.getvalue().encode())

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_args: Any, **_options: Any) -> None:
        """Do nothing: the settings are in the run's config.json."""


class ProgressBar(Callback):
    """One bar for the whole training: epoch, bound of the latest batch, time left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("bound {task.fields[bound]} nats,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            auto_refresh=False,  # a second thread would take time from two busy cores
        )
        self._next_refresh = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar."""
        total = int(trainer.num_training_batches) * (trainer.max_epochs or 0)
        self._task = self._progress.add_task("", total=total, completed=trainer.global_step, epoch="", bound="?")
        self._progress.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Refresh the bar a few times a second."""
        if time.monotonic() >= self._next_refresh:
            self._refresh(trainer, pl_module)
            self._next_refresh = time.monotonic() + _SECONDS_BETWEEN_REFRESHES

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the full bar on the screen."""
        self._refresh(trainer, pl_module)
        self._progress.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._progress.stop()

    def _refresh(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, VariationalModule)
        epoch = min(trainer.current_epoch + 1, trainer.max_epochs or 0)
        self._progress.update(
            self._task,
            completed=trainer.global_step,
            epoch=f"{epoch}/{trainer.max_epochs}",
            bound=f"{float(pl_module.latest_bound):.2f}",
            refresh=True,
        )


class EpochLines(Callback):
    """One line for each epoch, for terminals and logs that take no bar."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line."""
        assert isinstance(pl_module, VariationalModule)
        self._console.print(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, step {trainer.global_step}, "
            f"bound {pl_module.epoch_bound:.3f} nats",
            highlight=False,
        )
