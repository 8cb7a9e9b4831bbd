"""Where the figures of each epoch go: a CSV file, and TensorBoard's events where that is installed."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastvi.training._lightning import Logger
from fastvi.training.config import RunFolder
from fastvi.training.errors import RunError, reason
from fastvi.training.extra_loggers import extra_loggers, usual_loggers
from fastvi.training.files import write_run_file
from fastvi.training.rows_file import rows_bytes


class RunLogger(Logger):
    """A Lightning logger of one file or folder of a run, which holds one version and leaves the settings alone."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def name(self) -> str:
        """Name of the file or folder."""
        return self.path.name

    @property
    def version(self) -> str:
        """Empty: a run folder holds one version."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_args: Any, **_options: Any) -> None:
        """Do nothing: the settings are in the run's config.json."""


class MetricsFile(RunLogger):
    """One CSV file that is whole at every instant and goes on where a checkpoint left off.

    Lightning's own CSVLogger deletes the file of the run it resumes.

    Parameters
    ----------
    path
        The file.
    first_step
        Rows of later steps than this are dropped: they came after the checkpoint, and will come again.

    Raises
    ------
    RunError
        If there are rows to go on from that cannot be read.
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        super().__init__(path)
        self.rows: list[dict[str, Any]] = []
        if not first_step:
            return
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file, strict=True))
            if any(None in row or None in row.values() for row in rows):
                raise ValueError("a row has more or fewer values than the header")
            self.rows = [row for row in rows if int(row["step"]) <= first_step]
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunError(f"{path} cannot be read: {reason(error)}") from error
        except (ValueError, KeyError, csv.Error) as error:
            raise RunError(
                f"{path} is damaged ({error}): mend it, or move it away to go on without its rows"
            ) from error

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row and write the file.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        row = {"step": step, **metrics}
        if self.rows and row.keys() != self.rows[0].keys():
            raise RunError(f"{self.path} has other columns than {', '.join(row)}: move it away to go on")
        self.rows.append(row)
        write_run_file(self.path, rows_bytes(self.rows))


class DivergenceFile(MetricsFile):
    """A CSV file of the divergence of each latent dimension, in nats, a row for each validation."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Do nothing: these are in `MetricsFile`."""

    def log_divergence(self, epoch: int, divergence: Sequence[float], step: int) -> None:
        """Add a row and write the file.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        columns = {f"divergence_{dimension}": nats for dimension, nats in enumerate(divergence)}
        super().log_metrics({"epoch": epoch, **columns}, step)


class TensorBoardEvents(RunLogger):
    """Events for TensorBoard.

    Lightning's own logger writes them elsewhere where the path has a ``$`` or a ``~`` in it.

    Parameters
    ----------
    path
        The folder.
    first_step
        Later steps than this are dropped, as in `MetricsFile`.
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        super().__init__(path)
        try:
            self._writer = SummaryWriter(str(path), purge_step=first_step + 1 if first_step else None)
        except OSError as error:
            raise RunError(f"{path} cannot be written: {reason(error)}") from error

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a point to each curve.

        Raises
        ------
        RunError
            If the events cannot be written.
        """
        try:
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {reason(error)}") from error

    def finalize(self, status: str) -> None:
        """Close the file; what could not be written has been told by `log_metrics`."""
        try:
            self._writer.close()
        except OSError as error:
            if status == "success":
                raise RunError(f"{self.path} cannot be written: {reason(error)}") from error


def make_loggers(folder: RunFolder, checkpoint_step: int, names: Sequence[str] | None = None) -> list[Logger]:
    """Return the loggers of a run that goes on from step ``checkpoint_step``, by `logger_names`."""
    loggers: list[Logger] = [
        MetricsFile(folder.metrics_file, checkpoint_step),
        DivergenceFile(folder.divergence_file, checkpoint_step),
    ]
    if "tensorboard" in (usual_loggers() if names is None else names):
        loggers.append(TensorBoardEvents(folder.path / "tensorboard", checkpoint_step))
    return [*loggers, *extra_loggers(names or (), folder)]
