"""What a training run is: its settings, and the folder that holds them with all the run has made."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastvi.data import BINARIZATIONS, Dataset
from fastvi.models import VAE
from fastvi.objectives import make_objective
from fastvi.training.checkpoint import check_fit, read_checkpoint
from fastvi.training.data_record import DataRecord, require_same_data
from fastvi.training.errors import NoCheckpointError, RunError, reason
from fastvi.training.files import write_run_file

__all__ = ["RunError", "RunFolder", "TrainingConfig", "check_memory", "check_settings", "config_bytes", "is_config"]

RUN_FORMAT = 2
"""Of the run folders that this version writes; that of 0.1.0, without this mark, is the first."""
_FORMAT_KEY, _DATA_KEY, _CHECKSUM_KEY = "fastvi_run", "data_record", "checksum"
_LARGEST_SIZE = 2**31 - 1
_LARGEST_SEED = 2**64 - 1
_LARGEST_NUMBER = torch.finfo(torch.float32).max
_LEAST = {
    "num_samples": 1,
    "backward_samples": 1,
    "warm_up_steps": 0,
    "latent_dim": 1,
    "epochs": 1,
    "batch_size": 1,
    "seed": 0,
}
_LONGEST_REASON = 200  # characters: a damaged file may hold values of any length
_BYTES_PER_PARAMETER = 16  # in float32: itself, its gradient and Adam's two moments


@dataclass(frozen=True)
class TrainingConfig:
    """Every setting that the parameters at the end of a run depend on.

    Attributes
    ----------
    data, binarization
        See `fastvi.data`.
    image_shape
        (height, width) of the data set's images.
    objective, num_samples, backward_samples, beta, free_bits, warm_up_steps
        See `fastvi.objectives`; ``warm_up_steps`` is the number of steps over which beta rises from 0.
    latent_dim, hidden_dims, activation, likelihood
        See `fastvi.models.VAE`.
    epochs, batch_size, learning_rate, seed
        Adam's schedule, and the seed of everything drawn.
    """

    data: str
    image_shape: tuple[int, int]
    objective: str
    num_samples: int
    backward_samples: int | None
    beta: float
    free_bits: float
    warm_up_steps: int
    latent_dim: int
    hidden_dims: tuple[int, ...]
    activation: str
    likelihood: str
    binarization: str
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int

    def __post_init__(self) -> None:
        """Take NumPy's numbers for Python's, and a list of sizes for a tuple; the rest is for `check_settings`."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.integer | np.floating):
                object.__setattr__(self, field.name, value.item())
            elif isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))

    @property
    def data_dim(self) -> int:
        """D, the number of pixels."""
        return self.image_shape[0] * self.image_shape[1]

    def objective_options(self) -> dict[str, Any]:
        """Return the keyword arguments for `fastvi.objectives.make_objective`."""
        options: dict[str, Any] = {"num_samples": self.num_samples}
        if self.objective == "elbo":
            options |= {"beta": self.beta, "free_bits": self.free_bits}
        if self.backward_samples is not None:
            options["backward_samples"] = self.backward_samples
        return options

    def build_model(self, data_mean: torch.Tensor | None = None) -> VAE:
        """Return the untrained model; its initial weights come from PyTorch's generator."""
        return VAE(
            self.data_dim, self.latent_dim, self.hidden_dims, self.activation, self.likelihood, data_mean=data_mean
        )

    def build_outline(self) -> VAE:
        """Return the model without values, on the device "meta": its shapes, for no memory."""
        with torch.device("meta"):
            return self.build_model()

    def lasting(self) -> dict[str, Any]:
        """Return the settings by name that a run keeps for good: all but the number of epochs."""
        settings = dataclasses.asdict(self)
        del settings["epochs"]
        return settings


def check_settings(config: TrainingConfig) -> None:
    """Check every setting.

    Raises
    ------
    ValueError, TypeError
        The message names the setting, what it is, and what was expected.
    """
    settings = dataclasses.asdict(config)
    for name, least in _LEAST.items():
        if name == "backward_samples" and settings[name] is None:
            continue
        _check_integer(name, settings[name], least, _LARGEST_SEED if name == "seed" else _LARGEST_SIZE)
    for name in ("beta", "free_bits", "learning_rate"):
        _check_number(name, settings[name])
    if config.learning_rate == 0:
        raise ValueError("learning_rate must be positive, got 0")
    for name in ("data", "objective", "activation", "likelihood", "binarization"):
        if not isinstance(settings[name], str):
            raise TypeError(f"{name} must be a name, got {settings[name]!r}")
    for name in ("image_shape", "hidden_dims"):
        if not isinstance(settings[name], tuple):
            raise TypeError(f"{name} must be a tuple of sizes, got {settings[name]!r}")
        for size in settings[name]:
            # Zero and less are for the model, which says so in its own words.
            _check_integer(name, size, -_LARGEST_SIZE, _LARGEST_SIZE)
    if len(config.image_shape) != 2:
        raise ValueError(f"image_shape must be (height, width), got {config.image_shape}")
    if config.binarization not in BINARIZATIONS:
        raise ValueError(f"binarization must be one of {', '.join(BINARIZATIONS)}, got {config.binarization!r}")
    make_objective(config.objective, **config.objective_options())
    try:
        config.build_outline()
    except RuntimeError as error:  # sizes whose product is beyond 64 bits
        raise ValueError(f"{_sizes(config)} are too large") from error


