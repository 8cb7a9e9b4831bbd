"""The folder of a training run, which holds its settings with all that the run has made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fastvi._registry import UnregisteredError
from fastvi.data import Dataset
from fastvi.training.checkpoint import BEST_KEY, check_fit, model_state, read_checkpoint
from fastvi.training.config_file import config_bytes, is_config, parse_config
from fastvi.training.data_record import DataRecord, require_same_data
from fastvi.training.errors import NoCheckpointError, RunError, reason
from fastvi.training.files import write_run_file
from fastvi.training.rows_file import read_rows, rows_bytes
from fastvi.training.settings import TrainingConfig, check_memory, check_settings

__all__ = ["RunError", "RunFolder", "TrainingConfig", "check_memory", "check_settings", "config_bytes", "is_config"]

_LONGEST_REASON = 200  # characters: a damaged file may hold values of any length


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run and the names of the files in it."""

    path: Path

    @property
    def config_file(self) -> Path:
        """Settings of the run, and what it remembers of its data, JSON."""
        return self.path / "config.json"

    @property
    def checkpoint_file(self) -> Path:
        """The last checkpoint: parameters, optimiser and loop state."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def best_checkpoint_file(self) -> Path:
        """The checkpoint of the best epoch, of a run that has patience."""
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def divergence_file(self) -> Path:
        """Divergence of each latent dimension, one row for each validation, CSV."""
        return self.path / "divergence.csv"

    @property
    def metrics_file(self) -> Path:
        """One row for each epoch, CSV."""
        return self.path / "metrics.csv"

    @property
    def evaluation_file(self) -> Path:
        """Result of the last evaluation, JSON."""
        return self.path / "evaluation.json"

    def write_config(self, config: TrainingConfig, record: DataRecord | None = None) -> None:
        """Make the folder where it is missing, and write the settings and the record of the data into it.

        Raises
        ------
        ValueError, TypeError
            For a setting that cannot be, see `check_settings`.
        RunError
            If they cannot be written.
        """
        check_settings(config)  # what is written can be read
        self.make()
        write_run_file(self.config_file, config_bytes(config, record))

    def make(self) -> None:
        """Make the folder and the one of its checkpoints where they are missing.

        Raises
        ------
        RunError
            If they cannot be made.
        """
        try:
            self.checkpoint_file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"the run folder {self.path} cannot be made: {reason(error)}") from error

    def read_config(self) -> TrainingConfig:
        """Read the settings.

        Raises
        ------
        RunError
            If the folder is not a run, or its settings cannot be read, or are not as they were written.
        """
        return self._read()[0]

    def read_record(self) -> DataRecord | None:
        """Read what the run remembers of its data; None for a run of 0.1.0 and one without a record.

        Raises
        ------
        RunError
            See `read_config`.
        """
        return self._read()[1]

    def check_data(self, data: Dataset) -> bool:
        """Check that ``data`` are those of the run; return False where only the shape of the images could be compared.

        Raises
        ------
        RunError
            If they differ, which the message says how; and see `read_config`.
        """
        config, record = self._read()
        require_same_data(record, config.image_shape, data, self.path)
        return record is not None

    def read_checkpoint(self, config: TrainingConfig | None = None) -> dict[str, Any]:
        """Read the last checkpoint, tensors and plain values only.

        Parameters
        ----------
        config
            The settings that it has to fit; None: those in the folder.

        Raises
        ------
        RunError
            If there is none, it is not whole, or it is of other settings.
        """
        checkpoint = read_checkpoint(self.checkpoint_file)
        config = config or self.read_config()
        check_fit(checkpoint, config.lasting(), config.build_outline(), self.checkpoint_file)
        return checkpoint

    def trained_steps(self, config: TrainingConfig | None = None) -> int:
        """Return the number of steps taken up to the last checkpoint; 0 without a checkpoint."""
        try:
            return int(self.read_checkpoint(config)["global_step"])
        except NoCheckpointError:
            return 0

    def trained_epochs(self) -> int:
        """Return the number of epochs begun, as the last checkpoint has it; 0 without a checkpoint."""
        try:
            return int(self.read_checkpoint()["epoch"]) + 1
        except NoCheckpointError:
            return 0

    def load_model(self, config: TrainingConfig | None = None) -> nn.Module:
        """Return the model of the run: with the parameters of the last checkpoint, or of its best epoch's.

        ``config`` is what `read_config` returned, with a module of the user's own where the run has one.
        """
        config = config or self.read_config()
        state = self.read_model_state(config)
        model = config.build_model()
        model.load_state_dict(state)
        return model.eval()

    def read_model_state(self, config: TrainingConfig) -> dict[str, Any]:
        """Return the parameters of the run's model: of the best epoch where the run has patience, else the last.

        Raises
        ------
        RunError
            See `read_checkpoint`.
        """
        checkpoint = self.read_checkpoint(config)
        if config.patience and checkpoint[BEST_KEY]["epoch"]:
            checkpoint = read_checkpoint(self.best_checkpoint_file)
            check_fit(checkpoint, config.lasting(), config.build_outline(), self.best_checkpoint_file)
        return model_state(checkpoint)

    def read_history(self) -> list[dict[str, float]]:
        """Return the figures of each epoch; none where there is no file of them.

        Raises
        ------
        RunError
            If the file cannot be read or is damaged.
        """
        return read_rows(self.metrics_file)

    def write_history(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write the figures of each epoch, where there are some.

        Raises
        ------
        RunError
            If they cannot be written.
        """
        if history:
            write_run_file(self.metrics_file, rows_bytes(history))

    def _read(self) -> tuple[TrainingConfig, DataRecord | None]:
        try:
            content = self.config_file.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunError(f"{self.path} is not a run folder: it has no config.json") from error
        except OSError as error:
            raise RunError(f"{self.config_file} cannot be read: {reason(error)}") from error
        try:
            return parse_config(content, self.path)
        except UnregisteredError as error:
            raise RunError(
                f"{self.config_file}: {error}; a run of a class of your own is read by the program that registers it"
            ) from error
        except (ValueError, TypeError, RecursionError) as error:
            words = str(error).splitlines()[0][:_LONGEST_REASON]
            raise RunError(
                f"{self.config_file} is damaged or of another version ({words}): "
                "put a copy of it back, or start a new run in another folder"
            ) from error
