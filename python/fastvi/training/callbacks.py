"""What surrounds the steps of a run: checkpoints, and what the terminal shows."""

from __future__ import annotations

import math
import signal
import threading
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from fastvi.training._lightning import Callback, Checkpoint, LightningModule, TorchCheckpointIO, Trainer
from fastvi.training.checkpoint import checkpoint_bytes, read_checkpoint
from fastvi.training.errors import RunError
from fastvi.training.files import write_run_file
from fastvi.training.module import VariationalModule
from fastvi.training.processes import from_first

NO_FOLDER = Path("/dev/null/no-run-folder")
"""Stands for the folder of a run that has none; no file can be below it."""
_SECONDS_BETWEEN_REFRESHES = 0.2
_SECONDS_BETWEEN_LINES = 10.0


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint files that are whole at every instant, and are loaded without running any code found in them.

    A file that cannot be written is told by `raise_failure`: the processes have still to meet after the first wrote.
    """

    def __init__(self) -> None:
        super().__init__()
        self._failure: RunError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write ``checkpoint``; a crash at any time leaves the file before it or the new one."""
        try:
            write_run_file(Path(path), checkpoint_bytes(checkpoint))
        except RunError as error:
            self._failure = error

    def raise_failure(self) -> None:
        """Raise why the last checkpoint could not be written, where it could not."""
        if self._failure is not None:
            raise self._failure

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint made of tensors and plain values, whatever ``weights_only`` asks, for all processes."""
        checkpoint: dict[str, Any] = from_first(lambda: read_checkpoint(Path(path)))
        return checkpoint


class MemoryCheckpointIO(AtomicCheckpointIO):
    """Keeps the checkpoints of a run without a folder, by the names of their files; others' are written.

    Attributes
    ----------
    kept
        Contents of the files.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, bytes] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Keep ``checkpoint`` where it belongs to the run, of which no folder is named."""
        if Path(path).parent.parent == NO_FOLDER:
            self.kept[Path(path).name] = checkpoint_bytes(checkpoint)
        else:
            super().save_checkpoint(checkpoint, path, storage_options)


class LastCheckpoint(Checkpoint):
    """Keeps the last checkpoint: at the end of each epoch, and every so many steps when asked.

    Being a `Checkpoint`, it comes after everything else that happens at the end of an epoch.

    Parameters
    ----------
    path, best_path
        The files; the second is written where the run has patience.
    io
        What writes it.
    saved_step
        Steps before the checkpoint that is there already; 0 without one.
    every_steps
        Also save every so many steps.
    """

    def __init__(
        self,
        path: Path,
        best_path: Path,
        io: AtomicCheckpointIO,
        saved_step: int = 0,
        every_steps: int | None = None,
    ) -> None:
        self.path = path
        self.best_path = best_path
        self.saved_step = saved_step
        self.every_steps = every_steps
        self._io = io

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every ``every_steps`` steps, but for the end of an epoch, which is saved below."""
        if self.every_steps and trainer.global_step % self.every_steps == 0 and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; the best epoch first, so that the last checkpoint never speaks of one that is not there."""
        assert isinstance(pl_module, VariationalModule)
        if pl_module.is_best and pl_module.config.patience:
            self._write(trainer, self.best_path)
        is_last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        if is_last or not isinstance(self._io, MemoryCheckpointIO):
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        self._write(trainer, self.path)
        self.saved_step = trainer.global_step

    def _write(self, trainer: Trainer, path: Path) -> None:
        trainer.save_checkpoint(path)
        from_first(self._io.raise_failure)


class Validation(Callback):
    """Validates at the end of each epoch, before other callbacks look at the result: it is the first of them."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate."""
        assert isinstance(pl_module, VariationalModule)
        pl_module.validate_epoch()


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


class ProgressBar(Callback):
    """One bar for the whole training: epoch, bound or loss of the latest batch, time left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[value]},"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            auto_refresh=False,  # a second thread would take time from two busy cores
        )
        self._next_refresh = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar."""
        batches = trainer.num_training_batches
        total = int(batches) * (trainer.max_epochs or 0) if math.isfinite(batches) else None
        self._task = self._progress.add_task("", total=total, completed=trainer.global_step, epoch="", value="")
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
            value=_value_words(pl_module, float(pl_module.latest_value), digits=2)
            + _validation_words(pl_module, digits=2),
            refresh=True,
        )


class EpochLines(Callback):
    """Lines for terminals and logs that take no bar: of the first and the last epoch, and of some between.

    Those are the ones that complete a tenth of the training, and such as come long enough after the last line.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_time = -math.inf
        self._tenths = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line, or leave it out."""
        assert isinstance(pl_module, VariationalModule)
        assert trainer.max_epochs is not None
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs
        tenths = 10 * epoch // epochs
        if tenths == self._tenths and time.monotonic() < self._next_time and not pl_module.is_over:
            return
        self._next_time = time.monotonic() + _SECONDS_BETWEEN_LINES
        self._tenths = tenths
        value = _value_words(pl_module, pl_module.epoch_value, digits=3)
        value += _validation_words(pl_module, digits=3)
        self._console.print(f"epoch {epoch}/{epochs}, step {trainer.global_step}, {value}", highlight=False)


def _value_words(module: VariationalModule, value: float, digits: int) -> str:
    """Return, for example, "bound -90.123 nats"."""
    objective = module.objective
    return f"{objective.value_name} {value:.{digits}f}{' ' if objective.unit else ''}{objective.unit}"


def _validation_words(module: VariationalModule, digits: int) -> str:
    """Return, for example, ", validation bound -90.123 nats"; nothing where there was no validation."""
    if module.validation_value is None:
        return ""
    return f", validation {_value_words(module, module.validation_value, digits)}"
