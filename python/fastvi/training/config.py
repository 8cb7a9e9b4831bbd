"""What a training run is: its settings, and the folder that holds them with all the run has made."""

from __future__ import annotations

import dataclasses
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastvi.models import VAE
from fastvi.training.files import atomic_write


class RunError(Exception):
    """A run folder is missing, damaged, in the way, or does not fit what is asked of it."""


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


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run and the names of the files in it."""

    path: Path

    @property
    def config_file(self) -> Path:
        """Settings of the run, JSON."""
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

    def write_config(self, config: TrainingConfig) -> None:
        """Make the folder where it is missing, and write the settings into it."""
        self.checkpoint_file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.config_file) as file:
            file.write((json.dumps(dataclasses.asdict(config), indent=2) + "\n").encode())

    def read_config(self) -> TrainingConfig:
        """Read the settings.

        Raises
        ------
        RunError
            If the folder is no run, or its settings cannot be read.
        """
        try:
            settings = json.loads(self.config_file.read_text())
            for name in ("image_shape", "hidden_dims"):
                settings[name] = tuple(settings[name])
            return TrainingConfig(**settings)
        except FileNotFoundError as error:
            raise RunError(f"{self.path} is not a run folder: it has no config.json") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.config_file} is damaged or of another version ({error})") from error

    def read_checkpoint(self) -> dict[str, Any]:
        """Read the last checkpoint, tensors and plain values only.

        Raises
        ------
        RunError
            If there is none, or it cannot be read.
        """
        try:
            checkpoint: dict[str, Any] = torch.load(self.checkpoint_file, map_location="cpu", weights_only=True)
        except FileNotFoundError as error:
            raise RunError(f"{self.path} has no checkpoint yet: {self.checkpoint_file} is missing") from error
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise RunError(f"{self.checkpoint_file} is damaged ({error})") from error
        return checkpoint

    def trained_steps(self) -> int:
        """Return the number of steps taken up to the last checkpoint; 0 without a checkpoint."""
        return int(self.read_checkpoint()["global_step"]) if self.checkpoint_file.exists() else 0

    def trained_epochs(self) -> int:
        """Return the number of epochs begun, as the last checkpoint has it; 0 without a checkpoint."""
        return int(self.read_checkpoint()["epoch"]) + 1 if self.checkpoint_file.exists() else 0

    def load_model(self) -> VAE:
        """Return the model with the parameters of the last checkpoint."""
        model = self.read_config().build_model()
        prefix = "model."
        state = self.read_checkpoint()["state_dict"]
        model.load_state_dict({name.removeprefix(prefix): value for name, value in state.items()})
        return model.eval()