def check_memory(config: TrainingConfig, examples: int) -> None:
    """Check that the training of the model on so many examples fits into this machine's memory.

    The least that it needs: the parameters with their gradients and Adam's moments, and the output of the widest hidden
    layer for every sample of a batch.

    Raises
    ------
    ValueError
        If it does not; the message has the arguments' names in backquotes.
    """
    encoder = (config.data_dim, *config.hidden_dims, 2 * config.latent_dim)
    decoder = (config.latent_dim, *reversed(config.hidden_dims), config.data_dim)
    parameters = sum((inputs + 1) * outputs for dims in (encoder, decoder) for inputs, outputs in pairwise(dims))
    rows = config.num_samples * min(config.batch_size, examples)
    needed = parameters * _BYTES_PER_PARAMETER + 4 * rows * max(config.latent_dim, *config.hidden_dims)
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > present:
        raise ValueError(
            f"`hidden_dims`, `latent_dim`, `num_samples` and `batch_size` need at least {needed / 2**30:,.1f} GiB of "
            f"memory, this machine has {present / 2**30:,.1f} GiB"
        )


def is_config(content: bytes) -> bool:
    """Return whether ``content`` is that of some fastvi run's config.json, of whatever version, damaged values or not.

    Runs carry a mark; those of 0.1.0, which have none, are known by their exact set of keys.
    """
    try:
        settings = json.loads(content.decode())
    except (ValueError, RecursionError):
        return False
    if not isinstance(settings, dict):
        return False
    return type(settings.get(_FORMAT_KEY)) is int or settings.keys() == _setting_names()


def config_bytes(config: TrainingConfig, record: DataRecord | None) -> bytes:
    """Return the content of a run's config.json."""
    content: dict[str, Any] = {_FORMAT_KEY: RUN_FORMAT, **dataclasses.asdict(config)}
    content[_DATA_KEY] = None if record is None else record.as_dict()
    content = json.loads(json.dumps(content))
    content[_CHECKSUM_KEY] = _checksum(content)
    return (json.dumps(content, indent=2) + "\n").encode()


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

    def load_model(self) -> VAE:
        """Return the model with the parameters of the last checkpoint."""
        config = self.read_config()
        state = self.read_checkpoint(config)["state_dict"]
        model = config.build_model()
        prefix = "model."
        model.load_state_dict({name.removeprefix(prefix): value for name, value in state.items()})
        return model.eval()

    def _read(self) -> tuple[TrainingConfig, DataRecord | None]:
        try:
            content = self.config_file.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunError(f"{self.path} is not a run folder: it has no config.json") from error
        except OSError as error:
            raise RunError(f"{self.config_file} cannot be read: {reason(error)}") from error
        try:
            return _parse(content)
        except (ValueError, TypeError, RecursionError) as error:
            words = str(error).splitlines()[0][:_LONGEST_REASON]
            raise RunError(
                f"{self.config_file} is damaged or of another version ({words}): "
                "put a copy of it back, or start a new run in another folder"
            ) from error


def _parse(content: bytes) -> tuple[TrainingConfig, DataRecord | None]:
    """Return the settings and the record; what is wrong is a ValueError, TypeError or RecursionError."""
    settings = json.loads(content.decode())
    if not isinstance(settings, dict):
        raise ValueError(f"it must hold settings by name, got a {type(settings).__name__}")
    record = None
    if settings.keys() != _setting_names():  # those of 0.1.0 are the settings alone
        number = settings.pop(_FORMAT_KEY, None)
        if type(number) is int and number > RUN_FORMAT:
            raise ValueError(f"a newer fastvi wrote it, in format {number}; this one reads up to {RUN_FORMAT}")
        missing = sorted(_setting_names() - settings.keys()) or sorted({_DATA_KEY, _CHECKSUM_KEY} - settings.keys())
        unknown = sorted(settings.keys() - _setting_names() - {_DATA_KEY, _CHECKSUM_KEY})
        if number != RUN_FORMAT or missing or unknown:
            wrong = [f"{', '.join(missing)} missing"] if missing else []
            wrong += [f"{', '.join(map(repr, unknown))} unknown"] if unknown else []
            raise ValueError("; ".join(wrong) or f"{_FORMAT_KEY} must be {RUN_FORMAT}, got {number!r}")
        checksum = settings.pop(_CHECKSUM_KEY)
        changed = checksum != _checksum({_FORMAT_KEY: number, **settings})
        kept_record = settings.pop(_DATA_KEY)
        record = None if kept_record is None else DataRecord.from_dict(kept_record)
    else:
        changed = False
    for name in ("image_shape", "hidden_dims"):
        if isinstance(settings[name], list):
            settings[name] = tuple(settings[name])
    config = TrainingConfig(**settings)
    check_settings(config)
    if changed:
        raise ValueError("its checksum says that it was changed after fastvi wrote it")
    return config, record


def _sizes(config: TrainingConfig) -> str:
    return f"image_shape {config.image_shape}, hidden_dims {config.hidden_dims} and latent_dim {config.latent_dim}"


def _setting_names() -> set[str]:
    return {field.name for field in dataclasses.fields(TrainingConfig)}


def _checksum(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def _check_integer(name: str, value: Any, least: int, largest: int) -> None:
    if type(value) is not int:
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if not least <= value <= largest:
        raise ValueError(f"{name} must be from {least} to {largest}, got {value}")


def _check_number(name: str, value: Any) -> None:
    if type(value) not in (int, float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value <= _LARGEST_NUMBER:  # false for NaN too
        raise ValueError(f"{name} must be a finite number of float32 and not negative, got {value}")
